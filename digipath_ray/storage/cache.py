"""Bounded cache of a bucket's objects on a node's disk, evicted by least recent use.

    <folder>/<key>/       a slide's file, and whatever lies beside it that belongs to it
    <folder>/<key>.json   which version that is, and its bytes; touched at every use
    <folder>/<key>.lock   shared by who reads it, exclusive to who makes or removes it

Locks are OS file locks and end with their process, so a crash leaves no copy in use,
and an incomplete copy is fetched again. ``DIGIPATH_CACHE`` sets the folder,
``DIGIPATH_CACHE_GB`` its size limit.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import StorageError, Version
from digipath_ray.storage.files import is_url, place
from digipath_ray.storage.parts import object_name, object_parts

FREE_SHARE = 0.8
"""Default fraction of the free disk space used by the cache."""
LOOK_S = 0.2
ROOM_WAIT_S = 900.0
"""Seconds that a download waits for room while every copy is in use."""

Progress = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A file on this node.

    Attributes:
        path: where.
        version: version of the object; None for a local file.
        fetched_bytes: bytes downloaded for it now.
    """

    path: Path
    version: str | None = None
    fetched_bytes: int = 0


@contextlib.contextmanager
def local_copy(
    path: str | Path,
    *,
    version: str | None = None,
    on_progress: Progress = lambda: None,
) -> Iterator[Copy]:
    """Local path of a file, or of the copy of an object, locked while in use.

    Args:
        path: path of a file or URL of an object.
        version: required version of an object; None for the current one.
        on_progress: called while a copy is downloaded or waited for.

    Raises:
        ChangedError: the object has been replaced.
        StorageError: the cache is too small.
        OSError: the bucket cannot be accessed.
    """
    if not is_url(path):
        yield Copy(path=Path(path).expanduser())
        return
    with default_cache().hold(str(place(path)), version, on_progress) as copy:
        yield copy


def default_cache() -> "Cache":
    """Cache configured by the environment.

    Raises:
        ValueError: DIGIPATH_CACHE_GB is not a positive number.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.getlogin()
    folder = Path(tempfile.gettempdir()) / f"digipath-cache-{user}"
    record = os.environ.get("DIGIPATH_CACHE_GB")
    try:
        limit = None if record is None else float(record) * 1e9
    except ValueError:
        limit = -1.0
    if limit is not None and not limit > 0:
        raise ValueError(f"DIGIPATH_CACHE_GB={record}: give a number of GB above 0")
    return Cache(Path(os.environ.get("DIGIPATH_CACHE", folder)), limit)


def object_version(url: str | Path) -> str:
    """Version of a slide: a digest that changes if any of its objects is replaced.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    return _version_of(object_parts(str(place(url))))


def _version_of(parts: dict[str, Version]) -> str:
    if len(parts) == 1:
        return next(iter(parts.values())).etag
    record = "\n".join(f"{name} {v.etag}" for name, v in sorted(parts.items()))
    return hashlib.sha256(record.encode()).hexdigest()


