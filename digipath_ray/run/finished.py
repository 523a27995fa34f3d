"""What a finished run says of a slide, and what is true, at its heatmap's pixels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations import Window, read_annotation
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.heatmap.canvas import Heatmap, on_heatmap
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.slidetable import row_of
from digipath_ray.tissue.mask import Mask, read_mask

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


def finished_slide(
    told: Mapping[str, Any],
    heatmap: Heatmap,
    tissue: Mask,
    *,
    members: Iterable[str],
) -> FinishedSlide:
    """A slide with its heatmap, given its row of the SLIDES table and its tissue."""
    return FinishedSlide(
        row=row_of(told),
        width=told["width"],
        height=told["height"],
        heatmap=heatmap,
        tissue=on_heatmap(tissue, heatmap),
        l0_per_hm_x=heatmap.mpp_x / told["mpp_x"],
        l0_per_hm_y=heatmap.mpp_y / told["mpp_y"],
        members=tuple(members),
    )


def read_finished(run: RunDirectory, record: Mapping[str, Any]) -> FinishedSlide:
    """A slide of a run, given its ``done`` record.

    Raises:
        FileNotFoundError: its heatmap or mask is gone.
        ValueError: one of them is damaged.
    """
    told = record["slide"]
    return finished_slide(
        told,
        read_heatmap(run.heatmap(told["slide_id"])),
        read_mask(run.mask(told["slide_id"])),
        members=record["members"],
    )


def read_run(run: RunDirectory) -> tuple[RunConfig, dict[str, dict[str, Any]]]:
    """The config of a finished run, and slide_id -> ``done`` record.

    Raises:
        ValueError: no slide of it is finished.
    """
    done = run.read_done() if run.settings.exists() else {}
    if not done:
        raise ValueError(
            f"{run.root}: no finished run: name the directory given to digipath run "
            "--out"
        )
    return from_tree(read_toml(run.settings)), done


def was_seen(record: Mapping[str, Any]) -> bool:
    """Whether a slide was predicted by members fitted on it or its patient."""
    return bool(set(record["slide"].get("seen_by") or ()) & set(record["members"]))


def read_truth(slide: FinishedSlide, spec: AnnotationSpec) -> Truth:
    """What the slide's annotation says at the center of each pixel of its heatmap.

    Args:
        slide: as the run left it.
        spec: how annotations are understood.

    Raises:
        SlideError: the annotation cannot be read.
    """
    if slide.row.annotation is None:
        nothing = np.zeros(slide.tissue.shape, np.bool_)
        return Truth(tumor=nothing, ignored=nothing)
    found = read_annotation(
        slide.row.annotation,
        slide=slide,
        classes=spec.meanings,
        above=spec.mask_above,
    )
    height, width = slide.tissue.shape
    window = Window(
        0,
        0,
        width,
        height,
        l0_per_px_x=slide.l0_per_hm_x,
        l0_per_px_y=slide.l0_per_hm_y,
    )
    return Truth(tumor=found.tumor(window), ignored=found.ignored(window))
