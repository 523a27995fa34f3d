"""A slide's tissue read once at about 1 um/px, strip by strip, for its detail."""

from collections.abc import Iterator

import numpy as np

from digipath_ray.artifacts.focus import CELL_PX, SCALES, Detail, measure_cells
from digipath_ray.slide.info import SlideInfo
from digipath_ray.slide.open import Slide
from digipath_ray.tissue.mask import Bools, Mask, at_centers

READ_UM = 1.0
"""Um per fine px; slides that are coarser are read as they are."""
SNAP = 0.15
"""Relative deviation from READ_UM up to which px are read whole, not resampled."""
STRIP_CELLS, STRIP_COLS = 64, 512
"""Most cells of a strip: with 64 px each, 2 Mpx."""


def fine_px(info: SlideInfo) -> tuple[float, float]:
    """Level-0 px per fine px, x and y.

    Whole px of a level where that is about READ_UM, so that nothing is resampled.

    Raises:
        SlideError: the slide's mpp is unknown.
    """
    mpp_x, mpp_y = info.need_mpp()
    target_x, target_y = (max(READ_UM, m) / m for m in (mpp_x, mpp_y))
    finer = [d for d in info.level_downsamples if d <= min(target_x, target_y) * 1.01]
    down = max(finer, default=1.0)
    return _whole(target_x, down), _whole(target_y, down)


def _whole(target: float, down: float) -> float:
    near = max(1, round(target / down)) * down
    return near if abs(near / target - 1) <= SNAP else target


def read_detail(slide: Slide, tissue: Mask) -> Detail:
    """Read a slide's tissue, each stored pixel about once, and measure its detail.

    Args:
        slide: an open slide.
        tissue: over the whole of it.

    Raises:
        SlideError: its mpp is unknown, or the file is damaged.
    """
    info, per_px = slide.info, fine_px(slide.info)
    mpp_x, mpp_y = info.need_mpp()
    cell_x, cell_y = per_px[0] * mpp_x * CELL_PX, per_px[1] * mpp_y * CELL_PX
    rows = max(1, round(info.height * mpp_y / cell_y))
    cols = max(1, round(info.width * mpp_x / cell_x))
    cells = at_centers(
        tissue.array,
        (rows, cols),
        mpp=(tissue.mpp_x, tissue.mpp_y),
        onto=(cell_x, cell_y),
    )
    energies = np.zeros((len(SCALES), rows, cols), np.float32)
    gray = np.zeros((rows, cols), np.float32)
    darkest = np.full((rows, cols, 3), 255, np.uint8)
    for top, bottom, left, right in strips(cells):
        box = tuple(
            slice((first - 1) * CELL_PX, (last + 1) * CELL_PX)
            for first, last in ((top, bottom), (left, right))
        )
        found = measure_cells(slide.means(per_px, (box[0], box[1])))
        energies[:, top:bottom, left:right] = found.energies
        gray[top:bottom, left:right] = found.gray
        darkest[top:bottom, left:right] = found.darkest
    return Detail(
        energies=energies,
        gray=gray,
        darkest=darkest,
        tissue=cells,
        cell_x=cell_x,
        cell_y=cell_y,
    )


def strips(cells: Bools) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (top, bottom, left, right) of a map that hold its true cells.

    Bands of STRIP_CELLS rows, cut where their columns are empty, and at STRIP_COLS.
    """
    for top in range(0, len(cells), STRIP_CELLS):
        bottom = min(top + STRIP_CELLS, len(cells))
        held = np.pad(cells[top:bottom].any(axis=0).astype(np.int8), 1)
        starts, stops = (np.flatnonzero(np.diff(held) == step) for step in (1, -1))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            for left in range(start, stop, STRIP_COLS):
                yield top, bottom, left, min(left + STRIP_COLS, stop)
