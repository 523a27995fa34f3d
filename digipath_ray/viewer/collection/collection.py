"""What is opened: a run, on a disk or in a bucket, or slides before any run.

A :class:`Collection` is read again when the run's files have changed, and always gives
a whole :class:`Snapshot`, which never changes. Slides go by keys; what is no key of the
snapshot does not exist.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from digipath_ray.cohort.manifest import SlideRow, read_manifest
from digipath_ray.cohort.read import read_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import is_url, place
from digipath_ray.viewer.collection.entries import blank_entry
from digipath_ray.viewer.collection.maker import DAMAGED
from digipath_ray.viewer.collection.marks import Marker, RunMarks
from digipath_ray.viewer.collection.patients import NO_RUN, patient_payloads
from digipath_ray.viewer.collection.reading import RunReader
from digipath_ray.viewer.collection.snapshot import (
    FIRST,
    SECOND,
    Entry,
    Snapshot,
    add_second,
    lay_over,
)

log = logging.getLogger(__name__)

LOOK_S, LOOK_BUCKET_S = 1.0, 10.0
"""How often the files of a run that goes on are looked at, on a disk, in a bucket."""
LOOK_OVER_S = 30.0
"""And those of a run that has ended: somebody may go on with it."""
RECENT = 16
"""Snapshots that are kept, so that a page that comes back is told the news alone."""


class Opened:
    """A run that is opened: its files' marks, and what is read of them."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        self.run = run
        self._marker, self.reader = Marker(run), RunReader(run, name)
        self.marks: RunMarks | None = None

    @property
    def every_s(self) -> float:
        """Seconds between two looks."""
        if self.marks is not None and self.marks.is_over:
            return LOOK_OVER_S
        return LOOK_BUCKET_S if is_url(self.run.root) else LOOK_S

    def look(self) -> RunMarks:
        """What its files are now; errors as :meth:`Marker.take`."""
        self.marks = self._marker.take()
        return self.marks


class Collection:
    """What is opened, read again as it changes; any thread may ask."""

    def __init__(
        self,
        *,
        title: str,
        slides: Sequence[SlideRow] = (),
        run: RunDirectory | None = None,
        against: RunDirectory | None = None,
    ) -> None:
        self._title, self._is_asked = title, bool(slides)
        self._first = None if run is None else Opened(run, FIRST)
        self._second = None if against is None else Opened(against, SECOND)
        self._started: RunDirectory | None = None
        self._follows = run is None
        self._lock = threading.Lock()
        self._born, self._number = uuid.uuid4().hex[:8], 0
        self._manifest = ""
        self._set_slides(slides)
        self._marks: tuple[RunMarks, ...] | None = self._look()
        self._recent: tuple[Snapshot, ...] = (self._read(),)
        self._looked = time.monotonic()

    @property
    def run(self) -> RunDirectory | None:
        """The run that is shown."""
        return None if self._first is None else self._first.run

    @property
    def latest(self) -> Snapshot:
        """As it was when it was last looked at."""
        return self._recent[-1]

    def recall(self, state: str) -> Snapshot | None:
        """The snapshot of a state; None if that is unknown, or too long ago."""
        return next((s for s in self._recent if s.state == state), None)

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at the files again."""
        if self._started is not None:
            return True
        waits = [opened.every_s for opened in self._opened()]
        return bool(waits) and time.monotonic() - self._looked >= min(waits)

    def look(self) -> Snapshot:
        """As it stands; while another thread looks, as it was."""
        if self._lock.acquire(blocking=False):
            try:
                self._look_again()
            finally:
                self._looked = time.monotonic()
                self._lock.release()
        return self.latest

    def _look_again(self) -> None:
        """Read what has changed; what cannot be read is shown as it was."""
        try:
            if self._started is not None and self._started.settings.exists():
                self._first, self._started = Opened(self._started, FIRST), None
            marks = self._look()
            if marks != self._marks:
                self._marks = marks
                self._keep(self._read())
        except DAMAGED as e:  # until its file changes again
            log.warning("%s: shown as it was: %s: %s", self._title, type(e).__name__, e)
        except OSError as e:
            self._marks = None
            log.warning("%s: shown as it was: %s", self._title, e)

    def _keep(self, snapshot: Snapshot) -> None:
        """Show a snapshot; what is said of patients is shared while it is the same."""
        before = self.latest
        if list(before.patients) == list(snapshot.patients):
            snapshot = replace(snapshot, patients=before.patients)
        self._recent = (*self._recent[1 - RECENT :], snapshot)

    def follow(self, run: RunDirectory) -> None:
        """Show a run that was started from here, once it stands; a run stays open."""
        if self._follows:
            self._started = run

    def _opened(self) -> list[Opened]:
        return [opened for opened in (self._first, self._second) if opened is not None]

    def _look(self) -> tuple[RunMarks, ...]:
        """What there is of the runs, without reading it."""
        return tuple(opened.look() for opened in self._opened())

    def _read(self) -> Snapshot:
        if not self._is_asked:
            self._read_manifest()
        snapshot = self._blank
        for opened in self._opened():
            if opened.marks is None or not opened.marks.settings:
                continue
            found = opened.reader.read(opened.marks, self._given)
            join = add_second if opened is self._second else lay_over
            snapshot = join(snapshot, found)
        self._number += 1
        return replace(snapshot, state=f"{self._born}-{self._number}")

    def _read_manifest(self) -> None:
        """The slides that a run was asked for, which it tells before all else."""
        first = self._first
        if first is None or first.marks is None:
            return
        if first.marks.manifest != self._manifest:
            rows = [row for row, _ in read_manifest(first.run.manifest)]
            self._manifest = first.marks.manifest
            self._set_slides(rows)

    def _set_slides(self, slides: Iterable[SlideRow]) -> None:
        """Slides of which no run has said anything yet."""
        self._given = {row.slide_id: row for row in slides}
        entries = {}
        for row in self._given.values():
            # Of a slide in a bucket a thumbnail would mean to fetch all of it.
            payload = blank_entry(row, thumbnail=not is_url(row.path))
            entries[payload["key"]] = Entry(
                key=payload["key"], row=row, payload=payload
            )
        payloads = [entry.payload for entry in entries.values()]
        self._blank = Snapshot(
            title=self._title,
            kind="folder",
            ending="none",
            entries=entries,
            patients=patient_payloads([], payloads, rule=NO_RUN),
        )


def open_collection(
    slides: Sequence[str | Path], *, against: str | Path | None = None
) -> Collection:
    """What the user named: a run's directory, or slides as ``digipath run`` takes them.

    Raises:
        ValueError: it is neither; ``against`` is no run, or there is none to compare.
        OSError: it cannot be read.
    """
    other = None if against is None else RunDirectory(against)
    if other is not None and not other.settings.exists():
        raise ValueError(f"{other.root}: no run directory, it has no run.toml")
    first = RunDirectory(slides[0])
    if len(slides) == 1 and (first.settings.exists() or first.status.exists()):
        name = "/".join(first.root.parts[-2:]).lstrip("/")
        return Collection(title=name, run=first, against=other)
    if other is not None:
        raise ValueError("--against compares a run with a run: name two runs")
    title = place(slides[0]).name or str(slides[0])
    return Collection(title=title, slides=read_cohort(slides))
