"""Files that one slide consists of, on a disk or in a bucket, by their names.

MRXS is a file and a folder of its name, VMS a text and the pictures beside it, DICOM
all files of one series; every other format is one file.
"""

from collections.abc import Iterator
from glob import escape
from pathlib import Path, PurePosixPath

from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import Version
from digipath_ray.storage.dicom import may_be_dicom
from digipath_ray.storage.series import files_of_series, objects_of_series

WITH_FOLDER = (".mrxs",)
WITH_SIBLINGS = (".vms", ".vmu")


def object_parts(url: str) -> dict[str, Version]:
    """Objects of a slide: name relative to its folder -> version.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    path = PurePosixPath(url.partition("://")[2])
    parts = {path.name: bucket.head(url)}
    suffix = path.suffix.lower()
    folder = url[: -len(path.name)]
    beside: dict[str, Version] = {}
    if suffix in WITH_FOLDER:
        below = bucket.list_objects(f"{folder}{path.stem}/")
        beside = {f"{path.stem}/{object_name(o.url)}": o.version for o in below}
    elif suffix in WITH_SIBLINGS:
        for found in bucket.list_objects(folder):
            name = found.url[len(folder) :]
            if "/" not in name and name.startswith(path.stem):
                beside[name] = found.version
    elif may_be_dicom(path.name):
        beside = dict(objects_of_series(url, parts[path.name]))
    return {**beside, **parts}


def object_name(url: str) -> str:
    """Last segment of a URL."""
    return url.rpartition("/")[2]


def file_parts(path: Path) -> list[Path]:
    """Files of a slide on a disk, the one that was named first.

    Raises:
        OSError: the file is not there, or its folder cannot be listed.
    """
    path.stat()
    return [path, *sorted(other for other in _beside(path) if other != path)]


def _beside(path: Path) -> Iterator[Path]:
    """Files that belong to a slide's file."""
    suffix = path.suffix.lower()
    if suffix in WITH_FOLDER and (folder := path.with_suffix("")).is_dir():
        yield from (p for p in folder.iterdir() if p.is_file())
    elif suffix in WITH_SIBLINGS:
        yield from (p for p in path.parent.glob(f"{escape(path.stem)}*") if p.is_file())
    elif may_be_dicom(path.name):
        yield from files_of_series(path)
