"""Finished runs as predictions, and checks that predictions are complete."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.evaluate.bootstrap import ENSEMBLE
from digipath_ray.heatmap.canvas import Heatmap
from digipath_ray.run import finished
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedSlide, read_finished

MEMBER = "member:"
"""Prefix of a member's heatmap channel."""


@dataclass(frozen=True, kw_only=True)
class PredictedRun:
    """A finished run as a prediction."""

    directory: RunDirectory
    config: RunConfig
    records: dict[str, dict[str, Any]]

    def maps(self, slide_id: str) -> dict[str, FinishedSlide]:
        """The slide with the map of the ensemble and of each member with a kept map."""
        slide = read_finished(self.directory, self.records[slide_id])
        names = [n for n in slide.heatmap.channels if n.startswith(MEMBER)]
        return {
            ENSEMBLE: slide,
            **{n.removeprefix(MEMBER): replace_map(slide, n) for n in names},
        }

    def why_absent(self, slide_id: str) -> str:
        """Reason why a slide has no result."""
        for failure in self.directory.read_failures():
            if failure.slide_id == slide_id:
                return f"it failed at step {failure.step}: {failure.error}"
        return "it was not processed"


def replace_map(slide: FinishedSlide, channel: str) -> FinishedSlide:
    """Slide with one heatmap channel as the probability."""
    heatmap = slide.heatmap
    index = heatmap.channels.index(channel)
    alone = Heatmap(
        channels=("probability",),
        data=heatmap.data[index : index + 1],
        weight=heatmap.weight,
        mpp_x=heatmap.mpp_x,
        mpp_y=heatmap.mpp_y,
    )
    return replace(slide, heatmap=alone)


def read_run(path: Path) -> PredictedRun | None:
    """Read the run in a folder; None if it is not a run directory.

    Raises:
        ValueError: no slide is finished.
    """
    directory = RunDirectory(path)
    if not directory.settings.exists():
        return None
    config, records = finished.read_run(directory)
    return PredictedRun(directory=directory, config=config, records=records)


def with_patients(
    rows: Mapping[str, SlideRow], run: PredictedRun | None
) -> dict[str, SlideRow]:
    """Rows with missing patients filled in from the run."""
    if run is None:
        return dict(rows)
    known = {i: r["slide"]["patient_id"] for i, r in run.records.items()}
    return {
        i: row if row.patient_id else replace(row, patient_id=known.get(i))
        for i, row in rows.items()
    }


def check_all_predicted(
    rows: Mapping[str, SlideRow], predicted: Iterable[str], run: PredictedRun | None
) -> None:
    """Raise if a prediction lacks slides of the reference.

    Raises:
        ValueError: names a missing slide and the reason.
    """
    missing = sorted(rows.keys() - set(predicted))
    if missing:
        why = "it has no file" if run is None else run.why_absent(missing[0])
        raise ValueError(
            f"{len(missing)} of {len(rows)} slides of the reference are not predicted, "
            f"{missing[0]} for one ({why}): predict them, or leave them out of the "
            "reference"
        )


def note_not_scored(
    rows: Mapping[str, object], predicted: Iterable[str]
) -> tuple[str, ...]:
    """Note on predictions that are not in the reference."""
    extra = sorted(set(predicted) - rows.keys())
    if not extra:
        return ()
    return (f"predicted but not in the reference: {len(extra)}, e.g. {extra[0]}",)
