"""GeoJSON as written by old and new QuPath versions, plain or gzipped."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from digipath_ray.annotations.drawing import (
    KNOWN_CLASSES,
    UNCLASSIFIED,
    Drawing,
    Drawn,
    free_names,
)
from digipath_ray.annotations.otherprograms import INSTEAD, refuse_other_json
from digipath_ray.annotations.outlines import (
    Point,
    coordinate,
    holes_outside,
    polygon,
)
from digipath_ray.slide.info import SlideError

OBJECT_TYPES = {
    "annotation": "annotation",
    "detection": "detection",
    "cell": "cell",
    "tile": "tile",
    "tmacore": "tmaCore",
    "root": "root",
}
"""QuPath's kinds of objects, by their names in lower case without underscores."""
TYPE_KEYS = ("objectType", "object_type", "type")
"""Properties that hold the kind, in the order of QuPath's versions."""
CLASS_KEYS = (
    "classification",
    "class",
    "className",
    "class_name",
    "label",
    "group",
    "category",
    "type",
)
"""Properties that hold a class: QuPath's own first, then other programs'."""
CHILD_KEYS = ("childObjects", "children")
GEOMETRIES = (
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
)


def read_geojson(path: Path) -> Drawing:
    """Read the annotations of a GeoJSON file; detections, cells and tiles are skipped.

    Raises:
        SlideError: not GeoJSON, JSON of another program, or coordinates that are not
            numbers.
    """
    data = _load(path)
    refuse_other_json(data, path)
    drawing = Drawing(kind="GeoJSON", word="class", known=KNOWN_CLASSES)
    for feature in _features(data, path):
        properties = _properties(feature)
        kind = _object_type(feature, properties)
        if kind not in (None, "annotation"):
            drawing.skipped[f"a {kind}"] += 1
            continue
        names, is_free = _names(properties)
        for rings in _polygons(feature.get("geometry"), path, drawing.skipped):
            shape = polygon(rings[0], rings[1:])
            if outside := holes_outside(rings[0], rings[1:]):
                drawing.skipped["a hole outside its outline"] += outside
            drawing.add(Drawn(shape=shape, names=names, is_free=is_free))
    return drawing


def _load(path: Path) -> Any:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return json.loads(data)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as e:
        raise SlideError(f"{path.name}: not GeoJSON: {e}", INSTEAD) from e


def _features(data: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the features of a collection, list or single feature, nested too."""
    listed = data.get("features") if isinstance(data, dict) else data
    if isinstance(data, dict) and data.get("type") != "FeatureCollection":
        kind = data.get("type")
        bare = {"type": "Feature", "geometry": data} if kind in GEOMETRIES else None
        listed = [data if kind == "Feature" else bare]
    for feature in listed if isinstance(listed, list) else [None]:
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise SlideError(
                f"{path.name}: not a GeoJSON feature, feature collection or list",
                INSTEAD,
            )
        yield feature
        properties = _properties(feature)
        for key in CHILD_KEYS:
            # A number or text under "children" is another program's property.
            children = properties.get(key) or feature.get(key)
            if isinstance(children, list):
                yield from _features(children, path)


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _polygons(
    geometry: Any, path: Path, skipped: Counter[str]
) -> Iterator[list[list[Point]]]:
    """Yield the polygons of a geometry as rings; count other geometries as skipped."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind == "GeometryCollection":
        for part in geometry.get("geometries") or []:
            yield from _polygons(part, path, skipped)
    elif kind not in ("Polygon", "MultiPolygon"):
        skipped[f"a {kind}" if kind else "no geometry"] += 1
    else:
        drawn = geometry.get("coordinates")
        several = kind == "MultiPolygon" and isinstance(drawn, list)
        for rings_drawn in drawn if several else [drawn]:
            rings = _rings(rings_drawn, path)
            if rings and len(rings[0]) >= 3:
                yield rings
            else:
                skipped["fewer than 3 points"] += 1


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


def _object_type(
    feature: Mapping[str, Any], properties: Mapping[str, Any]
) -> str | None:
    """QuPath's kind of an object; None if nothing says it.

    Versions up to 0.3 wrote ids as ``PathCellObject`` in its place.
    """
    identity = str(feature.get("id")).removeprefix("Path").removesuffix("Object")
    for value in (*(properties.get(key) for key in TYPE_KEYS), identity):
        kind = OBJECT_TYPES.get(str(value).replace("_", "").casefold())
        if kind is not None:
            return kind
    return None


def _names(properties: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """Names of a feature's class, and whether they are free text: its own name.

    A derived class (``Tumor: Positive``) also goes by its first part.
    """
    for key in CLASS_KEYS:
        text = _text(properties.get(key))
        if not text or (key == "type" and _is_object_type(text)):
            continue
        if text.casefold() == UNCLASSIFIED:
            return (), False
        base = text.split(":")[0].strip()
        return (text, base) if base not in ("", text) else (text,), False
    return free_names(_text(properties.get("name"))), True


def _is_object_type(text: str) -> bool:
    return text.replace("_", "").casefold() in OBJECT_TYPES


def _text(value: Any) -> str:
    """Text of a class: a name, the names of a derived class, or bare text."""
    if isinstance(value, dict):
        names = value.get("names")
        if isinstance(names, list) and names:
            return ": ".join(map(str, names))
        value = next((value[k] for k in ("name", "value", "label") if value.get(k)), "")
    return "" if value is None or isinstance(value, bool | list) else str(value).strip()
