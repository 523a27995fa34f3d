"""ASAP's XML, in which the CAMELYON annotations come."""

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
"""CAMELYON16 cuts ``_2`` and ``Exclusion`` out of the tumor, CAMELYON17 ``normal``.

``None`` is ASAP's word for an outline in no group: nobody said what it is, so neither
tumor nor normal is learned from it.
"""
AREA_TYPES = ("Polygon", "Spline", "Rectangle")
"""A spline is taken as the polygon of its points."""


def parse_asap(root: Any, path: Path, classes: Meanings | None) -> Outlines:
    """The outlines of an ASAP file, given its XML root.

    Raises:
        SlideError: a group that nobody said the meaning of, or coordinates that are
            no numbers.
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
            f"{path.name}: none of its outlines is in a group, so nothing says tumor",
            f"group them in ASAP, or give classes = {{{NO_GROUP!r}: 'tumor'}}",
        )
    return outlines


def _points(drawn: Any, path: Path) -> Iterator[Point]:
    """The points of an outline in the order that they are numbered in."""
    points = list(drawn.iter("Coordinate"))
    if all(p.get("Order", "").isdigit() for p in points):
        points.sort(key=lambda p: int(p.get("Order")))
    for point in points:
        yield coordinate(path, point.get("X")), coordinate(path, point.get("Y"))


def _meaning(
    group: str, parents: dict[str, str], known: dict[str, Meaning]
) -> Meaning | None:
    """What a group means; if that is not known, what the group it is part of does."""
    seen: set[str] = set()
    while group.casefold() not in known:
        seen.add(group)
        group = parents.get(group, NO_GROUP)
        if group == NO_GROUP or group in seen:
            return None
    return known[group.casefold()]
