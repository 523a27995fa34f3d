"""Bounded pool of open slides; none is closed while in use.

A slide in a bucket is first downloaded in a separate thread, so that decoding threads
never wait for the network. An open slide locks its copy in the node's cache, which runs
share, so only a few unused ones stay open.
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
from digipath_ray.run.identity import check_same
from digipath_ray.run.record import SlideRecord
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.cache import object_version
from digipath_ray.storage.files import is_url
from digipath_ray.viewer.tiles.pyramid import HANDLE_BYTES, TiledSlide

LOOK_S = 30.0
"""Seconds for which a slide in a bucket is assumed unchanged."""
FETCHES = 4
"""Concurrent downloads of slides."""
WAIT_S = 2.0
"""Seconds that a request waits for a download before it must retry."""
LEFT_S = 60.0
"""Seconds without requests after which a download is abandoned."""


class Fetching(RuntimeError):  # noqa: N818 - named after the condition, not "Error"
    """The slide is being downloaded from its bucket."""


@dataclass(eq=False)
class _Held:
    """A slide in the pool.

    Attributes:
        version: version of its file.
        is_copy: whether it is a copy of a slide in a bucket.
        opening: lock, so that it is opened once.
        fetch: future of the download and open.
        until: time at which the download is abandoned.
        asked: time of the last request.
        users: number of threads that read or download it.
        dropped: removed from the pool; the last user closes it.
    """

    version: str
    is_copy: bool
    opening: threading.Lock = field(default_factory=threading.Lock)
    fetch: Future[None] | None = None
    until: float = 0.0
    asked: float = 0.0
    tiled: TiledSlide | None = None
    users: int = 0
    dropped: bool = False

    @property
    def nbytes(self) -> int:
        return HANDLE_BYTES if self.tiled is None else self.tiled.nbytes

    def close(self) -> None:
        if self.tiled is not None:
            self.tiled.slide.close()


class SlidePool:
    """LRU pool of open slides, none of which is closed while in use."""

    def __init__(
        self,
        *,
        most: int = 16,
        most_bytes: int = 1 << 30,
        most_copies: int = 2,
        wait_s: float = WAIT_S,
    ) -> None:
        """Create an empty pool.

        Args:
            most: maximum open slides.
            most_bytes: maximum bytes of decoded pixels.
            most_copies: maximum unused open slides of buckets.
            wait_s: seconds to wait for a download.
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
        """Version of a slide's file.

        Raises:
            SlideError: the file is missing.
            OSError: its bucket cannot be reached.
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
    def use(self, row: SlideRow) -> Iterator[TiledSlide]:
        """Yield an open slide; it stays open inside the block.

        Raises:
            Fetching: not downloaded yet.
            SlideError: the file is missing, damaged or of an unsupported format.
            OSError: its bucket cannot be reached.
        """
        held = self._take(row)
        try:
            yield self._fetched(held, row) if held.is_copy else _opened(held, row)
        except SlideError:
            # After an error OpenSlide fails all reads: reopen the slide.
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
        """Remove excess slides: unused ones, least recently used first."""
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

    def _fetched(self, held: _Held, row: SlideRow) -> TiledSlide:
        """The slide of a bucket, if downloaded."""
        with held.opening:
            if held.fetch is None:
                with self._lock:
                    held.users += 1  # in use until downloaded
                held.until = time.monotonic() + self._wait_s
                held.fetch = self._fetches.submit(self._fetch, held, row)
        try:
            held.fetch.result(max(0.0, held.until - time.monotonic()))
        except TimeoutError as e:
            raise Fetching(f"{row.slide_id} is being downloaded from its bucket") from e
        assert held.tiled is not None
        return held.tiled

    def _fetch(self, held: _Held, row: SlideRow) -> None:
        def wait() -> None:
            if self._is_closed or time.monotonic() - held.asked > LEFT_S:
                raise SlideError(
                    f"{row.slide_id}: download abandoned", "request it again"
                )
            with self._lock:
                unused = self._evict(0)  # free their room in the cache
            for other in unused:
                other.close()

        try:
            held.tiled = TiledSlide(
                open_slide(
                    row.path, mpp=row.mpp, cache_bytes=HANDLE_BYTES, on_progress=wait
                )
            )
        finally:
            if held.tiled is None:
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
        """Close all unused slides; the others are closed by their last user."""
        self._is_closed = True
        self._fetches.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            unused = [held for held in self._held.values() if _retire(held)]
            self._held.clear()
        for held in unused:
            held.close()


def _retire(held: _Held) -> bool:
    """Mark as removed from the pool; returns whether it is unused."""
    held.dropped = True
    return held.users == 0


def _opened(held: _Held, row: SlideRow) -> TiledSlide:
    with held.opening:
        if held.tiled is None:
            digest = row.digest if isinstance(row, SlideRecord) else None
            if digest is not None and not is_url(row.path):
                check_same(row.path, digest, since="its heatmap was made")
            slide = open_slide(row.path, mpp=row.mpp, cache_bytes=HANDLE_BYTES)
            held.tiled = TiledSlide(slide)
        return held.tiled


def _state_of(path: str) -> str:
    if is_url(path):
        try:
            return object_version(path)
        except FileNotFoundError as e:
            raise SlideError(str(e), "check the path in the manifest") from e
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as e:  # ValueError for a NUL in the path
        raise SlideError(
            f"{Path(path).name}: the slide's file is missing",
            "it was moved or its disk is not mounted: restore it, or run again",
        ) from e
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"
