"""Outlines drawn on a slide, grouped by meaning."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import shapely

from digipath_ray.slide.info import SlideError

Meaning = Literal["tumor", "hole", "ignored", "skip"]
"""Tumor; hole cut out of the tumor; neither tumor nor normal; not drawn."""
Meanings = Mapping[str, Meaning]
"""Meaning of a file's groups, classes or layers, by name."""
Point = tuple[float, float]
Shape = Any
"""A shapely geometry; shapely is untyped."""

MIN_POINTS = 3


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Valid shapes of a file by meaning, level-0 px.

    Attributes:
        tumor: tumor.
        holes: shapes cut out of the tumor.
        ignored: neither tumor nor normal tissue.
        skipped: number of skipped elements, by reason.
    """

    tumor: list[Shape] = field(default_factory=list)
    holes: list[Shape] = field(default_factory=list)
    ignored: list[Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, meaning: Meaning, shape: Shape) -> None:
        """Add a shape; one without area is counted as skipped."""
        if meaning == "skip":
            return
        if shape.area == 0:
            self.skipped["an outline without area"] += 1
            return
        lists = {"tumor": self.tumor, "hole": self.holes, "ignored": self.ignored}
        lists[meaning].append(shape)


def polygon(shell: Sequence[Point], holes: Sequence[Sequence[Point]] = ()) -> Shape:
    """Polygon of an outline minus its holes; empty with fewer than 3 points.

    The outline may be open. If it intersects itself, everything it encloses counts: a
    line continued past its start adds the loop, a figure of eight is two areas.
    """
    if len(shell) < MIN_POINTS:
        return shapely.Polygon()
    inner = [hole for hole in holes if len(hole) >= MIN_POINTS]
    drawn = shapely.Polygon(shell, inner)
    if drawn.is_valid:
        return drawn
    return areas_of(shapely.make_valid(drawn, method="structure", keep_collapsed=False))


def areas_of(shape: Shape) -> Shape:
    """MultiPolygon of a shape, without its points and lines."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon"])


def meanings(known: Meanings, classes: Meanings | None) -> dict[str, Meaning]:
    """Meanings by lower-case name; the user's override the defaults.

    Raises:
        ValueError: the user gave an unknown meaning.
    """
    classes = classes or {}
    for name, meaning in classes.items():
        if meaning not in get_args(Meaning):
            raise ValueError(
                f"classes: {name!r} has the unknown meaning {meaning!r}: choose from "
                f"{', '.join(get_args(Meaning))}"
            )
    return {
        name.casefold(): m for table in (known, classes) for name, m in table.items()
    }


def unknown_name(
    path: Path, kind: str, name: str, known: Mapping[str, Meaning]
) -> SlideError:
    """Error for a group or class of unknown meaning."""
    by_meaning = [
        f"{meaning}: {', '.join(n for n, m in known.items() if m == meaning)}"
        for meaning in get_args(Meaning)
        if meaning in known.values()
    ]
    return SlideError(
        f"{path.name}: unknown {kind} {name!r}; known: {'; '.join(by_meaning)}",
        f"set its meaning: classes = {{{name!r}: 'tumor'}}, or 'hole' (cut out of "
        "the tumor), 'ignored' (neither tumor nor normal) or 'skip' (not drawn)",
    )


def coordinate(path: Path, value: object) -> float:
    """Parse a coordinate; a comma counts as the decimal point.

    Raises:
        SlideError: not a finite number.
    """
    text = str(value)
    if "." not in text and text.count(",") == 1:  # ASAP with a German locale
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SlideError(
            f"{path.name}: invalid coordinate {value!r}",
            "the file is damaged: export the annotation again",
        )
    return number
