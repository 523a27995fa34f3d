"""Checkpoint storage of Ray Train, on disk or in a bucket.

Ray Train accesses storage through pyarrow. pyarrow's own S3 would be a second client
with separate credentials, and obstore's fsspec files do not accept pyarrow buffers. So
objects are read and written whole, as everywhere else, with errors that tell the fix.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from pyarrow import PythonFile
from pyarrow.fs import FSSpecHandler, PyFileSystem
from upath import UPath

from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, open_file, place, publish


def storage_of(folder: Path) -> tuple[str, PyFileSystem | None]:
    """Path and pyarrow filesystem of a folder for Ray Train; None for a disk."""
    if not is_url(folder):
        return str(folder), None
    there = cast(UPath, folder)
    return there.path, PyFileSystem(BucketHandler(there.fs))


class BucketHandler(FSSpecHandler):  # type: ignore[misc] # pyarrow has no types
    """Objects of a bucket as pyarrow files; paths begin with the bucket's name."""

    def open_input_stream(self, path: str) -> PythonFile:
        """Open an object for reading, in memory.

        Raises:
            OSError: the bucket cannot be accessed.
        """
        return PythonFile(open_file(self._url(path)), mode="r")

    def open_input_file(self, path: str) -> PythonFile:
        """Open an object for random access, in memory."""
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> PythonFile:
        """Open an object for writing; it is uploaded when closed."""
        return PythonFile(Upload(place(self._url(path))), mode="w")

    def delete_dir(self, path: str) -> None:
        """Delete the objects below a folder.

        fsspec would also delete an object with the folder's name, and some stores fail
        if it does not exist.
        """
        for found in bucket.list_objects(self._url(path)):
            place(found.url).unlink(missing_ok=True)

    def _url(self, path: str) -> str:
        return f"{self.fs.protocol}://{path}"


class Upload:
    """A file uploaded to a bucket on close; not uploaded if garbage collected."""

    def __init__(self, path: Path) -> None:
        self._held = ExitStack()
        self._file = self._held.enter_context(publish(path)).open("wb")

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    def write(self, data: Any) -> int:
        """Write a bytes-like object; returns the number of bytes."""
        return self._file.write(data)

    def flush(self) -> None:
        """Do nothing: the object is only visible after close."""

    def close(self) -> None:
        """Upload the file.

        Raises:
            OSError: the bucket cannot be accessed.
        """
        if not self.closed:
            self._file.close()
            self._held.close()
