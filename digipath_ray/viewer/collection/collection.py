"""The opened collection: a run, on disk or in a bucket, or slides without a run.

A :class:`Collection` is reloaded when the run's files have changed, and always returns
a complete, immutable :class:`Snapshot`. Slides are addressed only by keys of the
snapshot.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow, read_manifest
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import is_url, place
from digipath_ray.viewer.collection.builder import DAMAGED
from digipath_ray.viewer.collection.entries import blank_entry
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
"""Poll interval of a running run's files, seconds, on disk and in a bucket."""
LOOK_OVER_S = 30.0
"""Poll interval of a run that has ended, seconds: it may be resumed."""
RECENT = 16
"""Number of recent snapshots, so that a reconnecting page gets only the changes."""


class Opened:
    """An opened run: marks of its files, and their reader."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        self.run = run
        self._marker, self.reader = Marker(run), RunReader(run, name)
        self.marks: RunMarks | None = None

    @property
    def every_s(self) -> float:
        """Poll interval, seconds."""
        if self.marks is not None and self.marks.is_over:
            return LOOK_OVER_S
        return LOOK_BUCKET_S if is_url(self.run.root) else LOOK_S

    def look(self) -> RunMarks:
        """Take the current marks of its files; errors as :meth:`Marker.take`."""
        self.marks = self._marker.take()
        return self.marks


class Collection:
    """The opened runs or slides, reloaded as they change; thread-safe."""

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
        """The run shown."""
        return None if self._first is None else self._first.run

    @property
    def latest(self) -> Snapshot:
        """Latest snapshot, without polling."""
        return self._recent[-1]

    def recall(self, state: str) -> Snapshot | None:
        """Snapshot of a state; None if unknown or too old."""
        return next((s for s in self._recent if s.state == state), None)

    @property
    def is_due(self) -> bool:
        """Whether the poll interval has passed."""
        if self._started is not None:
            return True
        waits = [opened.every_s for opened in self._opened()]
        return bool(waits) and time.monotonic() - self._looked >= min(waits)

    def look(self) -> Snapshot:
        """Poll the files; returns the latest snapshot if another thread is polling."""
        if self._lock.acquire(blocking=False):
            try:
                self._look_again()
            finally:
                self._looked = time.monotonic()
                self._lock.release()
        return self.latest

    def _look_again(self) -> None:
        """Reload what has changed; keep the old state of what cannot be read."""
        try:
            if self._started is not None and self._started.settings.exists():
                self._first, self._started = Opened(self._started, FIRST), None
            marks = self._look()
            if marks != self._marks:
                self._marks = marks
                self._keep(self._read())
        except DAMAGED as e:  # retried when its file changes again
            log.warning(
                "%s: showing the previous state: %s: %s",
                self._title,
                type(e).__name__,
                e,
            )
        except OSError as e:
            self._marks = None
            log.warning("%s: showing the previous state: %s", self._title, e)

    def _keep(self, snapshot: Snapshot) -> None:
        """Publish a snapshot; equal patients are shared with the previous one."""
        before = self.latest
        if list(before.patients) == list(snapshot.patients):
            snapshot = replace(snapshot, patients=before.patients)
        self._recent = (*self._recent[1 - RECENT :], snapshot)

    def follow(self, run: RunDirectory) -> None:
        """Show a run started from the page, once it exists; an opened run is kept."""
        if self._follows:
            self._started = run

    def _opened(self) -> list[Opened]:
        return [opened for opened in (self._first, self._second) if opened is not None]

    def _look(self) -> tuple[RunMarks, ...]:
        """Take the marks of the runs without reading their files."""
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
        """Read the slides of the run's manifest, its first file."""
        first = self._first
        if first is None or first.marks is None:
            return
        if first.marks.manifest != self._manifest:
            rows = [row for row, _ in read_manifest(first.run.manifest)]
            self._manifest = first.marks.manifest
            self._set_slides(rows)

    def _set_slides(self, slides: Iterable[SlideRow]) -> None:
        """Set slides without results yet."""
        self._given = {row.slide_id: row for row in slides}
        entries = {}
        for row in self._given.values():
            # A thumbnail of a slide in a bucket would require downloading all of it.
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
    """Open a run directory, or slides as accepted by ``digipath run``.

    Raises:
        ValueError: neither of the two; or ``against`` is not a run, or has no run to
            compare with.
        OSError: it cannot be read.
    """
    other = None if against is None else RunDirectory(against)
    if other is not None and not other.settings.exists():
        raise ValueError(f"{other.root}: not a run directory, run.toml is missing")
    first = RunDirectory(slides[0])
    if len(slides) == 1 and (first.settings.exists() or first.status.exists()):
        name = "/".join(first.root.parts[-2:]).lstrip("/")
        return Collection(title=name, run=first, against=other)
    if other is not None:
        raise ValueError("--against compares two runs: give two run directories")
    title = place(slides[0]).name or str(slides[0])
    return Collection(title=title, slides=read_cohort(slides))
