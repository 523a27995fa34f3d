"""What a file is, wherever it lies: its size and a digest of its bytes.

A slide of gigabytes is told from others by blocks of it: head, tail, and some in
between, in milliseconds. Annotations, masks and weights are read whole.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import Version
from digipath_ray.storage.files import file_digest, is_url, place
from digipath_ray.storage.parts import file_parts, object_parts
from digipath_ray.storage.stalled import within

WHOLE_BYTES = 16 << 20
"""Files up to this size are read whole."""
BLOCKS, BLOCK_BYTES = 32, 64 << 10
"""Of a larger one so many blocks, the first at its head and the last at its tail."""
FRESH_NS = 2_000_000_000
"""How long after a change of a file its digest is not remembered."""
STALL_S = 600.0
"""How long it may take for a whole file of annotations, masks or weights."""
AT_ONCE = 16
"""Objects and blocks of objects that are read at once."""
ANSWER_S = 60.0
"""How long a disk may take for the few megabytes that a digest reads."""

ReadRange = Callable[[int, int], bytes]
"""(start, stop) -> bytes."""


def slide_digest(path: str | Path) -> str:
    """Digest of all files that a slide consists of, as ``BYTES-HEX``.

    Where they lie and what they are called does not count. A change that keeps the size
    of a file above WHOLE_BYTES, and all sampled blocks, is not seen.

    Raises:
        OSError: a file cannot be read, a disk has not answered for ANSWER_S, or the
            bucket cannot be accessed.
    """
    if not is_url(path):
        return within(ANSWER_S, lambda: _slide_on_disk(Path(path)), str(path))
    url = str(place(path))
    folder, parts = url.rpartition("/")[0], object_parts(url)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        urls = [f"{folder}/{name}" for name in parts]
        return _sum(list(pool.map(_digest_of_object, urls, parts.values())))


def _slide_on_disk(path: Path) -> str:
    return _sum([digest_on_disk(file) for file in file_parts(path.expanduser())])


def bytes_of(digest: str) -> int:
    """Size of the files, bytes, of their digest."""
    return int(digest.partition("-")[0])


def describe_change(before: str, now: str) -> str:
    """How two digests differ, in words."""
    if bytes_of(before) == bytes_of(now):
        return f"other content of the same {bytes_of(now):,} bytes"
    return f"{bytes_of(now):,} bytes, {bytes_of(before):,} before"


def content_digest(path: str | Path) -> str | None:
    """Digest of a whole file that is no slide; None if it is not there.

    Of an object above WHOLE_BYTES it is the size and the store's etag.

    Raises:
        OSError: it cannot be read, a disk has not answered for STALL_S, or the bucket
            cannot be accessed.
    """
    if not is_url(path):
        try:
            of_all = functools.partial(_remembered, _digest_of_all, Path(path))
            return within(STALL_S, of_all, str(path))
        except FileNotFoundError:
            return None
    try:
        version = bucket.head(path)
        if version.size > WHOLE_BYTES:
            return f"etag {version.size} {version.etag}"
        return file_digest(path)
    except FileNotFoundError:
        return None


def digest_on_disk(path: Path) -> str:
    """Digest of one file, as ``BYTES-HEX``; looked at again if the file has changed.

    Raises:
        OSError: it cannot be read.
    """
    return _remembered(_digest_of_file, path)


def _remembered(digest_of: "functools._lru_cache_wrapper[str]", path: Path) -> str:
    """Digest of a file, computed again if the file was written or moved since."""
    found = path.stat()
    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    # What was changed a moment ago may be changed again within the clock's tick.
    if time.time_ns() - found.st_ctime_ns < FRESH_NS:
        return digest_of.__wrapped__(path, state)
    return digest_of(path, state)


@functools.lru_cache(maxsize=1 << 14)
def _digest_of_file(path: Path, state: tuple[int, ...]) -> str:
    size = state[0]
    with path.open("rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        return _digest(size, map(read, *_ranges(size)))


@functools.lru_cache(maxsize=1 << 14)
def _digest_of_all(path: Path, state: tuple[int, ...]) -> str:
    return file_digest(path)


@functools.lru_cache(maxsize=1 << 14)
def _digest_of_object(url: str, version: Version) -> str:
    def read(start: int, stop: int) -> bytes:
        return bucket.get_range(url, version, start, stop) if stop > start else b""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return _digest(version.size, pool.map(read, *_ranges(version.size)))


def _ranges(size: int) -> tuple[list[int], list[int]]:
    """Starts and stops of the bytes of a file that are looked at."""
    if size <= WHOLE_BYTES:
        return [0], [size]
    starts = [(size - BLOCK_BYTES) * i // (BLOCKS - 1) for i in range(BLOCKS)]
    return starts, [start + BLOCK_BYTES for start in starts]


def _digest(size: int, blocks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return f"{size}-{digest.hexdigest()[:32]}"


def _sum(digests: Sequence[str]) -> str:
    """One digest of a slide's parts, in whatever order and under whatever names."""
    if len(digests) == 1:
        return digests[0]
    size = sum(map(bytes_of, digests))
    return _digest(size, iter(["\n".join(sorted(digests)).encode()]))
