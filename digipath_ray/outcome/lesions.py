"""Lesions: what stands out on a thresholded heatmap, each measured in um and mm2.

Lengths and shapes are scikit-image's, taken on pixels of their physical size. What it
draws a picture of the hull for, solidity and the Feret diameter, is computed from the
hull itself: the same numbers, in milliseconds where a lesion fills a slide.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from shapely.affinity import translate
from skimage.measure import perimeter, regionprops

from digipath_ray.heatmap.canvas import Heatmap, Map
from digipath_ray.outcome.hull import (
    convex_hull,
    count_inside,
    diameter_um,
    hull_of_hulls,
)

Bools = NDArray[np.bool_]
Labels = NDArray[np.int32]
Box = tuple[int, int, int, int]

NEIGHBORS = np.ones((3, 3), np.bool_)
"""Pixels that touch in a corner belong together (8-connected)."""
SMALL_PX = 64
"""Boxes up to this size are so often alike that their shapes are remembered."""
MOST = 10_000
"""Lesions of a slide that are measured, the largest; so many take seconds. A heatmap
with more is noise, as of networks that know nothing of what they see."""
STRIP_ROWS = 256
"""Rows that are renumbered together, to need little memory."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A connected region of pixels at or above the threshold.

    Attributes:
        number: from 1 on, the largest area first.
        area_mm2: of its pixels.
        perimeter_um: scikit-image's; its pixels' sides count as their geometric mean
            where they differ.
        major_axis_um: of the ellipse with the same second moments, 0 of one pixel. A
            moment and no length: for that see ``feret_um``.
        feret_um: largest distance between two points of its outline, which runs
            through the middles of the pixels' outer sides.
        eccentricity: of the ellipse, 0 a circle, 1 a line.
        extent: fraction of its box that it fills.
        solidity: fraction of its convex hull that it fills, counted in pixels.
        mean_p: mean probability of its pixels.
        max_p: highest probability of its pixels.
        x_um, y_um: centroid, um from the slide's upper left corner.
        box: first row, first column, row after, column after; heatmap px.
    """

    number: int
    area_mm2: float
    perimeter_um: float
    major_axis_um: float
    feret_um: float
    eccentricity: float
    extent: float
    solidity: float
    mean_p: float
    max_p: float
    x_um: float
    y_um: float
    box: Box


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesions:
    """The lesions of a slide at a threshold.

    Attributes:
        labels: int32 [H, W], 0 none, else the number of the lesion.
        lesions: in the order of their numbers.
        threshold: lowest probability of a pixel that belongs to one.
        mpp_x, mpp_y: um per heatmap px.
        left_out: smaller regions that are none of them, since there were too many.
    """

    labels: Labels
    lesions: tuple[Lesion, ...]
    threshold: float
    mpp_x: float
    mpp_y: float
    left_out: int = 0

    def union(self) -> Bools:
        """Bool [H, W]: pixels that belong to a lesion."""
        return np.asarray(self.labels > 0)

    def pixels(self, number: int) -> Bools:
        """The pixels of one lesion, bool over its box."""
        top, left, bottom, right = self.lesions[number - 1].box
        return np.asarray(self.labels[top:bottom, left:right] == number)

    def feret_um(self, numbers: Sequence[int]) -> float:
        """The Feret diameter of several lesions together, gaps between them included.

        Measured like :attr:`Lesion.feret_um`.
        """
        hulls = []
        for number in numbers:
            top, left, _, _ = self.lesions[number - 1].box
            hull = convex_hull(self.pixels(number))
            hulls.append(translate(hull, xoff=left, yoff=top))
        return diameter_um(hull_of_hulls(hulls), mpp_x=self.mpp_x, mpp_y=self.mpp_y)


def find_lesions(heatmap: Heatmap, threshold: float) -> Lesions:
    """The 8-connected regions with probability >= ``threshold`` that were predicted.

    Of more than ``MOST`` the largest; how many were left out is said.
    """
    above = heatmap.above(threshold)
    labels = np.zeros(above.shape, np.int32)
    regions = int(ndimage.label(above, NEIGHBORS, output=labels))
    if regions > MOST:
        _keep_largest(labels, regions)
    mpp_x, mpp_y = heatmap.mpp_x, heatmap.mpp_y
    found = [
        _lesion(labels, number, where, heatmap.probability, mpp_x=mpp_x, mpp_y=mpp_y)
        for number, where in enumerate(ndimage.find_objects(labels), start=1)
    ]
    found.sort(key=lambda lesion: -lesion.area_mm2)
    _renumber(labels, [lesion.number for lesion in found], len(found))
    lesions = (replace(le, number=number) for number, le in enumerate(found, start=1))
    return Lesions(
        labels=labels,
        lesions=tuple(lesions),
        threshold=threshold,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        left_out=regions - len(found),
    )


def _keep_largest(labels: Labels, regions: int) -> None:
    """Leave the ``MOST`` largest regions of a label image, numbered anew, in place."""
    pixels = np.zeros(regions + 1, np.int64)
    for row in range(0, len(labels), STRIP_ROWS):
        pixels += np.bincount(
            labels[row : row + STRIP_ROWS].ravel(), minlength=regions + 1
        )
    kept = np.argsort(-pixels[1:], kind="stable")[:MOST] + 1
    _renumber(labels, np.sort(kept).tolist(), regions)


def _renumber(labels: Labels, numbers: Sequence[int], highest: int) -> None:
    """Give the label ``numbers[i]`` the number i + 1, any other 0, in place.

    Args:
        labels: the image.
        numbers: labels that stay.
        highest: of the labels there are.
    """
    new = np.zeros(highest + 1, np.int32)
    new[numbers] = np.arange(1, len(numbers) + 1)
    for row in range(0, len(labels), STRIP_ROWS):
        strip = labels[row : row + STRIP_ROWS]
        strip[...] = new[strip]


def _lesion(
    labels: Labels,
    number: int,
    where: tuple[slice, slice],
    probability: Map,
    *,
    mpp_x: float,
    mpp_y: float,
) -> Lesion:
    """The lesion of a label, which lies in the box ``where``."""
    pixels = np.asarray(labels[where] == number)
    rows, cols = where
    shape = _shape(pixels, mpp_x=mpp_x, mpp_y=mpp_y)
    values = probability[where][pixels]
    return Lesion(
        number=number,
        area_mm2=shape.pixels * mpp_x * mpp_y / 1e6,
        perimeter_um=shape.perimeter_um,
        major_axis_um=shape.major_axis_um,
        feret_um=shape.feret_um,
        eccentricity=shape.eccentricity,
        extent=shape.pixels / pixels.size,
        solidity=shape.solidity,
        mean_p=float(values.mean(dtype=np.float64)),
        max_p=float(values.max()),
        x_um=cols.start * mpp_x + shape.x_um,
        y_um=rows.start * mpp_y + shape.y_um,
        box=(rows.start, cols.start, rows.stop, cols.stop),
    )


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What the pixels of a box tell by themselves; um count from its corner."""

    pixels: int
    perimeter_um: float
    major_axis_um: float
    feret_um: float
    eccentricity: float
    solidity: float
    x_um: float
    y_um: float


