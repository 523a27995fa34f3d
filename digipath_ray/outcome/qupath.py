"""Pixels as outlines, and outlines as the GeoJSON that QuPath opens as annotations."""

import json
import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath_ray.annotations.outlines import Shape
from digipath_ray.storage.files import publish

Bools = NDArray[np.bool_]
Feature = dict[str, Any]
"""A GeoJSON feature."""
SLIVER_PX = 1e-6
"""A pixel that the slide's edge leaves no more of is none."""


def trace(pixels: Bools) -> Shape:
    """The true pixels of a map [h, w] as a MultiPolygon in px, x right and y down.

    It runs along the borders of the pixels, so it holds these and no others; holes are
    kept, and pixels that touch in a corner only are polygons of their own.
    """
    inside = np.pad(pixels, 1).astype(np.int8)
    y, left, right = _sides(np.diff(inside, axis=0)[:, 1:-1])
    x, top, bottom = _sides(np.diff(inside, axis=1)[1:-1].T)
    across = np.stack([left, y, right, y], axis=1)
    down = np.stack([x, top, x, bottom], axis=1)
    lines = np.concatenate([across, down]).astype(float).reshape(-1, 2, 2)
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(lines)))
    col, row = _first_pixels(faces)
    return shapely.normalize(shapely.MultiPolygon(list(faces[pixels[row, col]])))


def _sides(border: NDArray[np.int8]) -> tuple[NDArray[np.int64], ...]:
    """Runs of equal borders along rows [lines, n]: line, start and end of each.

    The sign says on which side the pixels are. It turns where four borders meet, so
    that lines end at each corner of the outline, and nowhere else.
    """
    ends = np.diff(np.pad(border, ((0, 0), (1, 1))), axis=1) != 0
    line, start = np.nonzero(ends[:, :-1] & (border != 0))
    _, last = np.nonzero(ends[:, 1:] & (border != 0))
    return line, start, last + 1


def _first_pixels(faces: NDArray[np.object_]) -> NDArray[np.int64]:
    """Column and row [2, n] of each face's leftmost pixel in its first row."""
    shells = shapely.get_exterior_ring(faces)
    corners, of = shapely.get_coordinates(shells, return_index=True)
    order = np.lexsort((corners[:, 0], corners[:, 1], of))
    first = np.searchsorted(of[order], np.arange(len(faces)))
    return np.asarray(corners[order][first].T, np.int64)


def outline(
    pixels: Bools,
    *,
    x: float,
    y: float,
    l0_per_px_x: float,
    l0_per_px_y: float,
    max_x: float,
    max_y: float,
) -> Shape:
    """The outline of pixels on a slide, a valid MultiPolygon of level-0 px.

    Args:
        pixels: bool [h, w], as :func:`trace` takes them.
        x: left edge of the first column, level-0 px.
        y: upper edge of the first row, level-0 px.
        l0_per_px_x: level-0 px per pixel.
        l0_per_px_y: as ``l0_per_px_x``.
        max_x: width of the slide; nothing goes beyond it.
        max_y: height of the slide.
    """
    cols = math.ceil((max_x - x) / l0_per_px_x - SLIVER_PX)
    rows = math.ceil((max_y - y) / l0_per_px_y - SLIVER_PX)
    if rows <= 0 or cols <= 0:
        return shapely.MultiPolygon()
    corner, scale, limit = (x, y), (l0_per_px_x, l0_per_px_y), (max_x, max_y)
    return shapely.transform(
        trace(pixels[:rows, :cols]),
        lambda points: np.minimum(points * scale + corner, limit),
    )


def feature(
    geometry: Shape,
    *,
    class_name: str,
    color: tuple[int, int, int],
    name: str,
    measurements: Mapping[str, float],
) -> Feature:
    """An annotation as QuPath writes them; equal ones have the same UUID.

    Args:
        geometry: Polygon or MultiPolygon of level-0 px.
        class_name: QuPath's class of it.
        color: of the class, RGB.
        name: of the annotation.
        measurements: numbers that QuPath's tables show, by their name.
    """
    parts = shapely.get_parts(geometry)
    shape = parts[0] if len(parts) == 1 else geometry
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{class_name} {shape.wkt}")
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": class_name, "color": list(color)},
            "isLocked": False,
            "measurements": dict(measurements),
        },
    }


def write_features(
    path: Path, features: Iterable[Feature], *, notes: Mapping[str, Any] | None = None
) -> None:
    """Publish features as a FeatureCollection.

    Args:
        path: where to.
        features: of :func:`feature`.
        notes: further members of the collection, which QuPath passes over.

    Raises:
        ValueError: a measurement is not finite, which JSON has no word for.
    """
    tree = {
        "type": "FeatureCollection",
        "features": list(features),
        **(notes or {}),
    }
    text = json.dumps(tree, allow_nan=False)
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
