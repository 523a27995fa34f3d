"""ASAP XML, the format of the CAMELYON annotations."""

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
    NO_GROUP: "ignored",
}
"""Group ``_2`` / ``Exclusion`` (CAMELYON16) and ``normal`` (CAMELYON17) are holes.

``None`` marks an outline without a group in ASAP. Its meaning is unknown, so it is
ignored in training.
"""
AREA_TYPES = ("Polygon", "Spline", "Rectangle")
"""A spline is read as the polygon through its points."""


def parse_asap(root: Any, path: Path, classes: Meanings | None) -> Outlines:
    """Parse the outlines of an ASAP file from its XML root.

    Raises:
        SlideError: a group of unknown meaning, or coordinates that are not numbers.
    """
    known = meanings(KNOWN_GROUPS, classes)
    parents = {
        g.get("Name"): g.get("PartOfGroup", NO_GROUP) for g in root.iter("Group")
    }
    outlines = Outlines()
    groups = set()
    for drawn in root.iter("Annotation"):
        kind = drawn.get("Type", "Polygon")
        if kind not in AREA_TYPES:
            outlines.skipped[f"a {kind}"] += 1
            continue
        points = list(_points(drawn, path))
        if len(points) < 3:
            outlines.skipped["fewer than 3 points"] += 1
            continue
        group = drawn.get("PartOfGroup", NO_GROUP)
        meaning = _meaning(group, parents, known)
        if meaning is None:
            raise unknown_name(path, "group", group, known=KNOWN_GROUPS)
        groups.add(group)
        outlines.add(meaning, polygon(points))
    if groups == {NO_GROUP} and known[NO_GROUP.casefold()] == "ignored":
        raise SlideError(
            f"{path.name}: no outline has a group, so tumor is not defined",
            f"assign groups in ASAP, or set classes = {{{NO_GROUP!r}: 'tumor'}}",
        )
    return outlines


def _points(drawn: Any, path: Path) -> Iterator[Point]:
    """Points of an outline, sorted by their Order attribute."""
    points = list(drawn.iter("Coordinate"))
    if all(p.get("Order", "").isdigit() for p in points):
        points.sort(key=lambda p: int(p.get("Order")))
    for point in points:
        yield coordinate(path, point.get("X")), coordinate(path, point.get("Y"))


def _meaning(
    group: str, parents: dict[str, str], known: dict[str, Meaning]
) -> Meaning | None:
    """Meaning of a group, falling back to its parent groups."""
    seen: set[str] = set()
    while group.casefold() not in known:
        seen.add(group)
        group = parents.get(group, NO_GROUP)
        if group == NO_GROUP or group in seen:
            return None
    return known[group.casefold()]