def _shape(pixels: Bools, *, mpp_x: float, mpp_y: float) -> _Shape:
    if pixels.size > SMALL_PX:
        return _measure(pixels, mpp_x=mpp_x, mpp_y=mpp_y)
    return _measure_small(pixels.shape, pixels.tobytes(), mpp_x=mpp_x, mpp_y=mpp_y)


@functools.lru_cache(maxsize=1 << 12)
def _measure_small(
    shape: tuple[int, int], values: bytes, *, mpp_x: float, mpp_y: float
) -> _Shape:
    # An unsure heatmap leaves specks by the ten thousand, most of them alike.
    pixels = np.frombuffer(values, np.bool_).reshape(shape)
    return _measure(pixels, mpp_x=mpp_x, mpp_y=mpp_y)


def _measure(pixels: Bools, *, mpp_x: float, mpp_y: float) -> _Shape:
    (region,) = regionprops(pixels.astype(np.uint8), spacing=(mpp_y, mpp_x))
    hull = convex_hull(pixels)
    count = int(np.count_nonzero(pixels))
    y_um, x_um = region.centroid_local  # of pixels whose centers are whole numbers
    return _Shape(
        pixels=count,
        perimeter_um=float(perimeter(pixels)) * sqrt(mpp_x * mpp_y),
        major_axis_um=float(region.axis_major_length),
        feret_um=diameter_um(hull, mpp_x=mpp_x, mpp_y=mpp_y),
        eccentricity=float(region.eccentricity),
        solidity=count / count_inside(hull),
        x_um=float(x_um) + mpp_x / 2,
        y_um=float(y_um) + mpp_y / 2,
    )
