"""GeoJSON as written by old and new QuPath versions, plain or gzipped."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digipath_ray.annotations.outlines import (
    Meaning,
    Meanings,
    Outlines,
    Point,
    coordinate,
    meanings,
    polygon,
    unknown_name,
)
from digipath_ray.slide.info import SlideError

UNCLASSIFIED = "unclassified"
KNOWN_CLASSES: dict[str, Meaning] = {
    "Tumor": "tumor",
    "Tumour": "tumor",
    "Viable tumor": "tumor",
    "Metastasis": "tumor",
    "Metastases": "tumor",
    "Carcinoma": "tumor",
    "Cancer": "tumor",
    UNCLASSIFIED: "tumor",
    "Exclusion": "hole",
    "Hole": "hole",
    "Ignore": "ignored",
    "Ignore*": "ignored",
    "Region*": "skip",
}
"""``Ignore*`` (excluded tissue) and ``Region*`` (a frame) are QuPath's own classes.

An annotation without a class counts as tumor, the only thing to draw.
"""
NOT_ANNOTATIONS = ("detection", "cell", "tile", "tmaCore")
OLD_IDS = {
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
}
"""Feature ids that QuPath up to 0.3 wrote in place of ``objectType``."""


def parse_geojson(path: Path, classes: Meanings | None) -> Outlines:
    """Parse the annotations of a GeoJSON file; skip detections, cells and tiles.

    Raises:
        SlideError: not GeoJSON, a class of unknown meaning, or coordinates that are not
            numbers.
    """
    known = meanings(KNOWN_CLASSES, classes)
    outlines = Outlines()
    for feature in _features(_load(path), path):
        properties = _properties(feature)
        kind = properties.get("objectType") or OLD_IDS.get(str(feature.get("id")))
        if kind in NOT_ANNOTATIONS:
            outlines.skipped[f"a {kind}"] += 1
            continue
        polygons = list(_polygons(feature.get("geometry"), path, outlines))
        if not polygons:
            continue
        name = _class_name(properties)
        meaning = _meaning(name, known)
        if meaning is None:
            raise unknown_name(path, "class", name, known=KNOWN_CLASSES)
        for rings in polygons:
            outlines.add(meaning, polygon(rings[0], rings[1:]))
    return outlines


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as e:
        raise SlideError(
            f"{path.name}: not GeoJSON: {e}", "export it again from QuPath"
        ) from e


def _features(data: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, list or single feature, nested too."""
    listed = data.get("features") if isinstance(data, dict) else data
    if isinstance(data, dict) and data.get("type") != "FeatureCollection":
        is_feature = data.get("type") == "Feature"
        listed = [data if is_feature else {"type": "Feature", "geometry": data}]
    for feature in listed if isinstance(listed, list) else [None]:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise SlideError(
                f"{path.name}: not a GeoJSON feature, feature collection or list",
                "export it from QuPath as GeoJSON",
            )
        yield feature
        yield from _features(_properties(feature).get("childObjects") or [], path)


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _polygons(
    geometry: Any, path: Path, outlines: Outlines
) -> Iterator[list[list[Point]]]:
    """Yield the polygons of a geometry as rings; count other geometries as skipped."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for part in geometry.get("geometries") or []:
            yield from _polygons(part, path, outlines)
    elif kind not in ("Polygon", "MultiPolygon"):
        outlines.skipped[f"a {kind}" if kind else "no geometry"] += 1
    else:
        drawn = geometry.get("coordinates")
        several = kind == "MultiPolygon" and isinstance(drawn, list)
        for rings_drawn in drawn if several else [drawn]:
            rings = _rings(rings_drawn, path)
            if rings and len(rings[0]) >= 3:
                yield rings
            else:
                outlines.skipped["fewer than 3 points"] += 1


def _rings(drawn: Any, path: Path) -> list[list[Point]]:
    """Parse rings of (x, y); a third coordinate is dropped."""
    try:
        return [
            [(coordinate(path, p[0]), coordinate(path, p[1])) for p in ring]
            for ring in drawn or []
        ]
    except (TypeError, IndexError, KeyError) as e:
        raise SlideError(
            f"{path.name}: coordinates are not rings of points: {e}",
            "the file is damaged: export the annotation again",
        ) from e


def _class_name(properties: dict[str, Any]) -> str:
    """QuPath's class: a name, the names of a derived class, or bare text."""
    value = properties.get("classification")
    if isinstance(value, dict):
        names = value.get("names")
        value = ": ".join(map(str, names)) if names else value.get("name")
    return str(value) if value else UNCLASSIFIED


def _meaning(name: str, known: dict[str, Meaning]) -> Meaning | None:
    """Meaning of a class; ``Tumor: Positive`` falls back to ``Tumor``."""
    base = name.split(":")[0].strip()
    return known.get(name.casefold()) or known.get(base.casefold())
