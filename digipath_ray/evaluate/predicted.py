"""Finished runs as predictions, and checks that predictions are complete."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.evaluate.bootstrap import ENSEMBLE
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedRun, FinishedSlide, read_run

MEMBER = "member:"
"""Prefix of a member's heatmap channel."""


def maps_of(slide: FinishedSlide) -> dict[str, FinishedSlide]:
    """The slide by the ensemble, and by each member whose map was kept."""
    names = [n for n in slide.heatmap.channels if n.startswith(MEMBER)]
    return {
        ENSEMBLE: slide,
        **{n.removeprefix(MEMBER): replace_map(slide, n) for n in names},
    }


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


def find_run(path: Path) -> FinishedRun | None:
    """Read the run in a folder; None if it is not a run directory.

    Raises:
        ValueError: no slide is finished.
    """
    directory = RunDirectory(path)
    if not directory.settings.exists():
        return None
    return read_run(directory)


def with_patients(
    rows: Mapping[str, SlideRow], run: FinishedRun | None
) -> dict[str, SlideRow]:
    """Rows with missing patients filled in from the run."""
    if run is None:
        return dict(rows)
    known = {i: r.slide.patient_id for i, r in run.records.items()}
    return {
        i: row if row.patient_id else replace(row, patient_id=known.get(i))
        for i, row in rows.items()
    }


def check_all_predicted(
    rows: Mapping[str, SlideRow], predicted: Iterable[str], run: FinishedRun | None
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
            f"e.g. {missing[0]} ({why}): predict them, or leave them out of the "
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
