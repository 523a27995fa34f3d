"""A run's files as a snapshot, also of a run that has not written its tables yet."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from digipath_ray.manifest import SlideRow, check_slide_id
from digipath_ray.outcome import member_notes
from digipath_ray.prepared import row_of
from digipath_ray.report.evidence import view_patients
from digipath_ray.report.findings import Findings, read_findings
from digipath_ray.report.slides import SlideView, view_slides
from digipath_ray.rundir import Failure, RunDirectory
from digipath_ray.schema import OUTCOMES, SLIDES
from digipath_ray.status import State, Status, read_status
from digipath_ray.viewer.entries import (
    Json,
    done_entry,
    failed_entry,
    full_outcome,
    key_of,
    left_entry,
    running_entry,
    say_patients,
    say_status,
)
from digipath_ray.viewer.marks import RunMarks
from digipath_ray.viewer.opened import Entry, OpenRun, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How far a run is with its slides.

    Attributes:
        goes_on: its driver lives.
        progress: slides in flight, with the share predicted.
        thumbnails: slides that have one.
    """

    goes_on: bool
    progress: Mapping[str, float]
    thumbnails: frozenset[str]


def read_run(run: OpenRun, marks: RunMarks, slides: Sequence[SlideRow]) -> Snapshot:
    """A run as it stands, given its marks, and its slides as the user named them.

    Raises:
        ValueError: one of its files is damaged.
        OSError: one cannot be read.
    """
    status = read_status(run.directory)
    findings = find_now(run.directory, status, marks.state)
    views = {view.slide_id: view for view in view_slides(findings)}
    rows = {row.slide_id: row for row in slides}
    pace = Pace(
        goes_on=marks.state == "running",
        progress={} if status is None else status.progress,
        thumbnails=_names(run.directory.root / "thumbnails", ".jpg"),
    )
    entries = {}
    for slide_id, view in views.items():
        if _is_safe(slide_id):
            entry = _entry(run, findings, view, rows.get(slide_id), pace)
            entries[entry.key] = entry
    seen = [entry.says for entry in entries.values()]
    return Snapshot(
        title=findings.name,
        kind="run",
        ending=findings.config.outcome.outcome,
        notes=tuple(member_notes(findings.config)),
        runs={run.name: run},
        status=_said(status, marks.state),
        entries=entries,
        patients=say_patients(
            findings.patients,
            view_patients(findings.patients, list(views.values())),
            seen,
        ),
    )


def _said(status: Status | None, state: State | None) -> Json | None:
    return None if status is None or state is None else say_status(status, state)


def find_now(run: RunDirectory, status: Status | None, state: State | None) -> Findings:
    """A run's findings, with what no table holds before the run is done.

    Raises:
        ValueError: one of its files is damaged.
        OSError: one cannot be read.
    """
    findings = read_findings(run)
    if state in ("running", "dead") and status is not None:
        failures = tuple(_failure(said) for said in status.failures)
        findings = replace(findings, failures=failures)
    elif run.outcomes.exists():
        return findings
    failed = {failure.slide_id for failure in findings.failures}
    over = failed | findings.outcomes.keys()
    spec = findings.config.outcome
    by_size = spec.outcome == "stage" and spec.stage_model is None
    landed = {
        slide_id: full_outcome(record, OUTCOMES.names, by_size=by_size)
        for slide_id, record in findings.records.items()
        if "outcome" in record and slide_id not in over
    }
    # Of what is made again the table still has the old row.
    standing = {
        slide_id: row
        for slide_id, row in findings.outcomes.items()
        if slide_id in findings.records and slide_id not in failed
    }
    return replace(findings, outcomes={**standing, **landed})


def _failure(said: Mapping[str, Any]) -> Failure:
    """A failure of status.json, which says less than the table."""
    return Failure(
        slide_id=said["slide_id"],
        path="",
        patient_id=None,
        step=said["step"],
        attempt=0,
        error=said["error"],
        hint=said["hint"],
    )


def _names(folder: Path, suffix: str) -> frozenset[str]:
    return frozenset(path.name.removesuffix(suffix) for path in folder.glob("*"))


def _is_safe(slide_id: str) -> bool:
    """Whether an id can be a file's name; a run's tables are not just believed."""
    try:
        check_slide_id(slide_id, where="the run", fix="")
    except ValueError as e:
        log.warning("left out: %s", e)
        return False
    return True


def _entry(
    run: OpenRun,
    findings: Findings,
    view: SlideView,
    given: SlideRow | None,
    pace: Pace,
) -> Entry:
    slide_id, known = view.slide_id, findings.slide(view.slide_id)
    told = {**dict.fromkeys(SLIDES.names), **known} if known else {}
    failures = {failure.slide_id: failure for failure in findings.failures}
    row = row_of(told) if told else given or _row_of_failure(failures[slide_id], view)
    outcome = findings.outcomes.get(slide_id)
    if outcome is not None:
        ending = findings.config.outcome.outcome
        says = done_entry(row, view, outcome, ending=ending)
    elif slide_id in failures:
        failure = failures[slide_id]
        has_thumbnail = slide_id in pace.thumbnails
        says = failed_entry(row, view, failure, thumbnail=has_thumbnail)
    elif pace.goes_on:
        says = running_entry(row, pace.progress.get(slide_id))
    else:
        says = left_entry(row, view)
    return Entry(
        key=key_of(slide_id),
        row=row,
        says=says,
        told=told,
        runs={run.name: run},
        outcomes={} if outcome is None else {run.name: outcome},
        lesions=findings.lesions(slide_id) if outcome is not None else (),
        facts=view.facts,
        notes=view.notes,
        threshold=findings.config.ensemble.threshold,
    )


def _row_of_failure(failure: Failure, view: SlideView) -> SlideRow:
    """Of a slide that was never prepared; where it lies is in its failure."""
    return SlideRow(
        slide_id=failure.slide_id, path=failure.path, patient_id=view.patient_id
    )


def lay_over(slides: Snapshot, run: Snapshot) -> Snapshot:
    """A run, and behind it the slides that it does not know of."""
    if not slides.entries:
        return run
    left = {k: e for k, e in slides.entries.items() if k not in run.entries}
    if not left:
        return run
    entries = {**run.entries, **left}
    known = {patient["patient_id"] for patient in run.patients}
    more = [p for p in slides.patients if p["patient_id"] not in known]
    return replace(run, entries=entries, patients=[*run.patients, *more])


def add_second(snapshot: Snapshot, second: OpenRun) -> Snapshot:
    """The run to compare with: of each slide that both have, what it found."""
    other = find_now(second.directory, None, None)
    entries = {
        key: replace(
            entry,
            runs={**entry.runs, second.name: second},
            outcomes={**entry.outcomes, second.name: other.outcomes[entry.slide_id]},
        )
        if entry.slide_id in other.outcomes
        else entry
        for key, entry in snapshot.entries.items()
    }
    runs = {**snapshot.runs, second.name: second}
    return replace(snapshot, entries=entries, runs=runs)
