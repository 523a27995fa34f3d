"""Open slides: a bounded pool of them, none closed while somebody reads from it."""

import contextlib
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.cache import object_version
from digipath_ray.manifest import SlideRow
from digipath_ray.slide import SlideError, open_slide
from digipath_ray.storage import is_url
from digipath_ray.viewer.pyramid import HANDLE_BYTES, Picture

LOOK_S = 30.0
"""How long a slide in a bucket counts as unchanged."""


@dataclass(eq=False)
class _Held:
    """A slide in the pool.

    Attributes:
        version: of its file.
        opening: held while it is opened, so that this happens once.
        users: threads that read from it.
        dropped: no longer in the pool; the last user closes it.
    """

    version: str
    opening: threading.Lock
    picture: Picture | None = None
    users: int = 0
    dropped: bool = False

    @property
    def nbytes(self) -> int:
        return HANDLE_BYTES if self.picture is None else self.picture.nbytes

    def close(self) -> None:
        if self.picture is not None:
            self.picture.slide.close()


class SlidePool:
    """Open slides: at most so many, the least used closed first, none while in use."""

    def __init__(self, *, most: int = 16, most_bytes: int = 1 << 30) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._versions: dict[str, tuple[float, str]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def version(self, row: SlideRow) -> str:
        """What tells a slide's file from another in its place.

        Raises:
            SlideError: it is gone.
            OSError: its bucket does not answer.
        """
        now = time.monotonic()
        known = self._versions.get(row.path)
        if known is not None and is_url(row.path) and now - known[0] < LOOK_S:
            return known[1]
        said = f"{row.path} {row.mpp} {_state_of(row.path)}"
        version = hashlib.sha256(said.encode()).hexdigest()[:16]
        if is_url(row.path):
            self._versions[row.path] = (now, version)
        return version

    @contextlib.contextmanager
    def use(self, row: SlideRow) -> Iterator[Picture]:
        """The slide, open; it is not closed before this block is left.

        Raises:
            SlideError: missing, in no format that can be read, or damaged.
            OSError: its bucket does not answer.
        """
        held = self._take(row)
        try:
            yield _opened(held, row)
        except SlideError:
            # OpenSlide refuses every read after the first that failed: open it anew.
            self._drop(row.slide_id, held)
            raise
        finally:
            self._give_back(held)

    def _take(self, row: SlideRow) -> _Held:
        version = self.version(row)
        with self._lock:
            held = self._held.get(row.slide_id)
            old = held is not None and held.version != version
            if held is None or old:
                gone = self._held.pop(row.slide_id, None)
                held = _Held(version=version, opening=threading.Lock())
                self._held[row.slide_id] = held
                unused = [gone] if gone is not None and _retire(gone) else []
            else:
                unused = []
            self._held.move_to_end(row.slide_id)
            held.users += 1
            unused += self._evict()
        for gone in unused:
            gone.close()
        return held

    def _evict(self) -> list[_Held]:
        """Take out what is too much: the least used that nobody reads from."""
        gone = []
        for slide_id, held in list(self._held.items()):
            total = sum(h.nbytes for h in self._held.values())
            if len(self._held) <= self.most and total <= self.most_bytes:
                break
            if not held.users:
                gone.append(self._held.pop(slide_id))
        return gone

    def _drop(self, slide_id: str, held: _Held) -> None:
        with self._lock:
            if self._held.get(slide_id) is held:
                del self._held[slide_id]
            held.dropped = True

    def _give_back(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            last = held.dropped and held.users == 0
        if last:
            held.close()

    def close(self) -> None:
        """Close all that nobody reads from; the others are closed by who does."""
        with self._lock:
            unused = [held for held in self._held.values() if _retire(held)]
            self._held.clear()
        for held in unused:
            held.close()


def _retire(held: _Held) -> bool:
    """Mark as taken out of the pool; whether nobody reads from it."""
    held.dropped = True
    return held.users == 0


def _opened(held: _Held, row: SlideRow) -> Picture:
    with held.opening:
        if held.picture is None:
            slide = open_slide(row.path, mpp=row.mpp, cache_bytes=HANDLE_BYTES)
            held.picture = Picture(slide)
        return held.picture


def _state_of(path: str) -> str:
    if is_url(path):
        try:
            return object_version(path)
        except FileNotFoundError as e:
            raise SlideError(str(e), "check the path in the manifest") from e
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as e:  # a NUL in the path is a ValueError
        raise SlideError(
            f"{Path(path).name}: the slide's file is not there",
            "it was moved or its disk is not mounted: put it back, or run again",
        ) from e
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"