class Cache:
    """A folder of copies shared by all processes of a node."""

    def __init__(self, folder: Path, limit_bytes: float | None = None) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    @contextlib.contextmanager
    def hold(
        self, url: str, version: str | None, on_progress: Progress
    ) -> Iterator[Copy]:
        """Yield a local copy, locked while in use; see :func:`local_copy`."""
        parts = object_parts(url)
        now = _version_of(parts)
        if version is not None and version != now:
            raise bucket.ChangedError(url)
        key = hashlib.sha256(url.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fetched = 0
        with _Lock(self.folder / f"{key}.lock", on_progress) as lock:
            while True:
                lock.acquire(shared=True)
                if self._is_cached(key, now):
                    break
                lock.acquire(shared=False)
                if not self._is_cached(key, now):
                    self._fetch(key, url, parts, on_progress)
                    fetched = sum(part.size for part in parts.values())
            self._entry(key).touch()
            path = self.folder / key / object_name(url)
            yield Copy(path=path, version=now, fetched_bytes=fetched)

    def _entry(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _read(self, key: str) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            record: dict[str, Any] = json.loads(self._entry(key).read_text("utf-8"))
            return record
        return {}

    def _is_cached(self, key: str, version: str) -> bool:
        return bool(self._read(key).get("version") == version)

    def _fetch(
        self, key: str, url: str, parts: dict[str, Version], on_progress: Progress
    ) -> None:
        """Download the copy; the caller holds its exclusive lock."""
        self._remove(key)
        size = sum(part.size for part in parts.values())
        self._reserve(key, url, size, on_progress)
        folder = url[: -len(object_name(url))]
        for name, version in parts.items():
            target = self.folder / key / name
            target.parent.mkdir(parents=True, exist_ok=True)
            bucket.download(folder + name, version, target, on_progress=on_progress)
        self._write(key, url, size, version=_version_of(parts))

    def _write(self, key: str, url: str, size: int, *, version: str | None) -> None:
        record = {"url": url, "bytes": size, "version": version}
        temporary = self.folder / f"{key}.json.writing"
        temporary.write_text(json.dumps(record), "utf-8")
        temporary.replace(self._entry(key))

    def _remove(self, key: str) -> None:
        self._entry(key).unlink(missing_ok=True)
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def _reserve(self, key: str, url: str, size: int, on_progress: Progress) -> None:
        """Make room for a copy and reserve it.

        Raises:
            StorageError: the copy exceeds the cache, or every other copy stays in use.
        """
        until = time.monotonic() + ROOM_WAIT_S
        while True:
            with _Lock(self.folder / "room.lock", on_progress) as lock:
                lock.acquire(shared=False)
                limit = self.limit()
                if size > limit:
                    raise StorageError(
                        f"{url}: {size / 1e9:.1f} GB, more than the "
                        f"{limit / 1e9:.1f} GB limit of the cache {self.folder}",
                        "raise DIGIPATH_CACHE_GB, or set DIGIPATH_CACHE to a folder "
                        "on a larger disk",
                    )
                if self._make_room(limit - size):
                    self._write(key, url, size, version=None)
                    return
            if time.monotonic() > until:
                raise StorageError(
                    f"{url}: no room in the cache {self.folder}: every copy is in use",
                    "raise DIGIPATH_CACHE_GB, or lower --readers",
                )
            on_progress()
            time.sleep(LOOK_S)

    def limit(self) -> float:
        """Size limit, bytes."""
        if self.limit_bytes is not None:
            return self.limit_bytes
        free = shutil.disk_usage(self.folder).free
        return FREE_SHARE * (free + sum(size for _, size, _ in self._kept()))

    def _kept(self) -> list[tuple[float, int, str]]:
        """Last use, bytes and key of every copy, least recently used first."""
        found = []
        for entry in self.folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                used = entry.stat().st_mtime
                found.append((used, int(self._read(entry.stem)["bytes"]), entry.stem))
        return sorted(found)

    def _make_room(self, at_most: float) -> bool:
        """Evict unused copies until at most ``at_most`` bytes remain."""
        kept = self._kept()
        used = sum(size for _, size, _ in kept)
        for _, size, key in kept:
            if used <= at_most:
                break
            with _Lock(self.folder / f"{key}.lock") as lock:
                if lock.take(shared=False):
                    self._remove(key)
                    used -= size
        return used <= at_most


class _Lock:
    """OS lock on a file; released when its process ends, even by a crash."""

    def __init__(self, path: Path, on_progress: Progress = lambda: None) -> None:
        self._path = path
        self._on_progress = on_progress

    def __enter__(self) -> "_Lock":
        self._file = self._path.open("ab")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def take(self, *, shared: bool) -> bool:
        """Try to acquire the lock without waiting, replacing the one held."""
        import fcntl  # absent on Windows, where slides in buckets are not supported

        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as e:
            raise bucket.StorageError(
                f"{self._path}: no locks on this file system ({e.strerror})",
                "name a folder on a disk of the node in DIGIPATH_CACHE",
            ) from e
        return True

    def acquire(self, *, shared: bool) -> None:
        """Acquire the lock, replacing the one held, waiting for others."""
        import fcntl

        while not self.take(shared=shared):
            # Otherwise two shared holders upgrading to exclusive would deadlock.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._on_progress()
            time.sleep(LOOK_S)
