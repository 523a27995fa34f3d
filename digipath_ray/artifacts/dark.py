"""Dark things without color: rims of bubbles and hairs, which are lines, and blots.

They take light away from all channels alike. Colors are compared as optical density,
which adds up where light passes two things, so that tissue below is taken off first.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath_ray.artifacts.focus import Detail
from digipath_ray.artifacts.folds import hundredths, median_around
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import Bools
from digipath_ray.tissue.quality import black_ink, densities

Floats = NDArray[np.float32]

NEUTRAL = 0.7
"""Least absorbing by most absorbing channel of what has no color; of pure hematoxylin,
the grayest stain, 0.41 to 0.57."""
LINE_WIDTH_UM, LINE_LENGTH_UM = 64.0, 400.0
"""Largest width, and least length from end to end."""
LINE_OD = 0.12
"""Least density beyond what is on both sides of a line, mean of a cell."""
SMOOTH_UM = 24.0
BLOT_OD = 0.3
"""Least density of a blot beyond that of the tissue around."""
BLOT_WIDTH_UM, BLOT_LENGTH_UM = 24.0, 1000.0
"""Least width, and largest extent: longer black ink was drawn by a pen."""


def find_lines(colors: Pixels, detail: Detail, ignore: Bools) -> Bools:
    """Cells [rows, cols] of thin, long, dark lines without color, over glass too.

    What a closed line encloses is not part of it: a thin pen circles tumors.

    Args:
        colors: uint8 [rows, cols, 3], mean color of each cell.
        detail: of the slide.
        ignore: cells that are something else: ink.
    """
    size = tuple(n + 1 for n in detail.cells(LINE_WIDTH_UM))
    density = np.stack(densities(colors))
    above = np.stack([ndimage.white_tophat(plane, size) for plane in density])
    lines = neutral(above, LINE_OD) & ~ignore
    labels, extents = parts(ndimage.binary_dilation(lines, np.ones((3, 3))), detail)
    return np.asarray((np.hypot(*extents.T) >= LINE_LENGTH_UM)[labels] & lines)


def find_blots(
    colors: Pixels, detail: Detail, ink: Bools, lines: Bools
) -> tuple[Bools, Bools]:
    """Cells that are dark without color: blots, and strokes of a black pen.

    Args:
        colors: uint8 [rows, cols, 3], mean color of each cell.
        detail: of the slide.
        ink: bool [rows, cols], cells of ink; where it is black and short it is a blot.
        lines: bool [rows, cols], neither of the two.

    Returns:
        Bool [rows, cols] each; strokes are those that ``ink`` has not.
    """
    size = (1, *detail.cells(SMOOTH_UM))
    density = ndimage.uniform_filter(np.stack(densities(colors)), size)
    tissue = detail.tissue & ~ink
    around = np.stack(
        [median_around(plane, tissue, detail) for plane in hundredths(colors)]
    )
    black = black_ink(density[0], density[1], density[2])
    black |= neutral(density - around / 100, BLOT_OD) & tissue
    wide = detail.mask(black & ~lines).opened(BLOT_WIDTH_UM)
    solid = wide.dilated(SMOOTH_UM / 2).array & ~lines
    labels, extents = parts(solid | ink, detail)
    share = np.nan_to_num(ndimage.mean(solid, labels, np.arange(len(extents))))
    short = (extents.max(axis=1) <= BLOT_LENGTH_UM) & (share > 0.5)
    blots = short[labels] & (labels > 0)
    return blots, solid & ~blots & ~ink


def neutral(density: Floats, least: float) -> Bools:
    """Where three densities [3, rows, cols] are at least ``least``, and about alike."""
    lowest, highest = density.min(axis=0), density.max(axis=0)
    return np.asarray((lowest >= least) & (lowest >= NEUTRAL * highest))


def parts(found: Bools, detail: Detail) -> tuple[NDArray[np.int32], Floats]:
    """Connected parts of a map [rows, cols]: their labels, and their extents.

    Returns:
        Labels [rows, cols], 0 for none, and height and width in um by label; (0, 0)
        for label 0.
    """
    labels, _ = ndimage.label(found, np.ones((3, 3)))
    boxes = [
        (
            (rows.stop - rows.start) * detail.cell_y,
            (cols.stop - cols.start) * detail.cell_x,
        )
        for rows, cols in ndimage.find_objects(labels)
    ]
    return labels, np.array([(0.0, 0.0), *boxes], np.float32)
