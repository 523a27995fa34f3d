"""Where Ray Train keeps checkpoints: a folder on a disk or in a bucket.

Ray Train speaks to storage through pyarrow. pyarrow's own S3 would be a second client
beside ours, with credentials of its own; what obstore offers fsspec takes no buffer of
pyarrow's. So objects are read and written as all others are: whole, with errors that
say what to do.
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
    """A folder as Ray Train names it: path and filesystem, None for a disk's."""
    if not is_url(folder):
        return str(folder), None
    there = cast(UPath, folder)
    return there.path, PyFileSystem(BucketHandler(there.fs))


class BucketHandler(FSSpecHandler):  # type: ignore[misc] # pyarrow has no types
    """Objects of a bucket as files of pyarrow; a path begins with the bucket's name."""

    def open_input_stream(self, path: str) -> PythonFile:
        """An object to read from, in memory.

        Raises:
            OSError: as :func:`digipath_ray.storage.bucket.spoken`.
        """
        return PythonFile(open_file(self._url(path)), mode="r")

    def open_input_file(self, path: str) -> PythonFile:
        """As :meth:`open_input_stream`."""
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> PythonFile:
        """An object to write, which stands once it is closed."""
        return PythonFile(Upload(place(self._url(path))), mode="w")

    def delete_dir(self, path: str) -> None:
        """Remove the objects below a folder.

        fsspec would also remove an object of the folder's name, and not every store
        forgives that there is none.
        """
        for found in bucket.list_objects(self._url(path)):
            place(found.url).unlink(missing_ok=True)

    def _url(self, path: str) -> str:
        return f"{self.fs.protocol}://{path}"


class Upload:
    """A file that is put in a bucket when it is closed; dropped, it is not."""

    def __init__(self, path: Path) -> None:
        self._held = ExitStack()
        self._file = self._held.enter_context(publish(path)).open("wb")

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._file.closed

    def write(self, data: Any) -> int:
        """Write what has bytes; returns how many."""
        return self._file.write(data)

    def flush(self) -> None:
        """Nothing is seen before the end."""

    def close(self) -> None:
        """Put it in the bucket.

        Raises:
            OSError: as :func:`digipath_ray.storage.bucket.spoken`.
        """
        if not self.closed:
            self._file.close()
            self._held.close()
