"""Aperio ImageScope XML, the format of the PAIP tumor annotations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely
from shapely import affinity

from digipath_ray.annotations.outlines import (
    Meaning,
    Meanings,
    Outlines,
    Point,
    Shape,
    coordinate,
    meanings,
    polygon,
)

ROOT = "Annotations"
LINE_TYPES = {"3": "an arrow", "4": "a ruler"}
RECTANGLE, ELLIPSE = "1", "2"
CORNERS_ONLY = 2
"""Number of points of a rectangle or ellipse stored as its bounding box."""


def parse_imagescope(root: Any, path: Path, classes: Meanings | None) -> Outlines:
    """Parse the outlines of an ImageScope file from its XML root.

    Every layer is tumor, unless ``classes`` has its Id or Name. Regions with
    NegativeROA="1" are cut out of the other regions of their layer.

    Raises:
        SlideError: coordinates that are not numbers.
    """
    known = meanings({}, classes)
    outlines = Outlines()
    for layer in root.iter("Annotation"):
        names = [layer.get(key, "").casefold() for key in ("Id", "Name")]
        meaning: Meaning = next(
            (known[name] for name in names if name in known), "tumor"
        )
        positive: list[Shape] = []
        negative: list[Shape] = []
        for region in layer.iter("Region"):
            shape = _shape(region, path, outlines)
            if shape is not None:
                cut_out = region.get("NegativeROA") == "1"
                (negative if cut_out else positive).append(shape)
        if positive:
            whole, holes = shapely.union_all(positive), shapely.union_all(negative)
            outlines.add(meaning, shapely.difference(whole, holes))
    return outlines


def _shape(region: Any, path: Path, outlines: Outlines) -> Shape | None:
    """Polygon of a region; None, counted as skipped, if it has no area."""
    kind = region.get("Type", "0")
    points = list(_points(region, path))
    if kind in LINE_TYPES:
        outlines.skipped[LINE_TYPES[kind]] += 1
        return None
    if kind in (RECTANGLE, ELLIPSE) and len(points) == CORNERS_ONLY:
        (left, top), (right, bottom) = points
        return (
            _ellipse(points)
            if kind == ELLIPSE
            else shapely.box(
                min(left, right), min(top, bottom), max(left, right), max(top, bottom)
            )
        )
    if len(points) < 3:
        outlines.skipped["fewer than 3 points"] += 1
        return None
    return polygon(points)


def _points(region: Any, path: Path) -> Iterator[Point]:
    for vertex in (*region.iter("Vertex"), *region.iter("V")):
        yield coordinate(path, vertex.get("X")), coordinate(path, vertex.get("Y"))


def _ellipse(corners: list[Point]) -> Shape:
    """Ellipse inscribed in a bounding box, given two opposite corners."""
    (x0, y0), (x1, y1) = corners
    circle = shapely.Point((x0 + x1) / 2, (y0 + y1) / 2).buffer(0.5, quad_segs=32)
    return affinity.scale(circle, abs(x1 - x0), abs(y1 - y0))
