"""Files on disk and objects in a bucket, through one path interface.

A path is a ``pathlib.Path``, or a ``UPath`` with the same interface for objects.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from upath import UPath

from digipath_ray.schema import conform
from digipath_ray.storage import bucket
from digipath_ray.words import redacted

TEMPORARY = ".writing-"


def is_url(path: str | Path) -> bool:
    """Whether this is a bucket URL."""
    return bucket.parse(path) is not None


def place(text: str | Path) -> Path:
    """Parse a user's path or URL; paths on disk become absolute.

    Raises:
        ValueError: an unsupported URL scheme, or credentials in a bucket's URL, which
            would end up in tables and logs.
    """
    found = bucket.parse(text)
    if found is not None and "@" in found[0]:
        raise ValueError(
            f"{redacted(found[0])}: credentials in a URL: leave them out, set them in "
            "the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if found is not None:
        return cast(Path, UPath("/".join(part for part in found if part)))
    scheme, colon, rest = str(text).partition("://")
    if isinstance(text, Path) and text.parts[:1] == (
        "file:",
    ):  # pathlib folds // into /
        return Path("/", *text.parts[1:])
    if not colon:
        return Path(text).expanduser().absolute()
    if scheme == "file":
        return Path(rest).absolute()
    known = ", ".join(f"{name}://" for name in (*bucket.SCHEMES, "file"))
    raise ValueError(
        f"{redacted(str(text))}: unsupported URL scheme; use {known} or a path"
    )


def read_bytes(path: Path) -> bytes:
    """Read a whole file or object.

    Raises:
        OSError: the file or bucket cannot be read.
    """
    return bucket.get(path) if is_url(path) else path.read_bytes()


def read_text(path: Path) -> str:
    """Read a UTF-8 text, without the byte order mark that editors may set before it.

    Raises:
        ValueError: it is no UTF-8.
        OSError: as :func:`read_bytes`.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{path}: not a text in UTF-8: {e}") from e


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is no JSON in UTF-8, or nested beyond reason.
        OSError: as :func:`read_bytes`.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: not valid JSON: {e}") from e


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading; an object is read into memory, where it must fit."""
    return io.BytesIO(bucket.get(path)) if is_url(path) else Path(path).open("rb")


def _plain(table: pa.Table, path: Path) -> None:
    """Refuse a table of which a column has an extension type.

    Ray Data registers one whose values are pickles, which reading the value runs: a
    manifest could hold any code.
    """
    for field in table.schema:
        if _has_extension(field.type):
            raise ValueError(
                f"{path}: column {field.name} is of the extension type {field.type}, "
                "which may hold code: write it again with plain types"
            )


def _has_extension(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return True
    if pa.types.is_dictionary(kind):
        return _has_extension(kind.value_type)
    parts = (kind.field(i).type for i in range(kind.num_fields))
    return any(map(_has_extension, parts))


def first_error(error: ValidationError) -> str:
    """Where in a file the first wrong value is, and what is wrong with it."""
    wrong = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, [".".join(map(str, wrong["loc"])), wrong["msg"]]))


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet table of plain types.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged, or lacks a column; a ValueError.
        ValueError: a column has an extension type.
        OSError: the file or bucket cannot be read.
    """
    with open_file(path) as file:
        with _explained(path):
            table = pq.read_table(file, columns=columns)
            _ = table.column_names  # which are read late else
        _plain(table, path)
        with _explained(path):
            table.validate(full=True)  # texts that are no UTF-8
        return table


def read_rows(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of a Parquet table that was written with a schema.

    Columns of another version are left out; one that may be unknown and is not there
    is None.

    Args:
        path: the table.
        schema: that it was written with.
        columns: those that are read; default: all.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged, or is not of the schema.
        OSError: the file or bucket cannot be read.
    """
    rows: list[dict[str, Any]] = read_conformed(path, schema, columns).to_pylist()
    return rows


def read_conformed(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """The same as a table."""
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    table = read_table(path)
    try:
        return conform(table, schema)
    except (ValueError, OverflowError, pa.ArrowException) as e:
        raise pa.ArrowInvalid(
            f"{path}: not a table of a run, or damaged ({e}): delete it to have it "
            "recreated"
        ) from e


def read_note(path: Path, key: bytes) -> Any:
    """The JSON in a Parquet table's metadata; None if it has none.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged; a ValueError.
        OSError: the file or bucket cannot be read.
    """
    with open_file(path) as file, _explained(path):
        text = (pq.read_schema(file).metadata or {}).get(key)
        return None if text is None else json.loads(text)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What Arrow raises of a damaged file as ArrowInvalid; it also raises OSError."""
    try:
        yield
    except (pa.ArrowException, ValueError, RecursionError, OSError) as e:
        if isinstance(e, OSError) and e.errno is not None:  # the disk's, not Arrow's
            raise
        raise pa.ArrowInvalid(
            f"{path}: not a Parquet file, or damaged ({e}): delete it to have it "
            "recreated"
        ) from e


def modified(path: Path) -> datetime:
    """Modification time of a file or object."""
    if is_url(path):
        return bucket.head(path).modified
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


@contextlib.contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Write atomically: yields a temporary path, moved to ``path`` on a clean exit.

    Readers see the old file or the new one, never a partial one: a file is renamed into
    place, an object is uploaded completely or not at all.

    Raises:
        ValueError: ``path`` is a directory.
        OSError: the file or bucket cannot be read.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="digipath-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            bucket.upload(temporary, path)
        return
    if path.is_dir():
        raise ValueError(f"{path}: a directory: give a file name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, whatever the order of its keys."""
    return text_digest(json.dumps(value, sort_keys=True))


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file or an object, 64 hexadecimal digits."""
    if is_url(path):
        return hashlib.sha256(read_bytes(place(path))).hexdigest()
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
