"""Failed slides of a run; while running, status.json lists only the latest."""

from collections.abc import Mapping
from typing import Any

from digipath_ray.report.findings import Findings
from digipath_ray.run.failure import Failure
from digipath_ray.viewer.collection.marks import RunMarks


class Failures:
    """Accumulates the failures of a run's current start from status.json."""

    def __init__(self) -> None:
        self._started = ""
        self._seen: dict[str, Failure] = {}

    def known(self, findings: Findings, marks: RunMarks) -> dict[str, Failure]:
        """Failures by slide_id: those since this start began, else the table's."""
        status = marks.status
        if status is None or marks.state not in ("running", "dead"):
            return {failure.slide_id: failure for failure in findings.failures}
        if status.started != self._started:
            self._started, self._seen = status.started, {}
        reported = {row["slide_id"]: _failure(row) for row in status.failures}
        self._seen = {**self._seen, **reported}
        return self._seen


def _failure(row: Mapping[str, Any]) -> Failure:
    """Failure from status.json, which has fewer fields than the table."""
    return Failure(
        slide_id=row["slide_id"],
        path="",
        patient_id=None,
        step=row["step"],
        attempt=0,
        error=row["error"],
        hint=row["hint"],
    )
