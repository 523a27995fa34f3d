"""Aperio ImageScope XML, also as HALO writes it; the format of PAIP's annotations."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely
from shapely import affinity

from digipath_ray.annotations.drawing import (
    KNOWN_CLASSES,
    OUTSIDE,
    Drawing,
    Drawn,
    free_names,
    with_note,
)
from digipath_ray.annotations.outlines import Point, Shape, coordinate, polygon

ROOT = "Annotations"
OUTLINE, RECTANGLE, ELLIPSE = "an outline", "a rectangle", "an ellipse"
SHAPES = {
    "": OUTLINE,
    "0": OUTLINE,
    "polygon": OUTLINE,
    "freehand": OUTLINE,
    "1": RECTANGLE,
    "rectangle": RECTANGLE,
    "2": ELLIPSE,
    "ellipse": ELLIPSE,
    "circle": ELLIPSE,
    "3": "an arrow",
    "arrow": "an arrow",
    "4": "a ruler",
    "ruler": "a ruler",
    "pin": "a pin",
}
"""A region's ``Type``: numbers of ImageScope, names of HALO."""
FALSE = ("", "0", "false", "no")
CORNERS = (2, 4)
"""Numbers of points of a rectangle or ellipse stored as its bounding box."""
PLAIN_ATTRIBUTES = ("", "description", "comment", "comments")
"""Names of attributes that ImageScope gives to every layer."""
PAIP_LAYERS = {"1": "Whole", "2": "Viable"}
PAIP_INSIDE = 0.95
"""Part of PAIP's viable tumor that lies in the whole tumor, at least."""


@dataclass(kw_only=True)
class _Layer:
    """A layer: its names, its shapes with theirs, and what is cut out of them."""

    id: str
    color: str
    name: tuple[str, ...]
    own_name: str
    shapes: list[tuple[Shape, tuple[str, ...]]] = field(default_factory=list)
    negative: list[Shape] = field(default_factory=list)

    @property
    def is_bare(self) -> bool:
        """Whether shapes are drawn in it that nothing names."""
        unnamed = not self.shapes or any(not names for _, names in self.shapes)
        return not self.name and unnamed and bool(self.shapes or self.negative)


def read_imagescope(root: Any, path: Path) -> Drawing:
    """Read the shapes of an ImageScope or HALO file from its XML root.

    A region is named by its text or attribute, else by its layer's name or attribute;
    the user may also name a layer by its Id. Regions with NegativeROA are cut out of
    the others of their layer, or of all tumor where the layer has no other. Two layers
    without a name, the second inside the first, are PAIP's whole and viable tumor.

    Raises:
        SlideError: coordinates that are not numbers.
    """
    drawing = Drawing(kind="ImageScope or HALO XML", word="layer", known=KNOWN_CLASSES)
    layers = [
        _read_layer(element, path, drawing.skipped)
        for element in root.iter("Annotation")
    ]
    bare = [layer for layer in layers if layer.is_bare]
    if _is_paip(layers, bare):
        for layer in bare:
            layer.name = (PAIP_LAYERS[layer.id],)
        drawing = with_note(
            drawing,
            "layers 1 and 2 without a name, one inside the other, are taken for "
            "PAIP's whole and viable tumor: only 2 is tumor",
        )
    elif len({(layer.color, layer.own_name) for layer in bare}) > 1:
        # Color or number tells them apart: they mean several things, not known which.
        for layer in bare:
            layer.name = (layer.own_name or layer.id or layer.color,)
    for layer in layers:
        _add_layer(layer, drawing)
    return drawing


def _read_layer(element: Any, path: Path, skipped: Counter[str]) -> _Layer:
    own_name = element.get("Name") or ""
    layer = _Layer(
        id=element.get("Id") or "",
        color=element.get("LineColor") or "",
        own_name=own_name,
        name=free_names(own_name) or _attribute(element.find("Attributes")),
    )
    for region in element.iter("Region"):
        shape = _shape(region, path, skipped)
        if shape is None:
            continue
        if (region.get("NegativeROA") or "").strip().casefold() not in FALSE:
            layer.negative.append(shape)
            continue
        names = free_names(region.get("Text")) or _attribute(region.find("Attributes"))
        layer.shapes.append((shape, names))
    return layer


