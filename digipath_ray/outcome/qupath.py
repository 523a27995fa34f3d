"""Traces pixels as outlines, and writes outlines as GeoJSON annotations for QuPath."""

import functools
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
Indices = NDArray[np.int64]
Feature = dict[str, Any]
"""A GeoJSON feature."""
SLIVER_PX = 1e-6
"""Minimum part of a pixel, clipped by the slide's edge, to be kept."""
SMALL_PX = 64
"""Outlines of maps up to this size recur so often that they are cached."""
DECIMALS = 2
"""Of a coordinate in a file: 0.01 level-0 px is far below what was measured."""


def trace(pixels: Bools) -> Shape:
    """Trace the true pixels of a map [h, w] as a MultiPolygon in px, x right, y down.

    The outline follows pixel borders, so it covers exactly these pixels; holes are
    preserved, and pixels that touch only in a corner are separate polygons.
    """
    if pixels.size <= SMALL_PX:
        return _trace_small(pixels.shape, pixels.tobytes())
    return _trace(pixels)


@functools.lru_cache(maxsize=1 << 12)
def _trace_small(shape: tuple[int, int], values: bytes) -> Shape:
    # Thousands of specks on a slide have a few hundred shapes.
    return _trace(np.frombuffer(values, np.bool_).reshape(shape))


def _trace(pixels: Bools) -> Shape:
    height, width = pixels.shape
    inside = np.zeros((height + 2, width + 2), np.bool_)
    inside[1:-1, 1:-1] = pixels
    above, below = inside[:-1, 1:-1], inside[1:, 1:-1]
    row, col = np.nonzero(above != below)
    y, left, right = _sides(row, col, below[row, col])
    before, after = inside[1:-1, :-1], inside[1:-1, 1:]
    row, col = np.nonzero(before != after)
    down = np.argsort(col, kind="stable")
    row, col = row[down], col[down]
    x, top, bottom = _sides(col, row, after[row, col])
    across = np.stack([left, y, right, y], axis=1)
    down = np.stack([x, top, x, bottom], axis=1)
    lines = np.concatenate([across, down]).astype(float).reshape(-1, 2, 2)
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(lines)))
    col, row = _first_pixels(faces)
    return shapely.normalize(shapely.MultiPolygon(list(faces[pixels[row, col]])))


def _sides(line: Indices, at: Indices, inside: Bools) -> tuple[Indices, ...]:
    """Runs of pixel borders along lines: line, start and end of each.

    A run ends where the pixels change sides. That is where four borders meet, so runs
    end exactly at the corners of the outline.

    Args:
        line: of each border, in ascending order.
        at: place of each border on its line, ascending along it.
        inside: whether the pixel that follows a border across the line is a true one.
    """
    next_to = (np.diff(line) == 0) & (np.diff(at) == 1) & (inside[1:] == inside[:-1])
    first = np.concatenate([[True], ~next_to])[: len(at)]
    last = np.concatenate([~next_to, [True]])[: len(at)]
    return line[first], at[first], at[last] + 1


def _first_pixels(faces: NDArray[np.object_]) -> NDArray[np.int64]:
    """Column and row [2, n] of the leftmost pixel in each face's first row."""
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
    traced: Shape | None = None,
) -> Shape:
    """Outline of pixels on a slide, a valid MultiPolygon in level-0 px.

    Args:
        pixels: bool map [h, w].
        x: left edge of the first column, level-0 px.
        y: top edge of the first row, level-0 px.
        l0_per_px_x: level-0 px per pixel.
        l0_per_px_y: likewise.
        max_x: width of the slide, to clip to.
        max_y: height of the slide, to clip to.
        traced: :func:`trace` of the pixels, if it is at hand.
    """
    cols = math.ceil((max_x - x) / l0_per_px_x - SLIVER_PX)
    rows = math.ceil((max_y - y) / l0_per_px_y - SLIVER_PX)
    if rows <= 0 or cols <= 0:
        return shapely.MultiPolygon()
    if traced is None or pixels.shape[0] > rows or pixels.shape[1] > cols:
        traced = trace(pixels[:rows, :cols])
    corner, scale, limit = (x, y), (l0_per_px_x, l0_per_px_y), (max_x, max_y)
    return shapely.transform(
        traced,
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
    """Build a QuPath annotation; equal ones have equal UUIDs.

    Args:
        geometry: Polygon or MultiPolygon of level-0 px.
        class_name: QuPath class.
        color: RGB color of the class.
        name: name of the annotation.
        measurements: measurements by name.
    """
    parts = shapely.get_parts(geometry)
    shape = parts[0] if len(parts) == 1 else geometry
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{class_name} {shape.wkt}")
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": json.loads(shapely.to_geojson(rounded(shape))),
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": class_name, "color": list(color)},
            "isLocked": False,
            "measurements": dict(measurements),
        },
    }


def rounded(shape: Shape) -> Shape:
    """A shape whose coordinates have the decimals that a file needs.

    What is thinner than that, at the edge of a slide, stays as it is.
    """
    short = shapely.transform(shape, lambda points: points.round(DECIMALS))
    return short if short.is_valid and short.area > 0 else shape


def write_features(
    path: Path, features: Iterable[Feature], *, notes: Mapping[str, Any] | None = None
) -> None:
    """Write features as a FeatureCollection.

    Args:
        path: file to write.
        features: features of :func:`feature`.
        notes: further members of the collection, ignored by QuPath.

    Raises:
        ValueError: a measurement is not finite, which JSON cannot represent.
    """
    tree = {
        "type": "FeatureCollection",
        "features": list(features),
        **(notes or {}),
    }
    text = json.dumps(tree, allow_nan=False, separators=(",", ":"))
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
