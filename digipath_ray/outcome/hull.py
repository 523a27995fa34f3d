"""Convex hulls of pixels, without a picture of them: they stay fast at any size.

Frame: heatmap px, x to the right and y down; the pixel [row, col] covers x from col to
col + 1 and y from row to row + 1.
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
"""Of a pixel's sides: what scikit-image takes a pixel for, a bar of n px is n long."""
CORNERS: Points = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Of a pixel: the hull holds all of it."""
TAIL_PX = 1e-9
"""A pixel's center this near to a hull is in it: a float's tail decides nothing."""


def convex_hull(pixels: Bools, points: Points = MIDDLES) -> Shape:
    """The hull of the true pixels of a map [H, W], a polygon; one is true at least.

    Args:
        pixels: the map.
        points: of each pixel, in it.
    """
    rows = np.flatnonzero(pixels.any(axis=1))
    filled = pixels[rows]
    first = filled.argmax(axis=1)
    last = pixels.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    # What lies between a row's ends is in the hull of these.
    ends = np.stack([np.concatenate([first, last]), np.tile(rows, 2)], axis=1)
    around = ends[:, None] + np.asarray(points)
    return shapely.convex_hull(shapely.multipoints(around.reshape(-1, 2)))


def hull_of_hulls(hulls: Sequence[Shape]) -> Shape:
    """The hull of several together."""
    return shapely.convex_hull(shapely.geometrycollections(list(hulls)))


def diameter_um(hull: Shape, *, mpp_x: float, mpp_y: float) -> float:
    """The largest distance between two points of a hull, um (to a millionth)."""
    corners = shapely.get_coordinates(hull)[:-1]
    # A hull of whole pixels has about n ** (2 / 3) corners: 1,000 at 6,000 px a side.
    return round(float(pdist(corners * (mpp_x, mpp_y)).max()), 6)


def spans(hull: Shape) -> tuple[Indices, Indices, Indices]:
    """Rows that a hull crosses; first and last column of the centers inside, of each.

    Where no center is inside, the last is before the first.
    """
    ring = shapely.get_coordinates(hull)[:-1]
    ring = np.roll(ring, -int(ring[:, 1].argmin()), axis=0)
    ring = np.concatenate([ring, ring[:1]])
    bottom = int(ring[:, 1].argmax())
    rows = np.arange(np.floor(ring[0, 1]), np.ceil(ring[bottom, 1]))
    sides = [
        np.interp(rows + 0.5, side[:, 1], side[:, 0])
        for side in (ring[: bottom + 1], ring[bottom:][::-1])
    ]
    first = np.ceil(np.minimum(*sides) - 0.5 - TAIL_PX)
    last = np.floor(np.maximum(*sides) - 0.5 + TAIL_PX)
    return rows.astype(int), first.astype(int), last.astype(int)


def count_inside(hull: Shape) -> int:
    """How many pixels have their center in a hull."""
    _, first, last = spans(hull)
    return int((last - first + 1).clip(min=0).sum())


def fill(hull: Shape, shape: tuple[int, int]) -> Bools:
    """The pixels of a map [H, W] whose center is in a hull."""
    filled = np.zeros(shape, np.bool_)
    rows, first, last = spans(hull)
    columns = np.arange(shape[1])
    filled[rows] = (columns >= first[:, None]) & (columns <= last[:, None])
    return filled
