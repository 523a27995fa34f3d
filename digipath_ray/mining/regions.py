"""Uncertain regions of a run, to be corrected by a pathologist.

The paper proposes to fine-tune on them. A region is a square frame of class ``Region*``
with the run's prediction as outlines to edit in QuPath; the edited file is read by
:mod:`digipath_ray.annotations.corrected`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray
from skimage.transform import integral_image

from digipath_ray.annotations.corrected import (
    is_untouched,
    untouched_note,
)
from digipath_ray.annotations.drawing import FRAME_CLASS
from digipath_ray.annotations.outlines import Shape
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.mining.spec import Uncertainty
from digipath_ray.outcome.qupath import Feature, feature, outline, write_features
from digipath_ray.run.finished import FinishedSlide

Bools = NDArray[np.bool_]
FRAME_COLOR, TUMOR_COLOR = (0, 0, 180), (200, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A square on a heatmap, px; its means count background as 0."""

    row: int
    col: int
    rows: int
    cols: int
    uncertainty: float
    probability: float


def uncertainty_map(heatmap: Heatmap, which: Uncertainty) -> Map:
    """Uncertainty map [H, W].

    Raises:
        ValueError: a channel of the map was not estimated.
    """
    names = needed_channels(heatmap.channels, which)
    # NaN where one member of a cascade alone, sure of nothing, has seen the pixel.
    return cast(
        Map, sum(np.nan_to_num(heatmap.data[heatmap.channels.index(n)]) for n in names)
    )


def needed_channels(channels: Sequence[str], which: Uncertainty) -> tuple[str, ...]:
    """Heatmap channels that make up the map.

    Raises:
        ValueError: a channel was not estimated.
    """
    both = ("epistemic", "aleatoric")
    names = both if which == "both" else (which,)
    if not set(names) <= set(channels):
        there = " and ".join(n for n in both if n in channels)
        raise ValueError(
            f"--map {which}: the run has {there or 'no uncertainty map'}: choose "
            "another --map, or run with several members (epistemic) or with --tta "
            "(aleatoric)"
        )
    return names


def find_regions(
    slide: FinishedSlide, which: Uncertainty, *, top: int, region_um: float
) -> list[Region]:
    """Find the most uncertain squares of a slide, most uncertain first.

    Greedy: each is the best that overlaps no earlier one; may return fewer than
    ``top``.

    Args:
        slide: slide of the run.
        which: uncertainty map to use.
        top: maximum number of squares.
        region_um: side of a square, rounded to heatmap px.

    Raises:
        ValueError: a channel of the map was not estimated.
    """
    heatmap, predicted = slide.heatmap, slide.predicted
    rows = _side(region_um / heatmap.mpp_y, heatmap.height)
    cols = _side(region_um / heatmap.mpp_x, heatmap.width)
    values = np.where(predicted, uncertainty_map(heatmap, which), 0)
    means = box_means(values, rows, cols)
    probability = box_means(np.where(predicted, heatmap.probability, 0), rows, cols)
    found: list[Region] = []
    left = means.copy()
    while len(found) < top and left.max() > 0:
        row, col = divmod(int(left.argmax()), left.shape[1])
        found.append(
            Region(
                row=row,
                col=col,
                rows=rows,
                cols=cols,
                uncertainty=float(means[row, col]),
                probability=float(probability[row, col]),
            )
        )
        # Corners of all squares that would overlap this one.
        over = np.s_[max(0, row - rows + 1) : row + rows]
        left[over, max(0, col - cols + 1) : col + cols] = 0
    return found


def _side(px: float, length: int) -> int:
    return min(max(1, round(px)), length)


def box_means(values: NDArray[np.floating[Any]], rows: int, cols: int) -> Map:
    """Mean of a map [H, W] over every box in it, [H - rows + 1, W - cols + 1]."""
    # A row and a column of zeros first, for the boxes at the edges.
    total = np.pad(integral_image(values, dtype=np.float64), ((1, 0), (1, 0)))
    sums = total[rows:, cols:] - total[:-rows, cols:]
    sums += total[:-rows, :-cols] - total[rows:, :-cols]
    # Differences of large sums leave rounding errors where the mean is 0.
    return np.asarray(np.where(sums > 1e-9, sums, 0) / (rows * cols), np.float32)


def _outline(slide: FinishedSlide, region: Region, pixels: Bools) -> Shape:
    """Outlines of a region's pixels [rows, cols], level-0 px."""
    return outline(
        pixels,
        x=region.col * slide.l0_per_hm_x,
        y=region.row * slide.l0_per_hm_y,
        l0_per_px_x=slide.l0_per_hm_x,
        l0_per_px_y=slide.l0_per_hm_y,
        max_x=slide.width,
        max_y=slide.height,
    )


def region_features(
    slide: FinishedSlide,
    regions: Sequence[Region],
    which: Uncertainty,
    *,
    threshold: float,
) -> list[Feature]:
    """Frames and predicted outlines as GeoJSON features, level-0 px."""
    called = slide.heatmap.above(threshold)
    features: list[Feature] = []
    for number, region in enumerate(regions, start=1):
        rows = slice(region.row, region.row + region.rows)
        inside = called[rows, region.col : region.col + region.cols]
        frame = _outline(slide, region, np.ones_like(inside))
        measured = {
            f"Mean uncertainty ({which})": region.uncertainty,
            "Mean probability": region.probability,
        }
        name = f"uncertain {number}"
        features += _features(frame, FRAME_CLASS, FRAME_COLOR, name, measured)
        tumor = _outline(slide, region, inside)
        features += _features(tumor, "Tumor", TUMOR_COLOR, name, {})
    return features


def _features(
    shape: Shape,
    class_name: str,
    color: tuple[int, int, int],
    name: str,
    measured: dict[str, float],
) -> list[Feature]:
    """One feature per polygon of a shape, so that each can be edited separately."""
    return [
        feature(
            polygon,
            class_name=class_name,
            color=color,
            name=name,
            measurements=measured,
        )
        for polygon in shapely.get_parts(shape)
    ]


def write_regions(path: Path, features: Sequence[Feature]) -> None:
    """Write features for QuPath, marked as not yet corrected.

    Raises:
        ValueError: the file contains corrections.
    """
    if path.exists() and not is_untouched(path):
        raise ValueError(
            f"{path}: contains corrections, which are never overwritten: choose "
            "another folder"
        )
    write_features(path, features, notes=untouched_note(features))
