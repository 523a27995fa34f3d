"""Objects in a bucket (``s3://``, ``gs://``, ``az://``): read, listed, put, pinned.

Uses obstore: directly for what fsspec lacks (a put that fails if the object exists, a
read pinned to a version, a streaming listing), and as fsspec's implementation for
paths. One wheel supports all three stores; credentials come from the environment.
"""

import contextlib
import functools
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.fsspec import FsspecStore
from obstore.store import ObjectStore, from_url

from digipath_ray.storage.listing import list_found
from digipath_ray.words import redacted

SCHEMES = ("s3", "gs", "az")
RANGE_BYTES = 16 << 20
"""Large objects are fetched in ranges of this many bytes, RANGES at once."""
RANGES = 8
TRIES = 5
"""Attempts per transfer, on top of obstore's own retries per request."""
PAUSE_S = 0.2
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+([^/]*)/?(.*?)/*", re.DOTALL)
_MD5 = re.compile("[0-9a-f]{32}")

Result = TypeVar("Result")


class StorageError(OSError):
    """A bucket operation failed; ``hint`` tells the fix."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return (StorageError, (str(self), self.hint))


class ChangedError(StorageError):
    """An object is not the requested version."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{url}: was replaced while it was being read",
            "do not write to the inputs of a run while it runs; then run again",
        )
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return (ChangedError, (self.url,))


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of an object.

    Attributes:
        size: bytes.
        etag: the store's tag of this version; it changes if the object is replaced.
        modified: time written, by the store's clock.
    """

    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object of a listing."""

    url: str
    version: Version


def parse(url: str | Path) -> tuple[str, str] | None:
    """Split into bucket URL and key; None if this is not a bucket URL.

    ``Path("s3://bucket/a")``, where pathlib drops a slash, is accepted.
    """
    found = _URL.fullmatch(str(url))
    return None if found is None else (f"{found[1]}://{found[2]}", found[3])


@functools.lru_cache(maxsize=64)
def _bucket(root: str) -> ObjectStore:
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    options: Any = {"allow_http": True} if endpoint.startswith("http://") else None
    return from_url(
        root,
        client_options=options,
        retry_config={
            "max_retries": 8,
            "retry_timeout": timedelta(minutes=3),
            "backoff": {
                "init_backoff": timedelta(seconds=PAUSE_S),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
    )


def _locate(url: str | Path) -> tuple[ObjectStore, str]:
    """Bucket of a URL, and the key in it.

    Raises:
        StorageError: the URL names no bucket, or one that cannot be opened.
    """
    root, key = parse(url) or ("", "")
    if root.endswith("://") or not root:
        raise StorageError(f"{url}: no bucket in the URL", "write s3://BUCKET/...")
    with explained(root):
        return _bucket(root), key


@contextlib.contextmanager
def explained(url: str | Path) -> Iterator[None]:
    """Convert obstore errors to an OSError that tells the fix.

    Raises:
        PermissionError: credentials are missing or lack the permission.
        ChangedError: the object is not the requested version.
        FileExistsError: the object exists.
        StorageError: anything else.
    """
    try:
        yield
    except PreconditionError as e:
        raise ChangedError(str(url)) from e
    except AlreadyExistsError as e:
        raise FileExistsError(f"{url}: already exists") from e
    except (PermissionDeniedError, UnauthenticatedError) as e:
        denied = PermissionError(f"{url}: access denied: {_gist(e)}")
        denied.hint = (  # type: ignore[attr-defined]
            "check the credentials in the environment (AWS_ACCESS_KEY_ID, a role, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME) and their "
            "permissions"
        )
        raise denied from e
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{url}: object not found") from e
    except InvalidPathError as e:
        raise StorageError(
            f"{url}: {_gist(e)}",
            "rename or delete the keys with empty or '.' segments, e.g. a//b",
        ) from e
    except BaseError as e:
        raise StorageError(
            f"{url}: {_gist(e)}",
            "check the bucket's name and region, the credentials in the environment "
            "and the network, then run again",
        ) from e


def _gist(error: Exception) -> str:
    """Message of an obstore error, without credentials and its dump of the request."""
    text = str(error).split("\n\nDebug source", 1)[0].replace("\n", " ")
    return redacted(text)[:500]


def head(url: str | Path) -> Version:
    """Current version of an object.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    with explained(url):
        return _version(obstore.head(store, key))


def _version(found: Mapping[str, Any]) -> Version:
    return Version(
        size=found["size"],
        etag=str(found["e_tag"] or found["last_modified"].isoformat()),
        modified=found["last_modified"],
    )


def list_objects(url: str | Path) -> Iterator[Listed]:
    """Yield the objects below a prefix; keys that are no paths are warned of.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, prefix = _locate(url)
    root, _ = parse(url) or ("", "")
    with explained(url):
        for found in list_found(store, prefix or None, root):
            yield Listed(url=f"{root}/{found['path']}", version=_version(found))


def get(url: str | Path) -> bytes:
    """Read a whole object.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    return _tried(lambda: obstore.get(store, key).bytes().to_bytes(), url)


def get_start(url: str | Path, size: int) -> bytes:
    """Read the first bytes of an object that has at least as many.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    return _tried(
        lambda: obstore.get_range(store, key, start=0, length=size).to_bytes(), url
    )


def get_range(url: str | Path, version: Version, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of one version of an object.

    Raises:
        ChangedError: the object has been replaced.
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)

    def get() -> bytes:
        options: Any = {"range": (start, stop), "if_match": version.etag}
        data = obstore.get(store, key, options=options).bytes().to_bytes()
        if len(data) != stop - start:
            raise StorageError(f"{url}: short range", "run again")
        return data

    return _tried(get, url)


def _tried(work: Callable[[], Result], url: str | Path) -> Result:
    """Result of ``work``, retried if a connection breaks midway."""
    for attempt in range(TRIES):
        try:
            with explained(url):
                return work()
        except (ChangedError, PermissionError, FileExistsError, FileNotFoundError):
            raise
        except OSError:
            if attempt == TRIES - 1:
                raise
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


def upload(source: Path, url: Path) -> None:
    """Upload a file, and verify its size in the bucket.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    size = source.stat().st_size

    def put() -> None:
        obstore.put(store, key, source)
        arrived = obstore.head(store, key)["size"]
        if arrived != size:
            raise StorageError(
                f"{url}: incomplete upload, {arrived} of {size} bytes", "run again"
            )

    _tried(put, url)


def put(url: str | Path, data: bytes) -> None:
    """Write an object.

    Raises:
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    _tried(lambda: obstore.put(store, key, data), url)


def put_if(url: Path, data: bytes, *, etag: str | None) -> str:
    """Write an object only if none exists, or only over the version ``etag``.

    Returns:
        The new version's etag.

    Raises:
        FileExistsError: an object exists, or its version is not ``etag``.
        OSError: the bucket cannot be accessed; see :func:`explained`.
    """
    store, key = _locate(url)
    mode: Any = "create" if etag is None else {"e_tag": etag}
    try:
        with explained(url):
            written = obstore.put(store, key, data, mode=mode, use_multipart=False)
    except ChangedError as e:
        raise FileExistsError(str(e)) from e
    except StorageError as e:
        if not isinstance(e.__cause__, NotSupportedError):
            raise
        raise StorageError(
            f"{url}: this store has no conditional put, so two runs could not be "
            "kept apart",
            "use a newer store, or a run directory on disk",
        ) from e
    return str(written["e_tag"])


def download(
    url: str | Path,
    version: Version,
    target: Path,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Download one version of an object, in concurrent ranges.

    Args:
        url: URL of the object.
        version: version to fetch, from :func:`head`.
        target: file to write; its content is undefined after an error.
        on_progress: called for every range received.

    Raises:
        ChangedError: the object has been replaced.
        StorageError: the data was damaged in every attempt.
        OSError: the bucket cannot be accessed, or the disk is full.
    """
    digests = set()
    for _ in range(TRIES):
        _download_once(url, version, target, on_progress)
        if not _MD5.fullmatch(version.etag.strip('"')):
            return  # multipart upload: its etag is not a digest of the content
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest == version.etag.strip('"') or digest in digests:
            return  # same digest twice: the etag is not an MD5 (KMS-encrypted bucket)
        digests.add(digest)
    raise StorageError(
        f"{url}: received damaged data {TRIES} times, different each time",
        "check the network between this machine and the bucket",
    )


def _download_once(
    url: str | Path, version: Version, target: Path, on_progress: Callable[[], None]
) -> None:
    def fetch(start: int) -> None:
        stop = min(start + RANGE_BYTES, version.size)
        os.pwrite(file.fileno(), get_range(url, version, start, stop), start)

    with target.open("wb") as file, ThreadPoolExecutor(RANGES) as pool:
        file.truncate(version.size)
        for _ in pool.map(fetch, range(0, version.size, RANGE_BYTES)):
            on_progress()


class _Bucket(FsspecStore):
    """fsspec file system over the same store, with the same errors."""

    def _construct_store(self, bucket: str) -> ObjectStore:
        return _bucket(f"{self.protocol}://{bucket}")

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        with explained(f"{self.protocol}://{path}"):
            return await super()._info(path, **options)

    async def _ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        with explained(f"{self.protocol}://{path}"):
            if detail:
                return await super()._ls(path, True, **options)
            return await super()._ls(path, False, **options)

    async def _rm_file(self, path: str, **options: Any) -> None:
        with explained(f"{self.protocol}://{path}"):
            await super()._rm_file(path, **options)


class S3(_Bucket):
    """``s3://``."""

    protocol = "s3"


class GoogleCloud(_Bucket):
    """``gs://``."""

    protocol = "gs"


class Azure(_Bucket):
    """``az://``."""

    protocol = "az"


for _kind in (S3, GoogleCloud, Azure):
    fsspec.register_implementation(_kind.protocol, _kind, clobber=True)
