"""Open slides: a bounded pool of them, none closed while somebody reads from it.

Of a slide in a bucket a copy is fetched first, in a thread of its own: the threads that
decode are for slides that are here. An open slide holds its copy, in a cache that the
machine's own runs share, so of those that nobody reads from only a few stay open.
"""

import contextlib
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.cache import object_version
from digipath_ray.storage.files import is_url
from digipath_ray.viewer.tiles.pyramid import HANDLE_BYTES, Picture

LOOK_S = 30.0
"""How long a slide in a bucket counts as unchanged."""
FETCHES = 4
"""Slides fetched out of buckets at once."""
WAIT_S = 2.0
"""How long a request waits for a slide that is fetched; then it shall come again."""
LEFT_S = 60.0
"""What nobody has asked for that long is not fetched, or waited for, any further."""


class Fetching(RuntimeError):  # noqa: N818 - says what is, not "Error"
    """The slide is on its way from its bucket."""


@dataclass(eq=False)
class _Held:
    """A slide in the pool.

    Attributes:
        version: of its file.
        is_copy: of a slide in a bucket.
        opening: held while it is opened, so that this happens once.
        fetch: opens it, once it is here.
        until: when nobody waits for that any more.
        asked: when somebody asked last.
        users: threads that read from it, or fetch it.
        dropped: no longer in the pool; the last user closes it.
    """

    version: str
    is_copy: bool
    opening: threading.Lock = field(default_factory=threading.Lock)
    fetch: Future[None] | None = None
    until: float = 0.0
    asked: float = 0.0
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

    def __init__(
        self,
        *,
        most: int = 16,
        most_bytes: int = 1 << 30,
        most_copies: int = 2,
        wait_s: float = WAIT_S,
    ) -> None:
        """An empty pool.

        Args:
            most: slides that stay open.
            most_bytes: decoded pixels that they may keep.
            most_copies: slides of buckets that stay open while nobody reads from them.
            wait_s: how long somebody waits for one that is fetched.
        """
        self.most, self.most_bytes, self.most_copies = most, most_bytes, most_copies
        self._wait_s, self._is_closed = wait_s, False
        self._fetches = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
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
        state = f"{row.path} {row.mpp} {_state_of(row.path)}"
        version = hashlib.sha256(state.encode()).hexdigest()[:16]
        if is_url(row.path):
            self._versions[row.path] = (now, version)
        return version

    @contextlib.contextmanager
    def use(self, row: SlideRow) -> Iterator[Picture]:
        """The slide, open; it is not closed before this block is left.

        Raises:
            Fetching: not here yet.
            SlideError: missing, in no format that can be read, or damaged.
            OSError: its bucket does not answer.
        """
        held = self._take(row)
        try:
            yield self._fetched(held, row) if held.is_copy else _opened(held, row)
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
                held = _Held(version=version, is_copy=is_url(row.path))
                self._held[row.slide_id] = held
                unused = [gone] if gone is not None and _retire(gone) else []
            else:
                unused = []
            self._held.move_to_end(row.slide_id)
            held.users, held.asked = held.users + 1, time.monotonic()
            unused += self._evict(self.most_copies)
        for gone in unused:
            gone.close()
        return held

    def _evict(self, most_copies: int) -> list[_Held]:
        """Take out what is too much: the least used that nobody reads from."""
        gone = []
        copies = sum(held.is_copy and not held.users for held in self._held.values())
        for slide_id, held in list(self._held.items()):
            total = sum(h.nbytes for h in self._held.values())
            is_full = len(self._held) > self.most or total > self.most_bytes
            too_many = held.is_copy and copies > most_copies
            if not held.users and (is_full or too_many):
                gone.append(self._held.pop(slide_id))
                copies -= held.is_copy
        return gone

    def _fetched(self, held: _Held, row: SlideRow) -> Picture:
        """The slide of a bucket, if it is here by now."""
        with held.opening:
            if held.fetch is None:
                with self._lock:
                    held.users += 1  # until it is fetched
                held.until = time.monotonic() + self._wait_s
                held.fetch = self._fetches.submit(self._fetch, held, row)
        try:
            held.fetch.result(max(0.0, held.until - time.monotonic()))
        except TimeoutError as e:
            raise Fetching(f"{row.slide_id} is being fetched out of its bucket") from e
        assert held.picture is not None
        return held.picture

    def _fetch(self, held: _Held, row: SlideRow) -> None:
        def wait() -> None:
            if self._is_closed or time.monotonic() - held.asked > LEFT_S:
                raise SlideError(f"{row.slide_id}: nobody waits for it", "ask again")
            with self._lock:
                unused = self._evict(0)  # the cache may need their room
            for other in unused:
                other.close()

        try:
            held.picture = Picture(
                open_slide(
                    row.path, mpp=row.mpp, cache_bytes=HANDLE_BYTES, on_progress=wait
                )
            )
        finally:
            if held.picture is None:
                self._drop(row.slide_id, held)
            self._give_back(held)

    def _drop(self, slide_id: str, held: _Held) -> None:
        with self._lock:
            if self._held.get(slide_id) is held:
                del self._held[slide_id]
            held.dropped = True

    def _give_back(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            unused = self._evict(self.most_copies)
            if held.dropped and held.users == 0:
                unused.append(held)
        for gone in unused:
            gone.close()

    def close(self) -> None:
        """Close all that nobody reads from; the others are closed by who does."""
        self._is_closed = True
        self._fetches.shutdown(wait=False, cancel_futures=True)
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
