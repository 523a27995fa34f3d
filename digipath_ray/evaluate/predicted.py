"""A finished run as a prediction; whether a prediction answers all that is asked."""

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
"""What a member's channel of a heatmap begins with."""


@dataclass(frozen=True, kw_only=True)
class PredictedRun:
    """A finished run as a prediction."""

    directory: RunDirectory
    config: RunConfig
    records: dict[str, dict[str, Any]]

    def maps(self, slide_id: str) -> dict[str, FinishedSlide]:
        """The slide by the ensemble, and by each member whose map was kept."""
        slide = read_finished(self.directory, self.records[slide_id])
        names = [n for n in slide.heatmap.channels if n.startswith(MEMBER)]
        return {
            ENSEMBLE: slide,
            **{n.removeprefix(MEMBER): replace_map(slide, n) for n in names},
        }

    def why_absent(self, slide_id: str) -> str:
        """Why there is nothing of a slide, in words."""
        for failure in self.directory.read_failures():
            if failure.slide_id == slide_id:
                return f"it failed at step {failure.step}: {failure.error}"
        return "it was not run"


def replace_map(slide: FinishedSlide, channel: str) -> FinishedSlide:
    """The slide with one channel of its heatmap as the probability."""
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
    """The run in a folder; None if it is no run's.

    Raises:
        ValueError: no slide of it is finished.
    """
    directory = RunDirectory(path)
    if not directory.settings.exists():
        return None
    config, records = finished.read_run(directory)
    return PredictedRun(directory=directory, config=config, records=records)


def with_patients(
    rows: Mapping[str, SlideRow], run: PredictedRun | None
) -> dict[str, SlideRow]:
    """The rows, with patients that only the run knows of."""
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
    """Refuse a prediction that lacks slides of the reference: it is no whole answer.

    Raises:
        ValueError: names one of them, and why it is not there.
    """
    missing = sorted(rows.keys() - set(predicted))
    if missing:
        why = "there is no file of it" if run is None else run.why_absent(missing[0])
        raise ValueError(
            f"{len(missing)} of {len(rows)} slides of the reference are not predicted, "
            f"{missing[0]} for one ({why}): predict them, or leave them out of the "
            "reference"
        )


def note_not_scored(
    rows: Mapping[str, object], predicted: Iterable[str]
) -> tuple[str, ...]:
    """What is said of predictions that the reference knows nothing of."""
    extra = sorted(set(predicted) - rows.keys())
    if not extra:
        return ()
    return (f"predicted but not in the reference: {len(extra)}, {extra[0]} for one",)