def _attribute(attributes: Any) -> tuple[str, ...]:
    """What the attributes of a layer or region say: a value, or a name of its own."""
    for attribute in attributes if attributes is not None else ():
        name = (attribute.get("Name") or "").strip()
        for text in (attribute.get("Value"), name):
            plain = text == name and name.casefold() in PLAIN_ATTRIBUTES
            if not plain and (names := free_names(text)):
                return names
    return ()


def _is_paip(layers: list[_Layer], bare: list[_Layer]) -> bool:
    """Whether these are PAIP's layers: 1 holds 2, and nothing else is drawn."""
    drawn = [layer for layer in layers if layer.shapes or layer.negative]
    if drawn != bare or sorted(layer.id for layer in bare) != [*PAIP_LAYERS]:
        return False
    areas = {b.id: shapely.union_all([s for s, _ in b.shapes]) for b in bare}
    whole, viable = areas["1"], areas["2"]
    inside = shapely.intersection(whole, viable).area
    return bool(0 < PAIP_INSIDE * viable.area <= inside < whole.area)


def _add_layer(layer: _Layer, drawing: Drawing) -> None:
    """Add a layer's shapes, without its negative regions."""
    own_names = tuple(name for name in (layer.id, layer.own_name) if name)
    if not layer.shapes:
        for shape in layer.negative:
            drawing.add(
                Drawn(shape=shape, names=layer.name, also=own_names, is_hole=True)
            )
        return
    shapes = [shape for shape, _ in layer.shapes]
    if layer.negative:
        drawing.cut.extend(layer.negative)
        cut = shapely.union_all(layer.negative)
        tree = shapely.STRtree(shapes)
        touching = set(tree.query(layer.negative, predicate="intersects")[0].tolist())
        if len(touching) < len(layer.negative):
            drawing.skipped[OUTSIDE] += len(layer.negative) - len(touching)
        shapes = [shapely.difference(shape, cut) for shape in shapes]
    for shape, (whole, names) in zip(shapes, layer.shapes, strict=True):
        if shape.area == 0 and whole.area > 0:
            drawing.skipped["an outline that is all cut out"] += 1
            continue
        # What the user says of the layer also holds for texts within it.
        also = (*own_names, *layer.name)
        found = names or layer.name
        is_free = bool(names) and not layer.name
        drawing.add(Drawn(shape=shape, names=found, is_free=is_free, also=also))


def _shape(region: Any, path: Path, skipped: Counter[str]) -> Shape | None:
    """Polygon of a region; None, counted as skipped, if it has no area."""
    stated = (region.get("Type") or "").strip()
    kind = SHAPES.get(stated.casefold(), f"a region of type {stated}")
    points = list(_points(region, path))
    if kind not in (OUTLINE, RECTANGLE, ELLIPSE):
        skipped[kind] += 1
        return None
    if kind == RECTANGLE and len(points) == CORNERS[0]:
        return shapely.box(*shapely.MultiPoint(points).bounds)
    if kind == ELLIPSE and len(points) in CORNERS:
        return _ellipse(shapely.MultiPoint(points).bounds)
    if len(points) < 3:
        skipped["fewer than 3 points"] += 1
        return None
    return polygon(points)


def _points(region: Any, path: Path) -> Iterator[Point]:
    for vertex in (*region.iter("Vertex"), *region.iter("V")):
        yield coordinate(path, vertex.get("X")), coordinate(path, vertex.get("Y"))


def _ellipse(bounds: tuple[float, float, float, float]) -> Shape:
    """Ellipse inscribed in a bounding box."""
    x0, y0, x1, y1 = bounds
    circle = shapely.Point((x0 + x1) / 2, (y0 + y1) / 2).buffer(0.5, quad_segs=32)
    return affinity.scale(circle, x1 - x0, y1 - y0)
