"""A run's files as a snapshot, also of a run that has not written its tables yet.

A run of ten thousand slides tells every few seconds how far it is. So what was read of
a finished slide, and what was made of it, is kept for as long as its record stands.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from digipath_ray.manifest import SlideRow, check_slide_id
from digipath_ray.outcome import member_notes
from digipath_ray.report.findings import Findings, Row, read_findings
from digipath_ray.report.slides import SlideView, view_slides
from digipath_ray.rundir import READERS, Failure, RunDirectory
from digipath_ray.schema import OUTCOMES, SLIDES
from digipath_ray.slidetable import row_of
from digipath_ray.storage import is_url
from digipath_ray.viewer.entries import (
    done_entry,
    failed_entry,
    full_outcome,
    key_of,
    left_entry,
    running_entry,
    say_status,
    urgency,
)
from digipath_ray.viewer.failures import Failures
from digipath_ray.viewer.marks import RunMarks
from digipath_ray.viewer.patients import NOT_STAGED, say_patients
from digipath_ray.viewer.snapshot import Entry, InRun, Json, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What an entry is made of; while that stays, so does the entry.

    Attributes:
        tables: which reading of the run's tables it is from.
        stamp: of its ``done`` record.
        record: that; None of one that is not done.
        failure: why it failed.
        goes_on: the run's driver lives.
        progress: share predicted of one that is in flight.
    """

    tables: int
    stamp: str | None
    record: Row | None
    failure: Failure | None
    goes_on: bool
    progress: float | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """An entry, what it was made of, and its place; None of an id that is no name."""

    standing: Standing
    entry: Entry | None = None
    urgency: tuple[Any, ...] = ()


