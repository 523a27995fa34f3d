"""Builds the entry of a slide from the available results of a run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from digipath_ray.cohort.manifest import SlideRow, check_slide_id
from digipath_ray.config.run import RunConfig
from digipath_ray.networks.references import reference_of
from digipath_ray.report.findings import Findings, Row
from digipath_ray.report.slides import SlideView, view_slides
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.schema import OUTCOMES, SLIDES
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.storage.files import is_url
from digipath_ray.viewer.collection.entries import (
    done_entry,
    failed_entry,
    full_outcome,
    key_of,
    left_entry,
    running_entry,
    urgency,
)
from digipath_ray.viewer.collection.snapshot import Entry, InRun, Json

log = logging.getLogger(__name__)

DAMAGED = (ValueError, LookupError, TypeError, AttributeError)
"""Errors of files with unexpected content."""


@dataclass(frozen=True, kw_only=True)
class EntryInputs:
    """Inputs of an entry; while they are equal, the entry is reused.

    Attributes:
        tables: version of the run's tables.
        stamp: stamp of the ``done`` record.
        record: ``done`` record; None if not done.
        failure: failure, if any.
        goes_on: whether the run's driver is alive.
        progress: predicted fraction of a slide in progress.
    """

    tables: int
    stamp: str | None
    record: DoneRecord | None
    failure: Failure | None
    goes_on: bool
    progress: float | None


@dataclass(frozen=True, kw_only=True)
class BuiltEntry:
    """An entry, its inputs and sort key; None for an unsafe slide_id."""

    inputs: EntryInputs
    entry: Entry | None = None
    urgency: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class EntryBuilder:
    """Builds the entries of a run.

    Attributes:
        findings: tables of the run.
        run: run directory.
        name: FIRST or SECOND.
        given: slide_id -> row of the user's manifest.
        is_complete: whether the tables contain all results of the run.
    """

    findings: Findings
    run: RunDirectory
    name: str
    given: Mapping[str, SlideRow]
    is_complete: bool

    def build(self, slide_id: str, inputs: EntryInputs) -> BuiltEntry:
        """Build the entry of a slide; a damaged record fails only its own slide."""
        if not _is_safe(slide_id):
            return BuiltEntry(inputs=inputs)
        failed = replace(inputs, record=None, failure=_damaged(slide_id))
        if inputs.stamp is not None and inputs.record is None:
            return replace(self._build(slide_id, failed), inputs=inputs)
        try:
            return self._build(slide_id, inputs)
        except DAMAGED as e:
            if inputs.record is None:
                raise
            log.warning("%s: %s: %s", self.run.done(slide_id), type(e).__name__, e)
            return replace(self._build(slide_id, failed), inputs=inputs)

    def _build(self, slide_id: str, inputs: EntryInputs) -> BuiltEntry:
        findings, outcome = self.findings, self._outcome(slide_id, inputs)
        slide_row, record = findings.slides.get(slide_id), inputs.record
        part = replace(
            findings,
            slides={} if slide_row is None else {slide_id: slide_row},
            outcomes={} if outcome is None else {slide_id: outcome},
            failures=() if inputs.failure is None else (inputs.failure,),
            records={} if record is None else {slide_id: record},
        )
        for view in view_slides(part):
            entry = self._entry(part, view, inputs)
            return BuiltEntry(inputs=inputs, entry=entry, urgency=urgency(view))
        return BuiltEntry(inputs=inputs)

    def _outcome(self, slide_id: str, inputs: EntryInputs) -> Row | None:
        """Row of the slide in OUTCOMES, even before the table has it."""
        row, record = self.findings.outcomes.get(slide_id), inputs.record
        if inputs.failure is not None:
            return None
        if record is None:  # the table still has the old row of a recomputed slide
            return row if self.is_complete else None
        if row is not None and _agree(row, record):
            return row
        spec = self.findings.config.outcome
        by_size = spec.outcome == "stage" and spec.stage_model is None
        return full_outcome(record, OUTCOMES.names, by_size=by_size)

    def _entry(self, findings: Findings, view: SlideView, inputs: EntryInputs) -> Entry:
        slide_id, known = view.slide_id, findings.slide(view.slide_id)
        slide_row = {**dict.fromkeys(SLIDES.names), **known} if known else {}
        row = (
            SlideRecord.from_row(slide_row)
            if slide_row
            else self._row(view, inputs.failure)
        )
        outcome = findings.outcomes.get(slide_id)
        held = InRun(run=self.run, slide_id=slide_id, stamp=inputs.stamp)
        return Entry(
            key=key_of(slide_id),
            row=row,
            payload=self._payload(findings, view, row, inputs),
            record=slide_row,
            runs={self.name: held},
            outcomes={} if outcome is None else {self.name: outcome},
            lesions={}
            if outcome is None
            else {self.name: tuple(findings.lesions(slide_id))},
            facts=view.facts,
            notes=view.notes,
            thresholds={self.name: findings.config.outcome.threshold},
            stains=_stains(row, findings.config, inputs.record),
        )

    def _row(self, view: SlideView, failure: Failure | None) -> SlideRow:
        """Row of a slide; if never prepared, as given by the user."""
        given = self.given.get(view.slide_id)
        path = "" if failure is None else failure.path
        return given or SlideRow(
            slide_id=view.slide_id, path=path, patient_id=view.patient_id
        )

    def _payload(
        self, findings: Findings, view: SlideView, row: SlideRow, inputs: EntryInputs
    ) -> Json:
        outcome = findings.outcomes.get(view.slide_id)
        if outcome is not None:
            ending = findings.config.outcome.outcome
            return done_entry(row, view, outcome, ending=ending)
        if inputs.failure is not None:
            drawn = self.run.thumbnail(view.slide_id).exists()
            return failed_entry(row, view, inputs.failure, thumbnail=drawn)
        # A prepared slide has one; else it is drawn from the slide, if local.
        drawn = view.slide_id in findings.slides or not is_url(row.path)
        if inputs.goes_on:
            return running_entry(row, inputs.progress, thumbnail=drawn)
        return left_entry(row, view, thumbnail=drawn)


def _stains(
    row: SlideRow, config: RunConfig, done: DoneRecord | None
) -> tuple[StainEstimate, StainEstimate] | None:
    """A normalized slide's stains, and the reference of the first of its members."""
    found = row.normalized_from if isinstance(row, SlideRecord) else None
    members = [m for m in config.members if done is None or m.name in done.members]
    if found is None or not members:
        return None
    return found, reference_of(members[0], found.method)


def _agree(row: Row, record: DoneRecord) -> bool:
    """Whether a row of OUTCOMES belongs to this record, not to an earlier one.

    A record contains its duration, so no two are equal; values decided by the cohort,
    such as types by forests, are only in the row.
    """
    return all(
        row[name] == value or value != value  # NaN
        for name, value in record.outcome.items()
        if name in row
    )


def _damaged(slide_id: str) -> Failure:
    return Failure(
        slide_id=slide_id,
        path="",
        patient_id=None,
        step="record",
        attempt=0,
        error=f"the record done/{slide_id}.json is damaged",
        hint="delete that file and start the run again to recompute the slide",
    )


def _is_safe(slide_id: str) -> bool:
    """Whether an id is a safe file name; a run's tables are not trusted."""
    try:
        check_slide_id(slide_id, where="the run", fix="")
    except ValueError as e:
        log.warning("skipped: %s", e)
        return False
    return True
