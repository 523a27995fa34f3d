"""ASAP XML, the format of the CAMELYON annotations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from digipath_ray.annotations.drawing import Drawing, Drawn
from digipath_ray.annotations.outlines import Meaning, Point, coordinate, polygon

ROOT = "ASAP_Annotations"
NO_GROUP = "None"
KNOWN_GROUPS: dict[str, Meaning] = {
    "_0": "tumor",
    "_1": "tumor",
    "_2": "hole",
    "Tumor": "tumor",
    "metastases": "tumor",
    "Exclusion": "hole",
    "normal": "hole",
}
"""Group ``_2`` / ``Exclusion`` (CAMELYON16) and ``normal`` (CAMELYON17) are holes."""
AREA_TYPES = ("polygon", "spline", "rectangle")
"""A spline is read as the polygon through its points."""


def read_asap(root: Any, path: Path) -> Drawing:
    """Read the shapes of an ASAP file from its XML root.

    ``None`` marks an outline without a group in ASAP. Beside outlines with one its
    meaning is unknown, so it is ignored in training; alone it is refused.

    Raises:
        SlideError: coordinates that are not numbers.
    """
    parents = {
        g.get("Name"): g.get("PartOfGroup", NO_GROUP) for g in root.iter("Group")
    }
    drawing = Drawing(
        kind="ASAP XML",
        word="group",
        known=KNOWN_GROUPS,
        no_class=NO_GROUP,
        alone=None,
        beside="ignored",
    )
    for drawn in root.iter("Annotation"):
        kind = drawn.get("Type", "Polygon")
        if kind.casefold() not in AREA_TYPES:
            drawing.skipped[f"a {kind}"] += 1
            continue
        points = list(_points(drawn, path))
        if len(points) < 3:
            drawing.skipped["fewer than 3 points"] += 1
            continue
        group = drawn.get("PartOfGroup") or NO_GROUP
        names = tuple(_with_parents(group, parents))
        drawing.add(Drawn(shape=polygon(points), names=names))
    return drawing


def _points(drawn: Any, path: Path) -> Iterator[Point]:
    """Points of an outline, sorted by their Order attribute."""
    points = list(drawn.iter("Coordinate"))
    if all(p.get("Order", "").isdigit() for p in points):
        points.sort(key=lambda p: int(p.get("Order")))
    for point in points:
        yield coordinate(path, point.get("X")), coordinate(path, point.get("Y"))


def _with_parents(group: str, parents: dict[str, str]) -> Iterator[str]:
    """A group, then the groups that it is part of; nothing for no group."""
    seen: set[str] = set()
    while group.casefold() != NO_GROUP.casefold() and group not in seen:
        seen.add(group)
        yield group
        group = parents.get(group, NO_GROUP)
