"""Objects in a bucket (``s3://``, ``gs://``, ``az://``): read, listed, put, pinned.

obstore does the talking: by itself for what fsspec has no words for (a put that fails
where something stands, a read pinned to one version, a listing that streams), and as
fsspec's implementation for paths. One wheel speaks all three stores, and credentials
come from the environment alone.
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
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.fsspec import FsspecStore
from obstore.store import ObjectStore, from_url

SCHEMES = ("s3", "gs", "az")
RANGE_BYTES = 16 << 20
"""A large object is fetched in ranges of so many bytes, RANGES of them at once."""
RANGES = 8
TRIES = 5
"""Times that a transfer is tried; obstore has tried each request itself by then."""
PAUSE_S = 0.2
_URL = re.compile(rf"({'|'.join(SCHEMES)}):/+([^/]*)/?(.*?)/*", re.DOTALL)
_MD5 = re.compile("[0-9a-f]{32}")

Result = TypeVar("Result")


class StorageError(OSError):
    """A bucket does not do what it is asked; ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return (StorageError, (str(self), self.hint))


class ChangedError(StorageError):
    """An object is not the version that was asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(
            f"{url}: was replaced while it was being read",
            "let nobody write where a run reads, then run again",
        )
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return (ChangedError, (self.url,))


@dataclass(frozen=True, kw_only=True)
class Version:
    """One state of an object.

    Attributes:
        size: bytes.
        etag: what the store calls this state; a replaced object has another.
        modified: when it was written, by the store's clock.
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
    """The bucket's URL and the key in it; None where this names no object.

    ``Path("s3://bucket/a")`` has lost a slash, as pathlib folds them: it is understood.
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
    """The bucket of a URL, and the key in it.

    Raises:
        StorageError: it names no bucket, or none that can be spoken to.
    """
    root, key = parse(url) or ("", "")
    if root.endswith("://") or not root:
        raise StorageError(f"{url}: names no bucket", "write s3://BUCKET/...")
    with spoken(root):
        return _bucket(root), key


@contextlib.contextmanager
def spoken(url: str | Path) -> Iterator[None]:
    """Raise what a bucket answers as an OSError that says what to do.

    Raises:
        PermissionError: no credentials, or they do not allow it.
        ChangedError: the object is not the version asked for.
        FileExistsError: it stands already.
        StorageError: anything else.
    """
    try:
        yield
    except PreconditionError as e:
        raise ChangedError(str(url)) from e
    except AlreadyExistsError as e:
        raise FileExistsError(f"{url}: stands already") from e
    except (PermissionDeniedError, UnauthenticatedError) as e:
        denied = PermissionError(f"{url}: the bucket refuses: {_gist(e)}")
        denied.hint = (  # type: ignore[attr-defined]
            "check the credentials in the environment (AWS_ACCESS_KEY_ID, a role, "
            "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME) and what "
            "they may do"
        )
        raise denied from e
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{url}: no such object") from e
    except BaseError as e:
        raise StorageError(
            f"{url}: {_gist(e)}",
            "check the bucket's name and region, the credentials in the environment "
            "and the network, then run again",
        ) from e


def _gist(error: Exception) -> str:
    """What an error of obstore says before its dump of the request."""
    return str(error).split("\n\nDebug source", 1)[0].replace("\n", " ")[:500]


def head(url: str | Path) -> Version:
    """The state of an object now.

    Raises:
        OSError: as :func:`spoken`.
    """
    store, key = _locate(url)
    with spoken(url):
        return _version(obstore.head(store, key))


def _version(found: Mapping[str, Any]) -> Version:
    return Version(
        size=found["size"],
        etag=str(found["e_tag"] or found["last_modified"].isoformat()),
        modified=found["last_modified"],
    )


def list_objects(url: str | Path) -> Iterator[Listed]:
    """The objects below a folder of a bucket, as the store lists them, page by page.

    Raises:
        OSError: as :func:`spoken`.
    """
    store, prefix = _locate(url)
    root, _ = parse(url) or ("", "")
    with spoken(url):
        for page in obstore.list(store, prefix or None):
            for found in page:
                url = f"{root}/{found['path']}"
                yield Listed(url=url, version=_version(found))


def get(url: str | Path) -> bytes:
    """All of an object.

    Raises:
        OSError: as :func:`spoken`.
    """
    store, key = _locate(url)
    return _tried(lambda: obstore.get(store, key).bytes().to_bytes(), url)


def _tried(work: Callable[[], Result], url: str | Path) -> Result:
    """What ``work`` answers, tried again where a connection broke in the middle."""
    for attempt in range(TRIES):
        try:
            with spoken(url):
                return work()
        except (ChangedError, PermissionError, FileExistsError, FileNotFoundError):
            raise
        except OSError:
            if attempt == TRIES - 1:
                raise
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError("not reached")


def upload(source: Path, url: Path) -> None:
    """Put a file in a bucket, and see that all of it arrived.

    Raises:
        OSError: as :func:`spoken`.
    """
    store, key = _locate(url)
    size = source.stat().st_size

    def put() -> None:
        obstore.put(store, key, source)
        arrived = obstore.head(store, key)["size"]
        if arrived != size:
            raise StorageError(f"{url}: {arrived} of {size} bytes arrived", "run again")

    _tried(put, url)


def put(url: str | Path, data: bytes) -> None:
    """Write an object.

    Raises:
        OSError: as :func:`spoken`.
    """
    store, key = _locate(url)
    _tried(lambda: obstore.put(store, key, data), url)


def put_if(url: Path, data: bytes, *, etag: str | None) -> str:
    """Put an object only where none stands, or only over the version ``etag``.

    Returns:
        The new version's etag.

    Raises:
        FileExistsError: one stands, or another than ``etag``.
        OSError: as :func:`spoken`.
    """
    store, key = _locate(url)
    mode: Any = "create" if etag is None else {"e_tag": etag}
    try:
        with spoken(url):
            written = obstore.put(store, key, data, mode=mode, use_multipart=False)
    except ChangedError as e:
        raise FileExistsError(str(e)) from e
    except StorageError as e:
        if not isinstance(e.__cause__, NotSupportedError):
            raise
        raise StorageError(
            f"{url}: this store has no conditional put, so two runs could not be told "
            "apart",
            "use a newer store, or a run directory on a disk",
        ) from e
    return str(written["e_tag"])


def download(
    url: str | Path,
    version: Version,
    target: Path,
    *,
    on_progress: Callable[[], None] = lambda: None,
) -> None:
    """Fetch one version of an object to a file, in ranges at once.

    Args:
        url: the object.
        version: the one to fetch, of :func:`head`.
        target: file to write; what it holds after an error is not the object.
        on_progress: called as ranges arrive.

    Raises:
        ChangedError: the object is another version by now.
        StorageError: it came damaged each time.
        OSError: as :func:`spoken`, or the disk is full.
    """
    digests = set()
    for _ in range(TRIES):
        _download_once(url, version, target, on_progress)
        if not _MD5.fullmatch(version.etag.strip('"')):
            return  # put together of parts: its etag is no digest of the whole
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest == version.etag.strip('"') or digest in digests:
            return  # twice the same: the etag is no MD5 (a bucket encrypted by KMS)
        digests.add(digest)
    raise StorageError(
        f"{url}: arrived damaged {TRIES} times, each time otherwise",
        "check the network between this machine and the bucket",
    )


def _download_once(
    url: str | Path, version: Version, target: Path, on_progress: Callable[[], None]
) -> None:
    store, key = _locate(url)

    def fetch(start: int) -> None:
        stop = min(start + RANGE_BYTES, version.size)

        def get() -> bytes:
            options: Any = {"range": (start, stop), "if_match": version.etag}
            data = obstore.get(store, key, options=options).bytes().to_bytes()
            if len(data) != stop - start:
                raise StorageError(f"{url}: a range came short", "run again")
            return data

        data = _tried(get, url)
        os.pwrite(file.fileno(), data, start)

    with target.open("wb") as file, ThreadPoolExecutor(RANGES) as pool:
        file.truncate(version.size)
        for _ in pool.map(fetch, range(0, version.size, RANGE_BYTES)):
            on_progress()


class _Bucket(FsspecStore):
    """Paths of fsspec over the same store, with the same errors."""

    def _construct_store(self, bucket: str) -> ObjectStore:
        return _bucket(f"{self.protocol}://{bucket}")

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        with spoken(f"{self.protocol}://{path}"):
            return await super()._info(path, **options)

    async def _ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        with spoken(f"{self.protocol}://{path}"):
            if detail:
                return await super()._ls(path, True, **options)
            return await super()._ls(path, False, **options)

    async def _rm_file(self, path: str, **options: Any) -> None:
        with spoken(f"{self.protocol}://{path}"):
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
