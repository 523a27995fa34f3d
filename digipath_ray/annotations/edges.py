"""Exact rasterization of polygons.

A polygon is a table of edges. A window is rasterized from the edges that cross its
rows, using the coordinates as read and never a clipped outline, so a pixel has the same
value in every window. skimage, rasterio and Pillow rasterize with rounded or clipped
coordinates and cannot guarantee this.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath_ray.annotations.window import Window

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

STRIP_PX = 4 << 20
"""Maximum pixels rasterized at once; larger windows are split into strips."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Edges:
    """The edges of a valid MultiPolygon, level-0 px, sorted by upper end.

    Attributes:
        x0, y0: upper end of each edge, float64 [n]; y grows downwards.
        x1, y1: lower end.
        reach: running maximum of y1, to find the first edge that reaches a row.
    """

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    reach: Floats

    @classmethod
    def of(cls, shape: Any) -> Self:
        """Build the edges of all rings of a MultiPolygon."""
        rings = shapely.get_rings(shapely.get_parts(shape))
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        # The coordinates of all rings are one array: no edge joins two rings.
        same = ring[1:] == ring[:-1]
        start, stop = xy[:-1][same], xy[1:][same]
        # Every edge runs downwards, so that one test tells which rows it crosses.
        flip = start[:, 1] > stop[:, 1]
        start[flip], stop[flip] = stop[flip], start[flip]
        order = np.argsort(start[:, 1], kind="stable")
        start, stop = start[order], stop[order]
        return cls(
            x0=start[:, 0].copy(),
            y0=start[:, 1].copy(),
            x1=stop[:, 0].copy(),
            y1=stop[:, 1].copy(),
            reach=np.maximum.accumulate(stop[:, 1]),
        )

    def inside(self, window: Window) -> Bools:
        """Pixels whose center is inside, bool [height, width].

        A center exactly on an outline belongs to the polygon on its right or below, so
        adjacent polygons neither share nor miss a pixel.
        """
        out = np.empty(window.shape, np.bool_)
        rows = max(1, STRIP_PX // max(1, window.width))
        for top in range(0, window.height, rows):
            stop = min(top + rows, window.height)
            out[top:stop] = self._strip(window, top, stop)
        return out

    def _strip(self, window: Window, top: int, stop: int) -> Bools:
        """Rasterize rows [top, stop) of a window by the even-odd rule."""
        y, scale_y = window.y, window.l0_per_px_y
        # Edges before `first` end above the strip, edges from `last` on start below it.
        # `reach` is sorted and y1 is not, so a few edges of no row remain between.
        first = np.searchsorted(self.reach, y + top * scale_y)
        last = np.searchsorted(self.y0, y + stop * scale_y, side="right")
        near = slice(int(first), int(last))
        # An edge crosses rows from its upper end (inclusive) to its lower (exclusive),
        # so a vertex shared by two edges is counted once.
        upper = _first_center(self.y0[near], y, scale_y).clip(top, stop)
        lower = _first_center(self.y1[near], y, scale_y).clip(top, stop)
        edge, row = _ranges(upper, lower)
        # _ranges counts from the slice, the coordinates below from the first edge.
        edge += near.start
        run = (y + (row + 0.5) * scale_y - self.y0[edge]) / (self.y1 - self.y0)[edge]
        crossing = self.x0[edge] + run * (self.x1 - self.x0)[edge]
        col = _first_center(crossing, window.x, window.l0_per_px_x)
        # A crossing left of the window flips the whole row, one right of it no pixel:
        # the extra column takes those.
        col = col.clip(0, window.width)
        flips = np.zeros((stop - top, window.width + 1), np.uint8)
        # Not flips[...] += 1, which counts crossings of the same pixel once.
        np.add.at(flips, (row - top, col), 1)
        # uint8 sums wrap at 256, which preserves parity.
        sums = np.cumsum(flips[:, :-1], axis=1, dtype=np.uint8)
        return (sums & 1).astype(np.bool_)

    def touched(self, window: Window) -> Bools:
        """Pixels crossed by outlines, for a window that contains all of them.

        Every edge is cut at pixel borders; each piece belongs to the pixel of its
        midpoint. An outline along a border touches one of the two sides.
        """
        x0, x1 = ((x - window.x) / window.l0_per_px_x for x in (self.x0, self.x1))
        y0, y1 = ((y - window.y) / window.l0_per_px_y for y in (self.y0, self.y1))
        # Positions along an edge, 0 to 1: its ends and every pixel border it crosses.
        cut_x, cut_y = _cuts(x0, x1), _cuts(y0, y1)
        ends = np.arange(len(x0))
        edge = np.concatenate([ends, ends, cut_x[0], cut_y[0]])
        at = np.concatenate([np.zeros(len(x0)), np.ones(len(x0)), cut_x[1], cut_y[1]])
        order = np.lexsort((at, edge))
        edge, at = edge[order], at[order]
        # Neighbors in the sorted table are one piece, unless another edge begins.
        piece = edge[1:] == edge[:-1]
        edge, at = edge[1:][piece], ((at[1:] + at[:-1]) / 2)[piece]
        col = np.floor(x0[edge] + at * (x1 - x0)[edge]).astype(np.int64)
        row = np.floor(y0[edge] + at * (y1 - y0)[edge]).astype(np.int64)
        out = np.zeros(window.shape, np.bool_)
        # A midpoint on the window's far border would be one pixel outside.
        out[row.clip(0, window.height - 1), col.clip(0, window.width - 1)] = True
        return out


def _first_center(at: Floats, start: float, scale: float) -> Indices:
    """First pixel along an axis whose center is at or after a position."""
    return np.ceil((at - start) / scale - 0.5).astype(np.int64)


def _ranges(start: Indices, stop: Indices) -> tuple[Indices, Indices]:
    """All integers of the ranges [start, stop), and each one's range index."""
    lengths = (stop - start).clip(0)
    which = np.repeat(np.arange(len(start)), lengths)
    # How many integers the earlier ranges have: a running index minus that.
    before = np.cumsum(lengths) - lengths
    return which, np.arange(len(which)) - before[which] + start[which]


def _cuts(start: Floats, stop: Floats) -> tuple[Indices, Floats]:
    """Crossings of edges with integers: edge index, and position along it (0..1)."""
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    # Strictly between the ends: an end on a border cuts nothing. An edge along the
    # axis has no such integer, so the division below never meets a length of 0.
    edge, line = _ranges(
        np.floor(low).astype(np.int64) + 1, np.ceil(high).astype(np.int64)
    )
    return edge, (line - start[edge]) / (stop - start)[edge]
