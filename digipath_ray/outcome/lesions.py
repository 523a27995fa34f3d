"""Lesions: connected regions of a thresholded heatmap, measured in um and mm2.

Measured as scikit-image does with physical pixel spacing. Moments are summed here, and
solidity and the Feret diameter computed from the hull polygon instead of its pixels:
equal results, far below a millisecond for a small lesion.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from shapely.affinity import translate
from skimage.measure import perimeter

from digipath_ray.annotations.outlines import Shape
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.outcome.hull import (
    convex_hull,
    count_inside,
    diameter_um,
    hull_of_hulls,
)
from digipath_ray.outcome.qupath import trace

Bools = NDArray[np.bool_]
Labels = NDArray[np.int32]
Floats = NDArray[np.floating[Any]]
Box = tuple[int, int, int, int]

NEIGHBORS = np.ones((3, 3), np.bool_)
"""8-connectivity."""
SMALL_PX = 64
"""Shapes of boxes up to this size recur so often that they are cached."""
MOST = 10_000
"""Maximum number of lesions measured per slide, the largest; this many take seconds.
A heatmap with more is noise, as from an untrained network."""
STRIP_ROWS = 256
"""Rows renumbered at once, to limit memory."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A connected region of pixels at or above the threshold.

    Attributes:
        number: from 1, largest area first.
        area_mm2: area of its pixels.
        perimeter_um: as scikit-image; non-square pixels count with the geometric mean
            of their sides.
        major_axis_um: of the ellipse with the same second moments, 0 for a single
            pixel. Not a length: see ``feret_um``.
        feret_um: largest distance between two points of its outline through the
            midpoints of the outer pixel sides.
        eccentricity: of the ellipse, 0 for a circle, 1 for a line.
        extent: filled fraction of its bounding box.
        solidity: filled fraction of its convex hull, counted in pixels.
        mean_p: mean probability of its pixels.
        max_p: maximum probability of its pixels.
        x_um, y_um: centroid, um from the slide's top-left corner.
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
    """Lesions of a slide at a threshold.

    Attributes:
        labels: int32 [H, W], number of the lesion, 0 for background.
        lesions: in order of their numbers.
        threshold: minimum probability of a lesion pixel.
        mpp_x, mpp_y: um per heatmap px.
        left_out: number of smaller regions dropped because there were too many.
    """

    labels: Labels
    lesions: tuple[Lesion, ...]
    threshold: float
    mpp_x: float
    mpp_y: float
    left_out: int = 0

    def pixels(self, number: int) -> Bools:
        """Pixels of one lesion, bool over its box."""
        top, left, bottom, right = self.lesions[number - 1].box
        return np.asarray(self.labels[top:bottom, left:right] == number)

    def without_pixels(self) -> "Lesions":
        """The same lesions, without the map of their pixels."""
        return replace(self, labels=np.empty((0, 0), np.int32))

    @functools.cached_property
    def outlines(self) -> tuple[Shape, ...]:
        """Outline of each lesion, heatmap px from the corner of its box."""
        return tuple(trace(self.pixels(lesion.number)) for lesion in self.lesions)

    def feret_um(self, numbers: Sequence[int]) -> float:
        """Feret diameter of several lesions together, including the gaps.

        Largest distance between two points of their outlines, um.
        """
        hulls = []
        for number in numbers:
            top, left, _, _ = self.lesions[number - 1].box
            hull = convex_hull(self.pixels(number))
            hulls.append(translate(hull, xoff=left, yoff=top))
        return diameter_um(hull_of_hulls(hulls), mpp_x=self.mpp_x, mpp_y=self.mpp_y)


def find_lesions(heatmap: Heatmap, threshold: float) -> Lesions:
    """Find 8-connected predicted regions with probability >= ``threshold``.

    Keeps the ``MOST`` largest; ``left_out`` counts the others.
    """
    above = heatmap.above(threshold)
    labels = np.zeros(above.shape, np.int32)
    regions = int(ndimage.label(above, NEIGHBORS, output=labels))
    if regions > MOST:
        keep_largest(labels, regions)
    mpp_x, mpp_y = heatmap.mpp_x, heatmap.mpp_y
    found = [
        _lesion(labels, number, where, heatmap.probability, mpp_x=mpp_x, mpp_y=mpp_y)
        for number, where in enumerate(ndimage.find_objects(labels), start=1)
    ]
    # Stable: of equal areas, the one found first by rows comes first.
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


def keep_largest(labels: Labels, regions: int) -> None:
    """Keep the ``MOST`` largest regions of a label image, renumbered, in place."""
    pixels = np.zeros(regions + 1, np.int64)
    for row in range(0, len(labels), STRIP_ROWS):
        pixels += np.bincount(
            labels[row : row + STRIP_ROWS].ravel(), minlength=regions + 1
        )
    # Without the background, label 0, which is larger than any region.
    kept = np.argsort(-pixels[1:], kind="stable")[:MOST] + 1
    _renumber(labels, np.sort(kept).tolist(), regions)


def _renumber(labels: Labels, numbers: Sequence[int], highest: int) -> None:
    """Relabel ``numbers[i]`` as i + 1 and all others as 0, in place.

    Args:
        labels: label image.
        numbers: labels to keep.
        highest: highest label in the image.
    """
    new = np.zeros(highest + 1, np.int32)
    new[numbers] = np.arange(1, len(numbers) + 1)
    for row in range(0, len(labels), STRIP_ROWS):
        strip = labels[row : row + STRIP_ROWS]
        # Into the strip itself, a view: assigning the name would change nothing.
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
    """Measure the lesion of a label in the box ``where``."""
    # The box may hold parts of other lesions.
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
    """Shape measures of the pixels of a box; um from its corner."""

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
    # A noisy heatmap has tens of thousands of specks, most with equal shapes.
    pixels = np.frombuffer(values, np.bool_).reshape(shape)
    return _measure(pixels, mpp_x=mpp_x, mpp_y=mpp_y)


def _measure(pixels: Bools, *, mpp_x: float, mpp_y: float) -> _Shape:
    hull = convex_hull(pixels)
    rows, cols = np.nonzero(pixels)
    y_um, x_um = (rows + 0.5) * mpp_y, (cols + 0.5) * mpp_x
    major_um, eccentricity = _ellipse(x_um, y_um)
    return _Shape(
        pixels=len(rows),
        perimeter_um=float(perimeter(pixels)) * sqrt(mpp_x * mpp_y),
        major_axis_um=major_um,
        feret_um=diameter_um(hull, mpp_x=mpp_x, mpp_y=mpp_y),
        eccentricity=eccentricity,
        solidity=len(rows) / count_inside(hull),
        x_um=float(x_um.mean()),
        y_um=float(y_um.mean()),
    )


def _ellipse(x_um: Floats, y_um: Floats) -> tuple[float, float]:
    """Major axis, um, and eccentricity of the ellipse with the same second moments.

    Equal to regionprops', which takes milliseconds for any region: half a minute for
    the most lesions of a slide.
    """
    x, y = x_um - x_um.mean(), y_um - y_um.mean()
    xx, yy, xy = (x * x).mean(), (y * y).mean(), (x * y).mean()
    half, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    larger, smaller = half + spread, max(half - spread, 0.0)
    if larger == 0:
        return 0.0, 0.0
    return float(4 * np.sqrt(larger)), float(np.sqrt(1 - smaller / larger))
