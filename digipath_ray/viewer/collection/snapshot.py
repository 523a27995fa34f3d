"""What is opened as it stands at one moment: runs, slides, patients; never changed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.report.findings import Row
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import is_url
from digipath_ray.words import count

FIRST, SECOND = "a", "b"
"""Names of the opened run and of the one to compare it with."""

Json = dict[str, Any]
"""What the page is told."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InRun:
    """A slide as one of the opened runs holds it.

    Attributes:
        run: where that lies.
        slide_id: the slide's name.
        stamp: what tells its files from those of another time; None until it is done.
        mpp: um per level-0 px in x and y, where this run took others than the first.
    """

    run: RunDirectory
    slide_id: str
    stamp: str | None
    mpp: tuple[float, float] | None = None

    @property
    def version(self) -> str:
        """Changes when what the run says of the slide does."""
        return _digest(f"{self.run.root} {self.slide_id} {self.stamp}")

    def version_of(self, path: Path) -> str:
        """The same of one of its files that stands before the slide is done.

        Raises:
            FileNotFoundError: it is gone.
        """
        if is_url(path):
            return self.version
        found = path.stat()
        return _digest(f"{self.version} {found.st_mtime_ns} {found.st_size}")

    def find(self, path_of: Callable[[RunDirectory, str], Path]) -> Path | None:
        """One of its files; None if it is not there, or a link leads out of the run.

        Of a bucket's object nothing is asked: it may be absent.
        """
        path, root = path_of(self.run, self.slide_id), self.run.root
        if is_url(path):
            return path if str(path).startswith(f"{root}/") else None
        try:
            real = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # absent; a NUL; links in a circle
            return None
        is_inside = real.is_file() and real.is_relative_to(root.resolve())
        return real if is_inside else None

    def find_finished(
        self, path_of: Callable[[RunDirectory, str], Path]
    ) -> Path | None:
        """As :meth:`find`, of a slide that is done: until then a file may be half."""
        return None if self.stamp is None else self.find(path_of)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A slide of a collection.

    Attributes:
        key: its name in addresses.
        row: as the manifest, or the run, had it.
        payload: what the page shows of it.
        record: its row of SLIDES; empty if no run has prepared it.
        runs: those that hold it, by name.
        outcomes: by run, its row of OUTCOMES.
        lesions: by run, as its record lists them.
        facts: of the first run, names and numbers in words.
        notes: what else to know of it.
        thresholds: by run, probability at which it outlined lesions.
    """

    key: str
    row: SlideRow
    payload: Json
    record: Row = field(default_factory=dict)
    runs: Mapping[str, InRun] = field(default_factory=dict)
    outcomes: Mapping[str, Row] = field(default_factory=dict)
    lesions: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def slide_id(self) -> str:
        """Its name."""
        return self.row.slide_id

    @property
    def l0_size(self) -> tuple[int, int] | None:
        """Width and height, level-0 px, where a run says so."""
        return (self.record["width"], self.record["height"]) if self.record else None

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Um per level-0 px in x and y, where a run says so."""
        return (self.record["mpp_x"], self.record["mpp_y"]) if self.record else None

    def mpp_of(self, run: str) -> tuple[float, float]:
        """The same as one of its runs took them; 1 where nobody says."""
        return self.runs[run].mpp or self.mpp or (1.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A collection as it stands.

    Attributes:
        state: tells it from every other of its collection.
        title: what is opened.
        kind: "run" or "folder".
        ending: what a run's slides end in: "stage", "burden" or "none".
        notes: why its findings are no prediction, or no test.
        runs: the opened ones, by name.
        status: how far the first run is, as JSON; None of one that does not say.
        entries: by key, the most pressing first.
        patients: as JSON, in the order of their names.
    """

    state: str = ""
    title: str
    kind: str
    ending: str
    notes: tuple[str, ...] = ()
    runs: Mapping[str, RunDirectory] = field(default_factory=dict)
    status: Json | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    patients: Sequence[Json] = ()

    @property
    def slides(self) -> dict[str, Json]:
        """Key -> what is said of the slide."""
        return {key: entry.payload for key, entry in self.entries.items()}


def lay_over(slides: Snapshot, run: Snapshot) -> Snapshot:
    """A run, and behind it the slides that it does not know of."""
    left = {k: e for k, e in slides.entries.items() if k not in run.entries}
    if not left:
        return run
    entries = {**run.entries, **left}
    behind = {patient["patient_id"]: patient for patient in slides.patients}
    patients = [
        _add_left(patient, behind.pop(patient["patient_id"], None), left)
        for patient in run.patients
    ]
    return replace(run, entries=entries, patients=[*patients, *behind.values()])


def _add_left(patient: Json, behind: Json | None, left: Mapping[str, Entry]) -> Json:
    """A patient of a run, and the nodes that it left out: they can raise the stage."""
    nodes = [] if behind is None else [n for n in behind["nodes"] if n["key"] in left]
    if not nodes:
        return patient
    payload = {**patient, "nodes": [*patient["nodes"], *nodes]}
    if patient["pn_stage"] is None:
        return payload
    out = f"The run leaves out {count(len(nodes), 'slide')} of this patient."
    return {
        **payload,
        "complete": False,
        "missing": f"{patient['missing']} {out}".strip(),
    }


def add_second(first: Snapshot, second: Snapshot) -> Snapshot:
    """A run, and what the one to compare it with has found on the same slides."""
    entries = {
        key: _add(entry, second.entries[key]) if key in second.entries else entry
        for key, entry in first.entries.items()
    }
    return replace(first, entries=entries, runs={**first.runs, **second.runs})


def _add(entry: Entry, other: Entry) -> Entry:
    if not other.outcomes:
        return entry
    runs = {k: replace(held, mpp=other.mpp) for k, held in other.runs.items()}
    versions = " ".join(held.version for held in runs.values())
    return replace(
        entry,
        payload={**entry.payload, "second": versions},
        runs={**entry.runs, **runs},
        outcomes={**entry.outcomes, **other.outcomes},
        lesions={**entry.lesions, **other.lesions},
        thresholds={**entry.thresholds, **other.thresholds},
    )


def _digest(payload: str) -> str:
    return hashlib.sha256(payload.encode()).hexdigest()[:16]
