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
STRETCH_UM, DIRECTIONS = 120.0, 12
"""Length over which a line is straight, and directions that are tried."""
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
    dark = np.where(neutral(above, LINE_OD / 2) & ~ignore, above.min(axis=0), 0)
    ridges = np.zeros(dark.shape, np.bool_)
    for number in range(DIRECTIONS):
        ridges |= ridge(dark, np.pi * number / DIRECTIONS, detail) >= LINE_OD
    near = detail.mask(ridges).dilated(LINE_WIDTH_UM / 2).array
    lines = near & (dark >= LINE_OD)
    labels, extents = parts(ndimage.binary_dilation(lines, np.ones((3, 3))), detail)
    return np.asarray((np.hypot(*extents.T) >= LINE_LENGTH_UM)[labels] & lines)


def ridge(dark: Floats, angle: float, detail: Detail) -> Floats:
    """How much darker a stretch in one direction is than those beside it.

    Dark cells scattered over a field make no stretch that differs from its neighbors.

    Args:
        dark: float32 [rows, cols].
        angle: of the direction, radians from the columns' towards the rows'.
        detail: of the slide.

    Returns:
        Mean along STRETCH_UM around each cell, less the darker of the means of the
        stretches at LINE_WIDTH_UM / 2 and a cell more to its sides.
    """
    along = np.sin(angle) / detail.cell_y, np.cos(angle) / detail.cell_x
    across = np.cos(angle) / detail.cell_y, -np.sin(angle) / detail.cell_x
    step = min(detail.cell_x, detail.cell_y)
    half = max(1, round(STRETCH_UM / step / 2))
    total = np.zeros_like(dark)
    for i in range(-half, half + 1):
        total += shifted(dark, along[0] * i * step, along[1] * i * step)
    mean = np.asarray(total / (2 * half + 1), np.float32)
    away = LINE_WIDTH_UM / 2 + step
    sides = [shifted(mean, across[0] * s, across[1] * s) for s in (away, -away)]
    return np.asarray(mean - np.maximum(*sides))


def shifted(plane: Floats, rows: float, cols: float) -> Floats:
    """A map [rows, cols] moved by whole cells; 0 comes in."""
    down, right = round(rows), round(cols)
    height, width = plane.shape
    out = np.zeros_like(plane)
    if abs(down) < height and abs(right) < width:
        out[
            max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)
        ] = plane[
            max(-down, 0) : height + min(-down, 0),
            max(-right, 0) : width + min(-right, 0),
        ]
    return out


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
