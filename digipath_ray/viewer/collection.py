"""What is opened: a run, on a disk or in a bucket, or slides before any run.

A :class:`Collection` is read again when the run's files have changed, and always gives
a whole :class:`Snapshot`, which never changes. Slides go by keys; what is no key of the
snapshot does not exist.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from digipath_ray.cohort import read_cohort
from digipath_ray.manifest import SlideRow, read_manifest
from digipath_ray.rundir import RunDirectory
from digipath_ray.storage import is_url, place
from digipath_ray.viewer.entries import blank_entry, say_patients
from digipath_ray.viewer.marks import Marks, marks_of
from digipath_ray.viewer.opened import FIRST, SECOND, Entry, OpenRun, Snapshot
from digipath_ray.viewer.reading import add_second, lay_over, read_run

log = logging.getLogger(__name__)

LOOK_S, LOOK_BUCKET_S = 1.0, 10.0
"""How often the files of a run are looked at, on a disk and in a bucket."""


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
        self._title = title
        self._slides = tuple(slides)
        self.run, self.against = run, against
        self._started: RunDirectory | None = None
        self._follows = run is None
        self._lock = threading.Lock()
        self._marks: Marks | None = self._look()
        self._snapshot = self._read(self._marks)
        self._looked = time.monotonic()

    @property
    def stale(self) -> bool:
        """Whether it is time to look at the files again."""
        run = self._started or self.run
        every = LOOK_BUCKET_S if run is not None and is_url(run.root) else LOOK_S
        return run is not None and time.monotonic() - self._looked >= every

    @property
    def latest(self) -> Snapshot:
        """As it was when it was last looked at."""
        return self._snapshot

    def snapshot(self) -> Snapshot:
        """As it stands; while another thread looks, as it was."""
        if self.stale and self._lock.acquire(blocking=False):
            try:
                self._look_again()
            finally:
                self._looked = time.monotonic()
                self._lock.release()
        return self._snapshot

    def _look_again(self) -> None:
        """Read what has changed; what cannot be read is shown as it was."""
        try:
            if self._started is not None and self._started.settings.exists():
                self.run, self._started = self._started, None
            marks = self._look()
            if marks != self._marks:
                self._marks = marks
                self._snapshot = self._read(marks)
        except ValueError as e:  # damaged: until its file changes again
            log.warning("%s: shown as it was: %s", self._title, e)
        except OSError as e:
            self._marks = None
            log.warning("%s: shown as it was: %s", self._title, e)

    def follow(self, run: RunDirectory) -> None:
        """Show a run that was started from here, once it stands; a run stays open."""
        if self._follows:
            self._started, self._looked = run, 0.0

    def _look(self) -> Marks:
        """What there is of the runs, without reading it."""
        return Marks(
            first=None if self.run is None else marks_of(self.run),
            second=None if self.against is None else marks_of(self.against),
        )

    def _read(self, marks: Marks) -> Snapshot:
        slides = self._slides or self._read_manifest()
        snapshot = self._blank(slides)
        if self.run is not None and marks.first is not None and marks.first.settings:
            first = OpenRun(
                name=FIRST, directory=self.run, stamps=dict(marks.first.done)
            )
            snapshot = lay_over(snapshot, read_run(first, marks.first, slides))
        if self.against is not None and marks.second is not None:
            second = OpenRun(
                name=SECOND, directory=self.against, stamps=dict(marks.second.done)
            )
            snapshot = add_second(snapshot, second)
        return snapshot

    def _read_manifest(self) -> Sequence[SlideRow]:
        """The slides that a run was asked for, which it tells before all else."""
        if self.run is None or not self.run.manifest.exists():
            return ()
        return tuple(row for row, _ in read_manifest(self.run.manifest))

    def _blank(self, slides: Sequence[SlideRow]) -> Snapshot:
        """Slides of which no run has said anything yet."""
        entries = {}
        for row in slides:
            says = blank_entry(row, thumbnail=True)
            entries[says["key"]] = Entry(key=says["key"], row=row, says=says)
        patients = say_patients([], [], [entry.says for entry in entries.values()])
        return Snapshot(
            title=self._title,
            kind="folder",
            ending="none",
            entries=entries,
            patients=patients,
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
