"""Outlines drawn on a slide, grouped by meaning."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    """Valid shapes of a file by meaning, level-0 px, and what is not among them.

    Attributes:
        tumor: tumor.
        holes: shapes cut out of the tumor.
        ignored: neither tumor nor normal tissue.
        cut: what the file cuts out of its shapes, which have no such areas any more.
        names: meaning -> what the file calls each of these shapes, in their order.
        unused: number of shapes not drawn because of what their name means, by name.
        skipped: number of elements that cannot be used, by reason.
        excluded: number of shapes that the user, not the file, said are no tumor.
        kind: format of the file.
        unclassified: whether the tumor is what has no class, for lack of any class.
        notes: what was assumed, as sentences.
    """

    tumor: list[Shape] = field(default_factory=list)
    holes: list[Shape] = field(default_factory=list)
    ignored: list[Shape] = field(default_factory=list)
    cut: list[Shape] = field(default_factory=list)
    names: dict[str, list[str]] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    kind: str = ""
    unclassified: bool = False
    notes: tuple[str, ...] = ()

    def add(self, meaning: Meaning, shape: Shape, name: str = "") -> None:
        """Add a shape that has an area."""
        if meaning == "skip":
            self.unused[name] += 1
            return
        self.of(meaning).append(shape)
        self.names.setdefault(meaning, []).append(name)

    def of(self, meaning: Meaning) -> list[Shape]:
        """Shapes of a meaning other than skip."""
        lists = {"tumor": self.tumor, "hole": self.holes, "ignored": self.ignored}
        return lists[meaning]

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was drawn."""
        return not (
            self.tumor or self.holes or self.ignored or self.unused or self.skipped
        )


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
    # Each ring by itself: make_valid adds a hole outside its outline as area.
    outer, *cut = (_enclosed(ring) for ring in (shell, *inner))
    return areas_of(shapely.difference(outer, shapely.union_all(cut)))


def holes_outside(shell: Sequence[Point], holes: Sequence[Sequence[Point]]) -> int:
    """Number of holes that do not touch the outline they are to be cut out of."""
    inner = [hole for hole in holes if len(hole) >= MIN_POINTS]
    if not inner or len(shell) < MIN_POINTS:
        return 0
    outer = _enclosed(shell)
    shapely.prepare(outer)
    return sum(not outer.intersects(_enclosed(hole)) for hole in inner)


def _enclosed(ring: Sequence[Point]) -> Shape:
    """Everything that a ring encloses."""
    drawn = shapely.Polygon(ring)
    if drawn.is_valid:
        return drawn
    return areas_of(shapely.make_valid(drawn, method="structure", keep_collapsed=False))


def areas_of(shape: Shape) -> Shape:
    """MultiPolygon of a shape, without its points and lines."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon"])


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
