"""Files on a disk and objects in a bucket, by one kind of path.

A path is a ``pathlib.Path``, or for an object a ``UPath``, which speaks its language.
"""

import contextlib
import hashlib
import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from digipath_ray.storage import bucket

TEMPORARY = ".writing-"


def is_url(path: str | Path) -> bool:
    """Whether this names an object in a bucket."""
    return bucket.parse(path) is not None


def place(text: str | Path) -> Path:
    """The path that a user's text names, on disk from the root, or in a bucket.

    Raises:
        ValueError: a URL of another kind than a bucket's or a file's.
    """
    found = bucket.parse(text)
    if found is not None:
        return cast(Path, UPath("/".join(part for part in found if part)))
    scheme, colon, rest = str(text).partition("://")
    if isinstance(text, Path) and text.parts[:1] == ("file:",):  # // folded into /
        return Path("/", *text.parts[1:])
    if not colon:
        return Path(text).expanduser().absolute()
    if scheme == "file":
        return Path(rest).absolute()
    known = ", ".join(f"{name}://" for name in (*bucket.SCHEMES, "file"))
    raise ValueError(f"{text}: no kind of place that is known: {known} or a path")


def read_bytes(path: Path) -> bytes:
    """All of a file or an object.

    Raises:
        OSError: as :func:`digipath_ray.storage.bucket.spoken`.
    """
    return bucket.get(path) if is_url(path) else path.read_bytes()


def read_text(path: Path) -> str:
    """All of a text in UTF-8."""
    return read_bytes(path).decode("utf-8")


def open_file(path: str | Path) -> BinaryIO:
    """A file to read from; of an object, which must fit in memory, a copy there."""
    return io.BytesIO(bucket.get(path)) if is_url(path) else Path(path).open("rb")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet table.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged; a ValueError.
        OSError: as :func:`digipath_ray.storage.bucket.spoken`.
    """
    try:
        with open_file(path) as file:
            return pq.read_table(file, columns=columns)
    except pa.ArrowException as e:
        raise pa.ArrowInvalid(
            f"{path}: no Parquet file, or a damaged one ({e}): remove it, and have it "
            "made again"
        ) from e


def modified(path: Path) -> datetime:
    """When a file or an object was written."""
    if is_url(path):
        return bucket.head(path).modified
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """A temporary path to write to; whole and visible under ``path`` on a clean exit.

    Readers see the old file or the new one, never half of one: a file is renamed into
    place, an object is uploaded whole or not at all.

    Raises:
        ValueError: a folder lies there.
        OSError: as :func:`digipath_ray.storage.bucket.spoken`.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="digipath-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            bucket.upload(temporary, path)
        return
    if path.is_dir():
        raise ValueError(f"{path}: a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file or an object, 64 hexadecimal digits."""
    if is_url(path):
        return hashlib.sha256(read_bytes(place(path))).hexdigest()
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
