"""What a finished run says of a slide, and what is true, at its heatmap's pixels.

Mining looks at both: where they differ, and where the run is not sure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations import read_annotation
from digipath_ray.card import ModelCard
from digipath_ray.heatmap import Heatmap, read_heatmap
from digipath_ray.manifest import SlideRow
from digipath_ray.mask import read_mask
from digipath_ray.outcome import on_heatmap
from digipath_ray.recipe import AnnotationSpec
from digipath_ray.rundir import RunDirectory
from digipath_ray.training.folds import SPLITS
from digipath_ray.training.sampling import is_negative

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedSlide:
    """A slide of a finished run.

    Attributes:
        row: as the run's manifest had it.
        width: level-0 px.
        height: level-0 px.
        heatmap: what was predicted.
        tissue: bool [H, W], at the heatmap's pixels.
        l0_per_hm_x: level-0 px per heatmap px.
        l0_per_hm_y: as ``l0_per_hm_x``.
        members: names of those that predicted it.
    """

    row: SlideRow
    width: int
    height: int
    heatmap: Heatmap
    tissue: Bools
    l0_per_hm_x: float
    l0_per_hm_y: float
    members: tuple[str, ...]

    @property
    def predicted(self) -> Bools:
        """Bool [H, W]: tissue that a patch covers."""
        return np.asarray(self.tissue & (self.heatmap.weight > 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is true at a heatmap's pixels, bool [H, W] each."""

    tumor: Bools
    ignored: Bools


def row_of(record: Mapping[str, Any]) -> SlideRow:
    """The manifest's row of a slide, of its ``done`` record."""
    told = record["slide"]
    names = ("annotation", "exhaustive", "patient_id", "node", "label", "split", "mask")
    return SlideRow(
        slide_id=told["slide_id"],
        path=told["path"],
        mpp=record.get("slide_mpp"),
        **{name: told.get(name) for name in names},
    )


def is_known(row: SlideRow) -> bool:
    """Whether annotation or label say what a slide shows."""
    return row.annotation is not None or is_negative(row.label)


def is_test(row: SlideRow) -> bool:
    """Whether a slide is held back for the test: it is fitted on by no member."""
    return (row.split or "").strip().lower() in SPLITS["test"]


def read_finished(run: RunDirectory, record: Mapping[str, Any]) -> FinishedSlide:
    """A slide of a run, given its ``done`` record.

    Raises:
        FileNotFoundError: its heatmap or mask is gone.
        ValueError: one of them is damaged.
    """
    told, row = record["slide"], row_of(record)
    heatmap = read_heatmap(run.heatmap(row.slide_id))
    return FinishedSlide(
        row=row,
        width=told["width"],
        height=told["height"],
        heatmap=heatmap,
        tissue=on_heatmap(read_mask(run.mask(row.slide_id)), heatmap),
        l0_per_hm_x=heatmap.mpp_x / told["mpp_x"],
        l0_per_hm_y=heatmap.mpp_y / told["mpp_y"],
        members=tuple(record["members"]),
    )


def read_truth(slide: FinishedSlide, spec: AnnotationSpec) -> Truth:
    """What the slide's annotation says at the center of each pixel of its heatmap.

    Args:
        slide: as the run left it.
        spec: how annotations are understood.

    Raises:
        SlideError: the annotation cannot be read.
    """
    height, width = slide.tissue.shape
    if slide.row.annotation is None:
        nothing = np.zeros((height, width), np.bool_)
        return Truth(tumor=nothing, ignored=nothing)
    found = read_annotation(
        slide.row.annotation,
        slide=slide,
        classes=spec.meanings,
        above=spec.mask_above,
    )
    tumor, ignored = (
        answer(
            0,
            0,
            width,
            height,
            l0_per_px_x=slide.l0_per_hm_x,
            l0_per_px_y=slide.l0_per_hm_y,
        )
        for answer in (found.tumor, found.ignored)
    )
    return Truth(tumor=tumor, ignored=ignored)


def have_seen(
    row: SlideRow, members: Iterable[str], cards: Mapping[str, ModelCard]
) -> list[str]:
    """Those of the members that were fitted on the slide or on its patient."""
    return [
        name
        for name in members
        if name in cards and _saw(cards[name], row.slide_id, row.patient_id)
    ]


def _saw(card: ModelCard, slide_id: str, patient_id: str | None) -> bool:
    return slide_id in card.training_slides or patient_id in card.training_patients
