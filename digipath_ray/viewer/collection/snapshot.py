"""Immutable snapshot of a collection: runs, slides, patients."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.report.findings import Row
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.record import canvas_of_row
from digipath_ray.slide.info import Canvas
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.storage.files import is_url
from digipath_ray.words import count

FIRST, SECOND = "a", "b"
"""Names of the opened run and of the run to compare with."""

Json = dict[str, Any]
"""JSON payload for the page."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InRun:
    """A slide in one of the opened runs.

    Attributes:
        run: run directory.
        slide_id: slide_id.
        stamp: version of its files; None until it is done.
        mpp: um per level-0 px in x and y, if different from the first run.
    """

    run: RunDirectory
    slide_id: str
    stamp: str | None
    mpp: tuple[float, float] | None = None

    @property
    def version(self) -> str:
        """Version that changes with the slide's results."""
        return _digest(f"{self.run.root} {self.slide_id} {self.stamp}")

    def version_of(self, path: Path) -> str:
        """Version of a file that exists before the slide is done.

        Raises:
            FileNotFoundError: the file is missing.
        """
        if is_url(path):
            return self.version
        found = path.stat()
        return _digest(f"{self.version} {found.st_mtime_ns} {found.st_size}")

    def find(self, path_of: Callable[[RunDirectory, str], Path]) -> Path | None:
        """Find a file of the slide; None if missing, or linked out of the run.

        The existence of an object in a bucket is not checked.
        """
        path, root = path_of(self.run, self.slide_id), self.run.root
        if is_url(path):
            return path if str(path).startswith(f"{root}/") else None
        try:
            real = path.resolve(strict=True)
        except (
            OSError,
            ValueError,
            RuntimeError,
        ):  # missing; NUL in the path; circular links
            return None
        is_inside = real.is_file() and real.is_relative_to(root.resolve())
        return real if is_inside else None

    def find_finished(
        self, path_of: Callable[[RunDirectory, str], Path]
    ) -> Path | None:
        """Find a file of a finished slide; before that it may be incomplete."""
        return None if self.stamp is None else self.find(path_of)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A slide of a collection.

    Attributes:
        key: key in URLs.
        row: row of the manifest or the run.
        payload: JSON payload.
        record: row in SLIDES; empty if not prepared.
        runs: runs that contain it, by name.
        outcomes: row in OUTCOMES, by run.
        lesions: lesions of the record, by run.
        facts: formatted facts of the first run.
        notes: further notes.
        thresholds: probability threshold of the lesions, by run.
        stains: the slide's and those that its first network saw it in, of the first
            run; None if it was not normalized.
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
    stains: tuple[StainEstimate, StainEstimate] | None = None

    @property
    def slide_id(self) -> str:
        """slide_id of the row."""
        return self.row.slide_id

    @property
    def l0_size(self) -> tuple[int, int] | None:
        """Width and height, level-0 px; None if unknown."""
        return (self.record["width"], self.record["height"]) if self.record else None

    @property
    def canvas(self) -> Canvas | None:
        """Where the slide lies in its canvas; None if it is its own, or unknown."""
        return canvas_of_row(self.record) if self.record else None

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Um per level-0 px in x and y; None if unknown."""
        return (self.record["mpp_x"], self.record["mpp_y"]) if self.record else None

    def mpp_of(self, run: str) -> tuple[float, float]:
        """Um per level-0 px in x and y in one of its runs; 1 if unknown."""
        return self.runs[run].mpp or self.mpp or (1.0, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """State of a collection.

    Attributes:
        state: unique id of the snapshot in its collection.
        title: title of the collection.
        kind: "run" or "folder".
        ending: outcome of the run: "stage", "burden" or "none".
        notes: limits of the findings as prediction or test.
        runs: opened runs, by name.
        status: progress of the first run as JSON; None if unknown.
        entries: entries by key, most urgent first.
        patients: payloads sorted by name.
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
        """Key -> payload of the slide."""
        return {key: entry.payload for key, entry in self.entries.items()}


def lay_over(slides: Snapshot, run: Snapshot) -> Snapshot:
    """Combine a run with the slides that it does not contain."""
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
    """Add to a patient the nodes missing from the run, which may raise the stage."""
    nodes = [] if behind is None else [n for n in behind["nodes"] if n["key"] in left]
    if not nodes:
        return patient
    payload = {**patient, "nodes": [*patient["nodes"], *nodes]}
    if patient["pn_stage"] is None:
        return payload
    out = f"The run does not include {count(len(nodes), 'slide')} of this patient."
    return {
        **payload,
        "complete": False,
        "missing": f"{patient['missing']} {out}".strip(),
    }


def add_second(first: Snapshot, second: Snapshot) -> Snapshot:
    """Combine a run with the results of a second run on the same slides."""
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