class RunReader:
    """Reads a run again as it changes: only what has changed."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        """A reader that has read nothing yet.

        Args:
            run: the run.
            name: FIRST or SECOND.
        """
        self.run, self.name = run, name
        self._findings: Findings | None = None
        self._read_from: tuple[str, ...] = ()
        self._tables = 0
        self._given: Mapping[str, SlideRow] = {}
        self._records: dict[str, tuple[str, Row | None]] = {}
        self._failures = Failures()
        self._made: dict[str, Made] = {}

    def read(self, marks: RunMarks, given: Mapping[str, SlideRow]) -> Snapshot:
        """The run as it stands.

        Args:
            marks: what its files are.
            given: slide_id -> the slide as the user named it; the same mapping as
                before if nothing has changed in it.

        Raises:
            ValueError: one of its files is damaged.
            OSError: one cannot be read.
        """
        findings = self._read_tables(marks)
        if given is not self._given:
            self._given, self._tables = given, self._tables + 1
        failures = self._failures.known(findings, marks)
        self._make(findings, self._stand(findings, marks, failures), marks)
        return self._snapshot(findings, marks, named=len(failures))

    def _read_tables(self, marks: RunMarks) -> Findings:
        """The tables, and the records that are new; all anew if a table has changed."""
        now = (marks.settings, *marks.tables)
        if self._findings is None or now != self._read_from:
            findings = read_findings(self.run)
            self._findings, self._read_from = findings, now
            self._tables += 1
            self._records = {
                slide_id: (mark, findings.records.get(slide_id))
                for slide_id, mark in marks.done.items()
            }
            return findings
        kept = {
            slide_id: self._records[slide_id]
            for slide_id, mark in marks.done.items()
            if slide_id in self._records and self._records[slide_id][0] == mark
        }
        new = [slide_id for slide_id in marks.done if slide_id not in kept]
        with ThreadPoolExecutor(READERS) as threads:
            for slide_id, record in zip(
                new, threads.map(self._record, new), strict=True
            ):
                kept[slide_id] = (marks.done[slide_id], record)
        self._records = kept
        return self._findings

    def _record(self, slide_id: str) -> Row | None:
        """A ``done`` record; None of one that is damaged, or gone again."""
        with contextlib.suppress(ValueError, FileNotFoundError):
            record = self.run.read_record(slide_id)
            return record if record.keys() & {"slide", "outcome"} else None
        return None

    def _stand(
        self, findings: Findings, marks: RunMarks, failures: Mapping[str, Failure]
    ) -> dict[str, Standing]:
        """What there is of each slide."""
        done = {i: known for i, known in self._records.items() if known[1] is not None}
        progress = {} if marks.status is None else marks.status.progress
        names = dict.fromkeys((*failures, *findings.slides, *findings.outcomes, *done))
        return {
            slide_id: Standing(
                tables=self._tables,
                stamp=marks.done.get(slide_id),
                record=done.get(slide_id, (None, None))[1],
                failure=failures.get(slide_id),
                goes_on=marks.state == "running",
                progress=progress.get(slide_id),
            )
            for slide_id in names
        }

    def _make(
        self, findings: Findings, now: Mapping[str, Standing], marks: RunMarks
    ) -> None:
        """Make what is not as it was, and forget what is gone."""
        kept = {
            slide_id: made
            for slide_id, made in self._made.items()
            if slide_id in now and made.standing == now[slide_id]
        }
        new = {i: standing for i, standing in now.items() if i not in kept}
        self._made = {**kept, **self._make_new(findings, new, marks)}

    def _make_new(
        self, findings: Findings, new: Mapping[str, Standing], marks: RunMarks
    ) -> dict[str, Made]:
        outcomes = dict(self._outcomes(findings, new, marks))
        part = replace(
            findings,
            slides={i: findings.slides[i] for i in new if i in findings.slides},
            outcomes=outcomes,
            failures=tuple(s.failure for s in new.values() if s.failure is not None),
            records={i: s.record for i, s in new.items() if s.record is not None},
        )
        made = {slide_id: Made(standing=standing) for slide_id, standing in new.items()}
        for view in view_slides(part):
            standing = new[view.slide_id]
            if _is_safe(view.slide_id):
                entry = self._entry(part, view, standing)
                made[view.slide_id] = Made(
                    standing=standing, entry=entry, urgency=urgency(view)
                )
        return made

    def _outcomes(
        self, findings: Findings, new: Mapping[str, Standing], marks: RunMarks
    ) -> Iterator[tuple[str, Row]]:
        """The rows of OUTCOMES, with those that no table holds yet."""
        spec = findings.config.outcome
        by_size = spec.outcome == "stage" and spec.stage_model is None
        is_told = marks.state not in ("running", "dead") and bool(findings.outcomes)
        for slide_id, standing in new.items():
            row, record = findings.outcomes.get(slide_id), standing.record
            if standing.failure is not None:
                continue
            # Of what is made again the table still has the old row.
            if row is not None and (is_told or record is not None):
                yield slide_id, row
            elif not is_told and record is not None and "outcome" in record:
                names = OUTCOMES.names
                yield slide_id, full_outcome(record, names, by_size=by_size)

    def _entry(self, findings: Findings, view: SlideView, standing: Standing) -> Entry:
        slide_id, known = view.slide_id, findings.slide(view.slide_id)
        told = {**dict.fromkeys(SLIDES.names), **known} if known else {}
        row = row_of(told) if told else self._row(view, standing.failure)
        outcome = findings.outcomes.get(slide_id)
        held = InRun(run=self.run, slide_id=slide_id, stamp=standing.stamp)
        return Entry(
            key=key_of(slide_id),
            row=row,
            says=self._says(findings, view, row, standing),
            told=told,
            runs={self.name: held},
            outcomes={} if outcome is None else {self.name: outcome},
            lesions={}
            if outcome is None
            else {self.name: tuple(findings.lesions(slide_id))},
            facts=view.facts,
            notes=view.notes,
            thresholds={self.name: findings.config.ensemble.threshold},
        )

    def _row(self, view: SlideView, failure: Failure | None) -> SlideRow:
        """Of a slide that was never prepared: as the user named it."""
        given = self._given.get(view.slide_id)
        path = "" if failure is None else failure.path
        return given or SlideRow(
            slide_id=view.slide_id, path=path, patient_id=view.patient_id
        )

    def _says(
        self, findings: Findings, view: SlideView, row: SlideRow, standing: Standing
    ) -> Json:
        outcome = findings.outcomes.get(view.slide_id)
        if outcome is not None:
            ending = findings.config.outcome.outcome
            return done_entry(row, view, outcome, ending=ending)
        if standing.failure is not None:
            drawn = self.run.thumbnail(view.slide_id).exists()
            return failed_entry(row, view, standing.failure, thumbnail=drawn)
        # What is prepared has one; else it is made of the slide, if that is here.
        drawn = view.slide_id in findings.slides or not is_url(row.path)
        if standing.goes_on:
            return running_entry(row, standing.progress, thumbnail=drawn)
        return left_entry(row, view, thumbnail=drawn)

    def _snapshot(self, findings: Findings, marks: RunMarks, *, named: int) -> Snapshot:
        made = sorted(self._made.values(), key=lambda m: m.urgency)
        entries = {m.entry.key: m.entry for m in made if m.entry is not None}
        ending, status = findings.config.outcome.outcome, marks.status
        said = None
        if status is not None and marks.state is not None:
            said = say_status(status, marks.state, named=named)
        return Snapshot(
            title=findings.name,
            kind="run",
            ending=ending,
            notes=tuple(member_notes(findings.config)),
            runs={self.name: self.run},
            status=said,
            entries=entries,
            patients=say_patients(
                findings.patients,
                [entry.says for entry in entries.values()],
                rule=NOT_STAGED[ending],
            ),
        )


def _is_safe(slide_id: str) -> bool:
    """Whether an id can be a file's name; a run's tables are not just believed."""
    try:
        check_slide_id(slide_id, where="the run", fix="")
    except ValueError as e:
        log.warning("left out: %s", e)
        return False
    return True
