"""Reads a run's files into a snapshot, even before its tables are written.

A run of ten thousand slides updates its status every few seconds. So a finished slide's
record and entry are cached for as long as the record is unchanged.
"""

import contextlib
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.networks.notes import member_notes
from digipath_ray.report.findings import Findings, Row, read_findings
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord
from digipath_ray.viewer.collection.builder import BuiltEntry, EntryBuilder, EntryInputs
from digipath_ray.viewer.collection.entries import status_payload
from digipath_ray.viewer.collection.failures import Failures
from digipath_ray.viewer.collection.marks import RunMarks
from digipath_ray.viewer.collection.patients import NOT_STAGED, patient_payloads
from digipath_ray.viewer.collection.snapshot import Snapshot


class RunReader:
    """Reads a run incrementally: only what has changed."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        """Create a reader.

        Args:
            run: the run.
            name: FIRST or SECOND.
        """
        self.run, self.name = run, name
        self._findings: Findings | None = None
        self._read_from: tuple[str, ...] = ()
        self._tables = 0
        self._given: Mapping[str, SlideRow] = {}
        self._records: dict[str, tuple[str, DoneRecord | None]] = {}
        self._failures = Failures()
        self._built: dict[str, BuiltEntry] = {}

    def read(self, marks: RunMarks, given: Mapping[str, SlideRow]) -> Snapshot:
        """Read the current state of the run.

        Args:
            marks: current marks of its files.
            given: slide_id -> row of the user's manifest; the identical mapping object
                if unchanged.

        Raises:
            ValueError: a file is damaged.
            OSError: a file cannot be read.
        """
        findings = self._read_tables(marks)
        if given is not self._given:
            self._given, self._tables = given, self._tables + 1
        failures = self._failures.known(findings, marks)
        self._rebuild(findings, self._inputs(findings, marks, failures), marks)
        return self._snapshot(findings, marks, named=len(failures))

    def _read_tables(self, marks: RunMarks) -> Findings:
        """Read the tables and new records, or all records if a table has changed."""
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

    def _record(self, slide_id: str) -> DoneRecord | None:
        """Read a ``done`` record; None if it is damaged or was deleted."""
        with contextlib.suppress(ValueError, FileNotFoundError):
            return self.run.read_record(slide_id)
        return None

    def _inputs(
        self, findings: Findings, marks: RunMarks, failures: Mapping[str, Failure]
    ) -> dict[str, EntryInputs]:
        """Collect the inputs of each slide's entry."""
        progress = {} if marks.status is None else marks.status.progress
        names = dict.fromkeys(
            (*failures, *findings.slides, *findings.outcomes, *self._records)
        )
        return {
            slide_id: EntryInputs(
                tables=self._tables,
                stamp=marks.done.get(slide_id),
                record=self._records.get(slide_id, (None, None))[1],
                failure=failures.get(slide_id),
                goes_on=marks.state == "running",
                progress=progress.get(slide_id),
            )
            for slide_id in names
        }

    def _rebuild(
        self, findings: Findings, now: Mapping[str, EntryInputs], marks: RunMarks
    ) -> None:
        """Rebuild changed entries, and drop removed ones."""
        kept = {
            slide_id: built
            for slide_id, built in self._built.items()
            if slide_id in now and built.inputs == now[slide_id]
        }
        builder = EntryBuilder(
            findings=findings,
            run=self.run,
            name=self.name,
            given=self._given,
            is_complete=bool(findings.outcomes) and not _is_open(marks),
        )
        new = {i: builder.build(i, now[i]) for i in now if i not in kept}
        self._built = {**kept, **new}

    def _snapshot(self, findings: Findings, marks: RunMarks, *, named: int) -> Snapshot:
        built = sorted(self._built.values(), key=lambda m: m.urgency)
        entries = {m.entry.key: m.entry for m in built if m.entry is not None}
        ending, status = findings.config.outcome.outcome, marks.status
        status_now = None
        if status is not None and marks.state is not None:
            status_now = status_payload(status, marks.state, named=named)
        return Snapshot(
            title=findings.name,
            kind="run",
            ending=ending,
            notes=tuple(member_notes(findings.config)),
            runs={self.name: self.run},
            status=status_now,
            entries=entries,
            patients=patient_payloads(
                self._stages(findings, marks),
                [entry.payload for entry in entries.values()],
                rule=NOT_STAGED[ending],
            ),
        )

    def _stages(self, findings: Findings, marks: RunMarks) -> Sequence[Row]:
        """Rows of PATIENTS that are still valid.

        A running run writes them at its end: until then they are of an earlier start,
        and valid for patients without recomputed or additional nodes.
        """
        if not findings.patients or not _is_open(marks):
            return findings.patients
        patients = {i: row["patient_id"] for i, row in findings.outcomes.items()}
        patients |= {i: row.patient_id for i, row in self._given.items()}
        for slide_id, built in self._built.items():
            if built.entry is not None:
                patients[slide_id] = built.entry.row.patient_id
        failed = {failure.slide_id for failure in findings.failures}
        moved = {
            patient_id
            for slide_id, patient_id in patients.items()
            if not self._matches_tables(slide_id, findings, failed)
        }
        return [row for row in findings.patients if row["patient_id"] not in moved]

    def _matches_tables(
        self, slide_id: str, findings: Findings, failed: Set[str]
    ) -> bool:
        """Whether a slide is unchanged since the tables were written."""
        built = self._built.get(slide_id)
        if built is None or built.entry is None:
            return False
        outcome = built.entry.outcomes.get(self.name)
        if outcome is None:
            return slide_id in failed and built.inputs.failure is not None
        return outcome is findings.outcomes.get(slide_id)


def _is_open(marks: RunMarks) -> bool:
    """Whether the run is running, or died before writing its tables."""
    return marks.state in ("running", "dead")
