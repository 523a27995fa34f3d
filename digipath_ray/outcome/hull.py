"""Convex hulls of pixel sets, computed without rasterizing them.

Fast at any size, unlike skimage's convex_hull_image, which tests every pixel of the
box. Frame: heatmap px, x to the right and y down; the pixel [row, col] covers x from
col to col + 1 and y from row to row + 1.
"""

from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from digipath_ray.annotations.outlines import Shape

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

Points = tuple[tuple[float, float], ...]
MIDDLES: Points = ((0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1))
"""Middles of a pixel's sides, as in scikit-image: a bar of n px has length n."""
CORNERS: Points = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Corners of a pixel: the hull contains whole pixels."""
FEW_CORNERS = 64
TAIL_PX = 1e-9
"""Tolerance, px, for a center on the hull to count as inside despite rounding."""


def convex_hull(pixels: Bools, points: Points = MIDDLES) -> Shape:
    """Convex hull polygon of the true pixels of a map [H, W]; needs at least one.

    Args:
        pixels: bool map.
        points: offsets of the points of each pixel.
    """
    rows = np.flatnonzero(pixels.any(axis=1))
    filled = pixels[rows]
    first = filled.argmax(axis=1)
    last = pixels.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    # The hull of a row's ends contains everything between them.
    ends = np.stack([np.concatenate([first, last]), np.tile(rows, 2)], axis=1)
    around = ends[:, None] + np.asarray(points)
    return shapely.convex_hull(shapely.multipoints(around.reshape(-1, 2)))


def hull_of_hulls(hulls: Sequence[Shape]) -> Shape:
    """Convex hull of several hulls."""
    return shapely.convex_hull(shapely.geometrycollections(list(hulls)))


def diameter_um(hull: Shape, *, mpp_x: float, mpp_y: float) -> float:
    """Largest distance between two points of a hull, um (rounded to 1e-6)."""
    corners = shapely.get_coordinates(hull)[:-1] * (mpp_x, mpp_y)
    if len(corners) <= FEW_CORNERS:  # pdist takes a millisecond to begin
        apart = corners[:, None] - corners
        return round(float(np.hypot(apart[..., 0], apart[..., 1]).max()), 6)
    # All pairs are affordable: a hull of pixels n px wide has about n ** (2 / 3)
    # corners, 1,000 at 6,000 px.
    return round(float(pdist(corners).max()), 6)


def spans(hull: Shape) -> tuple[Indices, Indices, Indices]:
    """Rows crossed by a hull, with the first and last column of centers inside.

    If no center is inside, last < first.
    """
    ring = shapely.get_coordinates(hull)[:-1]
    # From the topmost corner to the bottom one and back up: each side is then
    # monotonic in y, as np.interp needs.
    ring = np.roll(ring, -int(ring[:, 1].argmin()), axis=0)
    ring = np.concatenate([ring, ring[:1]])
    bottom = int(ring[:, 1].argmax())
    rows = np.arange(np.floor(ring[0, 1]), np.ceil(ring[bottom, 1]))
    sides = [
        np.interp(rows + 0.5, side[:, 1], side[:, 0])
        for side in (ring[: bottom + 1], ring[bottom:][::-1])
    ]
    # Which side is the left one depends on the direction of the ring.
    first = np.ceil(np.minimum(*sides) - 0.5 - TAIL_PX)
    last = np.floor(np.maximum(*sides) - 0.5 + TAIL_PX)
    return rows.astype(int), first.astype(int), last.astype(int)


def count_inside(hull: Shape) -> int:
    """Number of pixels whose center is in a hull."""
    _, first, last = spans(hull)
    return int((last - first + 1).clip(min=0).sum())


def fill(hull: Shape, shape: tuple[int, int]) -> Bools:
    """Pixels of a map [H, W] whose center is in a hull."""
    filled = np.zeros(shape, np.bool_)
    rows, first, last = spans(hull)
    columns = np.arange(shape[1])
    filled[rows] = (columns >= first[:, None]) & (columns <= last[:, None])
    return filled
