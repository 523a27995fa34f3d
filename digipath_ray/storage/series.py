"""Which files or objects of a folder belong to one DICOM slide, by their headers."""

import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import Listed, Version
from digipath_ray.storage.dicom import (
    HEADER_BYTES,
    MAGIC_BYTES,
    DicomHeader,
    may_be_dicom,
    parse_header,
    read_header,
)

READS = 16
"""Headers read at once."""


@functools.lru_cache(maxsize=1 << 14)
def _header(url: str, etag: str, size: int) -> DicomHeader | None:
    if size <= MAGIC_BYTES:
        return None
    start = bucket.get_start(url, min(size, HEADER_BYTES))
    return parse_header(start, whole=size <= HEADER_BYTES)


def read_headers(objects: Iterable[Listed]) -> dict[str, DicomHeader | None]:
    """Headers by URL; None for an object that is no DICOM.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    listed = list(objects)

    def header(found: Listed) -> DicomHeader | None:
        return _header(found.url, found.version.etag, found.version.size)

    with ThreadPoolExecutor(READS) as pool:
        headers = pool.map(header, listed)
        return {o.url: h for o, h in zip(listed, headers, strict=True)}


def beside(url: str) -> list[Listed]:
    """Objects in the same folder, not below it, that may be DICOM by their name.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    folder = url.rpartition("/")[0] + "/"
    found = bucket.list_objects(folder)
    names = ((o, o.url.removeprefix(folder)) for o in found)
    return [o for o, name in names if "/" not in name and may_be_dicom(name)]


def objects_of_series(url: str, version: Version) -> Mapping[str, Version]:
    """Objects of the series of a DICOM object, by name; none for what is no DICOM.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    is_named_so = url.lower().endswith(".dcm")
    own = _header(url, version.etag, version.size)
    if own is None and not is_named_so:
        return {}
    listed = beside(url)
    headers = read_headers(listed)
    series = own.series if own else None
    return {
        o.url.rpartition("/")[2]: o.version
        for o in listed
        if (header.series if (header := headers[o.url]) else None) == series
        and (header is not None or o.url.lower().endswith(".dcm"))
    }


def files_of_series(path: Path) -> list[Path]:
    """Files of the series of a DICOM file, hidden ones left out; none for another.

    Raises:
        OSError: a file cannot be read, or the folder cannot be listed.
    """
    own = _file_header(path)
    if own is None:
        return []
    beside = [p for p in path.parent.iterdir() if may_be_dicom(p.name)]
    return [p for p in beside if not p.name.startswith(".") and _is_of(p, own.series)]


def _is_of(path: Path, series: str) -> bool:
    """Whether a file is DICOM of a series; not if it cannot be read."""
    try:
        header = _file_header(path) if path.is_file() else None
    except OSError:
        return False
    return header is not None and header.series == series


def _file_header(path: Path) -> DicomHeader | None:
    found = path.stat()
    return _header_on_disk(path, found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(maxsize=1 << 14)
def _header_on_disk(
    path: Path, size: int, modified_ns: int, inode: int
) -> DicomHeader | None:
    return None if size <= MAGIC_BYTES else read_header(path)
