"""What somebody drew on a slide: outlines, and what each of them means."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import shapely

from digipath_ray.slide.info import SlideError

Meaning = Literal["tumor", "hole", "ignored", "skip"]
"""tumor; a hole cut out of it; neither tumor nor normal; as if it were not drawn."""
Meanings = Mapping[str, Meaning]
"""What the groups, classes or layers of a file mean, by their name."""
Point = tuple[float, float]
Shape = Any
"""A shapely geometry; shapely has no types."""

MIN_POINTS = 3


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The shapes of a file by their meaning, level-0 px, each of them valid.

    Attributes:
        tumor: shapes that hold tumor.
        holes: shapes that are cut out of the tumor.
        ignored: shapes that are neither tumor nor normal tissue.
        skipped: how often something was left out, by the reason.
    """

    tumor: list[Shape] = field(default_factory=list)
    holes: list[Shape] = field(default_factory=list)
    ignored: list[Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, meaning: Meaning, shape: Shape) -> None:
        """Take a shape in; one without an area is counted as skipped."""
        if meaning == "skip":
            return
        if shape.area == 0:
            self.skipped["an outline without an area"] += 1
            return
        lists = {"tumor": self.tumor, "hole": self.holes, "ignored": self.ignored}
        lists[meaning].append(shape)


def polygon(shell: Sequence[Point], holes: Sequence[Sequence[Point]] = ()) -> Shape:
    """The area inside an outline, minus its holes; empty with fewer than 3 points.

    The outline need not be closed. Where it crosses itself, all that it goes around
    counts: a line drawn on past its start adds its loop, a figure of eight is two.
    """
    if len(shell) < MIN_POINTS:
        return shapely.Polygon()
    inner = [hole for hole in holes if len(hole) >= MIN_POINTS]
    drawn = shapely.Polygon(shell, inner)
    if drawn.is_valid:
        return drawn
    return areas_of(shapely.make_valid(drawn, method="structure", keep_collapsed=False))


def areas_of(shape: Shape) -> Shape:
    """The MultiPolygon in a shape, its points and lines dropped."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon"])


def meanings(known: Meanings, classes: Meanings | None) -> dict[str, Meaning]:
    """What names mean, lower case: the user's word before what is known.

    Raises:
        ValueError: the user gave a meaning that does not exist.
    """
    classes = classes or {}
    for name, meaning in classes.items():
        if meaning not in get_args(Meaning):
            raise ValueError(
                f"classes: {name!r} is said to be {meaning!r}: "
                f"choose from {', '.join(get_args(Meaning))}"
            )
    return {
        name.casefold(): m for table in (known, classes) for name, m in table.items()
    }


def unknown_name(
    path: Path, kind: str, name: str, known: Mapping[str, Meaning]
) -> SlideError:
    """The error for a group or class that nobody said the meaning of."""
    by_meaning = [
        f"{meaning}: {', '.join(n for n, m in known.items() if m == meaning)}"
        for meaning in get_args(Meaning)
        if meaning in known.values()
    ]
    return SlideError(
        f"{path.name}: {kind} {name!r} is not known; known are {'; '.join(by_meaning)}",
        f"say what it is: classes = {{{name!r}: 'tumor'}}, or 'hole' (cut out of the "
        "tumor), 'ignored' (neither tumor nor normal) or 'skip' (as if not drawn)",
    )


def coordinate(path: Path, value: object) -> float:
    """A coordinate as a number; a comma counts as a decimal point.

    Raises:
        SlideError: no number, or not a finite one.
    """
    text = str(value)
    if "." not in text and text.count(",") == 1:  # ASAP under a German Windows
        text = text.replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SlideError(
            f"{path.name}: {value!r} is no coordinate",
            "the file is damaged: export the annotation again",
        )
    return number
