"""Folds: bands in which even nuclei are darker than all nuclei around.

How dense tissue looks varies with its cells: an epithelium may absorb twice as much as
the stroma beside it, in every channel. How dense a nucleus is varies little, as a
section has one thickness. So folds are found by the darkest px of 2 um in a window: of
one layer they are a nucleus's, of two layers what lies over or below it is added. The
three channels' quotients are averaged (their geometric mean), as blood, which is dark
in green alone, is no fold.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold, rank

from digipath_ray.artifacts.focus import Detail
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import Bools
from digipath_ray.tissue.quality import densities

Floats = NDArray[np.float32]

WINDOW_UM = 56.0
"""Wide enough to hold nuclei nearly everywhere."""
DARKEST = 0.95
"""Quantile, over the cells of a window, of their darkest px."""
AROUND_UM, AROUND_STEP_UM = 1056.0, 32.0
"""Width of the surroundings whose median a window is held against, and their grid."""
LEAST_OD = 0.03
"""Added to both sides of a quotient, so that pale channels decide nothing."""
RATIO, SURE = 1.3, 1.55
"""Density by that of the surroundings: of all cells of a fold, and of some of each."""
LENGTH_UM, WIDTH_UM, ASPECT = 250.0, 500.0, 2.5
"""Least length, largest width, least length by width."""


def find_folds(detail: Detail, ignore: Bools) -> Bools:
    """Cells [rows, cols] of tissue that lies double.

    Args:
        detail: of the tissue.
        ignore: cells that are dark for another reason: ink, lines, blots.
    """
    # Where a cell and its neighbors are stained: a px of glass is never the darkest.
    known = detail.tissue & ~ignore
    ratio = np.zeros(known.shape, np.float32)
    least = np.float32(100 * LEAST_OD)
    for plane in hundredths(detail.darkest):
        side = tuple(2 * (n // 2) + 1 for n in detail.cells(WINDOW_UM))
        window = np.ones(side, np.uint8)
        dark = rank.percentile(plane, window, mask=known, p0=DARKEST)
        around = median_around(dark, known, detail)
        ratio += np.log((dark + least) / (around + least)) / 3
    ratio[~known] = 0
    bands = apply_hysteresis_threshold(ratio, np.log(RATIO), np.log(SURE))
    return keep_bands(bands, detail)


def hundredths(rgb: Pixels) -> Pixels:
    """Optical density of the three channels, uint8 [3, rows, cols], in hundredths."""
    # 2.41, black, just fits.
    return np.stack([np.rint(100 * d).astype(np.uint8) for d in densities(rgb)])


def median_around(plane: Pixels, known: Bools, detail: Detail) -> Floats:
    """Median of the known cells around each [rows, cols]; 0 where there are none."""
    rows, cols = detail.cells(AROUND_STEP_UM)
    every = (slice(None, None, rows), slice(None, None, cols))
    side = tuple(
        2 * max(1, n // step // 2) + 1
        for n, step in zip(detail.cells(AROUND_UM), (rows, cols), strict=True)
    )
    median = rank.median(plane[every], np.ones(side, np.uint8), mask=known[every])
    large = median.repeat(rows, axis=0).repeat(cols, axis=1)
    return np.asarray(large[: plane.shape[0], : plane.shape[1]], np.float32)


def keep_bands(candidates: Bools, detail: Detail) -> Bools:
    """The connected parts [rows, cols] that are long, and neither wide nor round."""
    labels, number = ndimage.label(candidates, np.ones((3, 3)))
    if not number:
        return candidates
    every = np.arange(1, number + 1)
    depth = ndimage.distance_transform_edt(
        np.pad(candidates, 1), sampling=(detail.cell_y, detail.cell_x)
    )[1:-1, 1:-1]
    # To the center of the first cell outside, half a cell beyond the edge.
    half = min(detail.cell_x, detail.cell_y) / 2
    width = 2 * (ndimage.maximum(depth, labels, every) - half)
    area = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    length = area * detail.cell_x * detail.cell_y / width
    good = (length >= np.maximum(LENGTH_UM, ASPECT * width)) & (width <= WIDTH_UM)
    return np.asarray(np.concatenate([[False], good])[labels])
