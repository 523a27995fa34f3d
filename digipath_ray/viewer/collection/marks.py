"""Detects changes of a run's files without reading them."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.status import State, Status, liveness, read_status
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url

SETTLED_S = 2.0
"""Age, seconds, from which a folder's mtime reliably shows changes on every disk."""

Marks = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunMarks:
    """Version marks of a run's files.

    Attributes:
        settings: version of run.toml; empty if missing.
        manifest: version of manifest.csv, likewise.
        tables: version of each table.
        done: slide_id -> version of its record.
        status: content of status.json.
        state: state of the run.
    """

    settings: str
    manifest: str
    tables: tuple[str, ...]
    done: Marks
    status: Status | None
    state: State | None

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state in ("done", "stopped")


class Marker:
    """Takes the marks of one run repeatedly."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._last: RunMarks | None = None
        self._folder: tuple[int, Marks] | None = None

    def take(self) -> RunMarks:
        """Take the current marks.

        Of an ended run only the top-level files are checked, while they are unchanged.

        Raises:
            ValueError: status.json is damaged.
            OSError: its bucket cannot be reached.
        """
        run, last = self.run, self._last
        status = read_status(run)
        top = (run.settings, run.manifest)
        tables = (run.slides, run.outcomes, run.patients, run.failures)
        settings, manifest = (_mark(path) for path in top)
        marked = tuple(_mark(path) for path in tables)
        unchanged = (
            last is not None
            and last.is_over
            and (last.status, last.settings, last.tables) == (status, settings, marked)
        )
        self._last = RunMarks(
            settings=settings,
            manifest=manifest,
            tables=marked,
            done=last.done if unchanged and last is not None else self._done(),
            status=status,
            state=None if status is None else liveness(status, now=datetime.now(UTC)),
        )
        return self._last

    def _done(self) -> Marks:
        folder = self.run.root / "done"
        if is_url(folder):
            return dict(_objects(folder))
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if self._folder is not None and self._folder[0] == changed:
            return self._folder[1]
        found = dict(_files(folder))
        # Otherwise a record written in the same tick of the disk's clock would be
        # missed.
        settled = time.time() - changed / 1e9 > SETTLED_S
        self._folder = (changed, found) if settled else None
        return found


def _mark(path: Path) -> str:
    """Version of a file; empty if missing."""
    try:
        if is_url(path):
            return bucket.head(path).etag
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


def _objects(folder: Path) -> Iterator[tuple[str, str]]:
    for found in bucket.list_objects(folder):
        name = found.url.rpartition("/")[2]
        if name.endswith(".json"):
            yield name.removesuffix(".json"), found.version.etag


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".json") and not file.name.startswith("."):
                state = file.stat()
                mark = f"{state.st_mtime_ns} {state.st_size}"
                yield file.name.removesuffix(".json"), mark
