"""Artifacts of a slide: from its thumbnail, its tissue and its detail to one map."""

import numpy as np
from PIL import Image

from digipath_ray.artifacts.dark import find_blots, find_lines
from digipath_ray.artifacts.focus import Detail, find_blur
from digipath_ray.artifacts.folds import find_folds
from digipath_ray.artifacts.kinds import BY_NAME, KINDS, ArtifactMap
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.find import Tissue
from digipath_ray.tissue.mask import Bools, Mask, at_centers
from digipath_ray.tissue.quality import reach_of

EDGE_UM = 16.0
"""Of ink, blots and lines."""
Planes = dict[str, Bools]
"""Kind -> bool [rows, cols]."""


def find_artifacts(rgb: Pixels, tissue: Tissue, detail: Detail) -> ArtifactMap:
    """Map what hides or distorts tissue.

    Args:
        rgb: the slide's thumbnail [rows, cols, 3], on the masks' grid.
        tissue: its masks.
        detail: of its tissue (:func:`digipath_ray.artifacts.read.read_detail`).
    """
    mask = tissue.mask
    reach = reach_of(mask)
    shape = mask.array.shape
    mpp, cell = (mask.mpp_x, mask.mpp_y), (detail.cell_x, detail.cell_y)

    def on_cells(plane: Mask) -> Bools:
        from_mpp = plane.mpp_x, plane.mpp_y
        return at_centers(plane.array, detail.tissue.shape, mpp=from_mpp, onto=cell)

    colors = cell_colors(rgb, detail.tissue.shape, mpp=mpp, cell=cell)
    cells = find_on_cells(
        colors, detail, ink=on_cells(tissue.ink), near=on_cells(reach)
    )
    indexes = np.zeros(detail.tissue.shape, np.uint8)
    for kind in KINDS:
        indexes[cells[kind.name]] = kind.index
    full = at_centers(indexes, shape, mpp=cell, onto=mpp)
    # Ink is as exact as its mask.
    over = at_centers(reach.array, shape, mpp=(reach.mpp_x, reach.mpp_y), onto=mpp)
    others = np.isin(full, [BY_NAME[name].index for name in ("bubble", "blot")])
    full[tissue.ink.array & over & ~others] = BY_NAME["pen"].index
    return ArtifactMap(indexes=full, mpp_x=mask.mpp_x, mpp_y=mask.mpp_y)


def find_on_cells(colors: Pixels, detail: Detail, *, ink: Bools, near: Bools) -> Planes:
    """Kind -> cells [rows, cols] of it.

    Args:
        colors: uint8 [rows, cols, 3], mean color of each cell.
        detail: of the tissue.
        ink: cells of ink.
        near: cells of the tissue and next to it.
    """
    lines = find_lines(colors, detail, ink)
    blots, strokes = find_blots(colors, detail, ink, lines)
    pen = (ink | strokes) & ~blots
    # Their soft edges are dark, too.
    dark = detail.mask(pen | blots | lines).dilated(EDGE_UM).array
    return {
        "blur": find_blur(detail),
        "fold": find_folds(detail, dark),
        "bubble": lines & near,
        "pen": pen & near,
        "blot": blots & near,
    }


def cell_colors(
    rgb: Pixels,
    shape: tuple[int, ...],
    *,
    mpp: tuple[float, float],
    cell: tuple[float, float],
) -> Pixels:
    """Mean colors uint8 [rows, cols, 3] of cells from the same corner.

    Args:
        rgb: [height, width, 3].
        shape: rows and columns.
        mpp: um per px of ``rgb``, x and y.
        cell: um per cell, x and y.
    """
    height, width = rgb.shape[:2]
    rows, cols = shape
    right, bottom = cols * cell[0] / mpp[0], rows * cell[1] / mpp[1]
    box = (0.0, 0.0, min(right, float(width)), min(bottom, float(height)))
    image = Image.fromarray(rgb).resize((cols, rows), Image.Resampling.BOX, box=box)
    return np.asarray(image)
