"""What a run's files are, found out without reading them, so that a change shows."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from digipath_ray import bucket
from digipath_ray.rundir import RunDirectory
from digipath_ray.status import State, judge, read_status
from digipath_ray.storage import is_url


@dataclass(frozen=True, kw_only=True)
class RunMarks:
    """What a run's files are, so that a change shows.

    Attributes:
        settings: whether run.toml stands.
        tables: of each file at the top what tells its versions apart.
        done: slide_id and the same of its record.
        status: what status.json says.
        state: whether the run goes on.
    """

    settings: bool
    tables: tuple[str, ...]
    done: tuple[tuple[str, str], ...]
    status: str
    state: State | None


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Those of both runs."""

    first: RunMarks | None
    second: RunMarks | None


def marks_of(run: RunDirectory) -> RunMarks:
    """What a run's files are now.

    Raises:
        ValueError: status.json is damaged.
        OSError: its bucket does not answer.
    """
    tables = (
        run.settings,
        run.manifest,
        run.slides,
        run.outcomes,
        run.patients,
        run.failures,
    )
    status = read_status(run)
    state = None if status is None else judge(status, now=datetime.now(UTC))
    marks = tuple(_mark(path) for path in tables)
    return RunMarks(
        settings=bool(marks[0]),
        tables=marks,
        done=tuple(sorted(_done_marks(run))),
        status=repr(status),
        state=state,
    )


def _mark(path: Path) -> str:
    """What tells the versions of a file apart; empty if it is not there."""
    try:
        if is_url(path):
            return bucket.head(path).etag
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_mtime_ns} {found.st_size} {found.st_ino}"


def _done_marks(run: RunDirectory) -> Iterator[tuple[str, str]]:
    folder = run.root / "done"
    if is_url(folder):
        for found in bucket.list_objects(folder):
            name = found.url.rpartition("/")[2]
            if name.endswith(".json"):
                yield name.removesuffix(".json"), found.version.etag
        return
    if not folder.is_dir():
        return
    with os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(".json") and not file.name.startswith("."):
                state = file.stat()
                mark = f"{state.st_mtime_ns} {state.st_size}"
                yield file.name.removesuffix(".json"), mark
