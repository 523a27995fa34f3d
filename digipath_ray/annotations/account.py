"""What an annotation file holds, and what of it is used: for people to read."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self

import shapely

from digipath_ray.annotations.outlines import Meaning, Outlines, Shape
from digipath_ray.annotations.window import SlideSize
from digipath_ray.slide.info import SlideError
from digipath_ray.words import count

MEANINGS: tuple[Meaning, ...] = ("tumor", "hole", "ignored", "skip")
CUT = "NegativeROA"
"""What ImageScope calls a region that is cut out of the others of its layer."""
FRAME = "region*"
"""QuPath's class of a frame, which is never drawn, in lower case."""
BEYOND = 0.001
"""Part of the tumor beyond the slide from which it is said: less is a shaky hand."""


@dataclass(frozen=True, kw_only=True)
class ClassUse:
    """A class of a file: what it means, and how much of it lies on the slide.

    Attributes:
        name: as the file calls it.
        meaning: what it counts as; "class": a class of a fit that is no tumor.
        shapes: number of shapes; of a mask 1.
        area_px: area of their union on the slide, level-0 px; None if not drawn.
    """

    name: str
    meaning: Meaning | Literal["class"]
    shapes: int
    area_px: float | None


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a file holds and what of it is used.

    Attributes:
        kind: format of the file.
        classes: what is drawn in it.
        skipped: number of elements that are left out, by reason.
        beyond: part of the tumor drawn that lies beyond the slide, 0 to 1.
        unclassified: whether the tumor is what has no class, for lack of any class.
        notes: what was assumed or is remarkable, as sentences.
    """

    kind: str = ""
    classes: tuple[ClassUse, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    beyond: float = 0.0
    unclassified: bool = False
    notes: tuple[str, ...] = ()

    def scaled(self, factor: float) -> Self:
        """The account with areas of ``factor`` times as many level-0 px."""
        return replace(
            self,
            classes=tuple(
                replace(
                    use, area_px=None if use.area_px is None else use.area_px * factor
                )
                for use in self.classes
            ),
        )

    def of(self, meaning: Meaning) -> list[ClassUse]:
        """Classes of a meaning."""
        return [use for use in self.classes if use.meaning == meaning]

    @property
    def concerns(self) -> list[str]:
        """Sentences on what is not used as it was drawn; empty if all is."""
        found = []
        if self.skipped:
            found.append(f"left out: {listed_counts(self.skipped)}")
        unused = {use.name: use.shapes for use in self.of("skip")}
        if named := {n: k for n, k in unused.items() if n.casefold() != FRAME}:
            found.append(f"not drawn: {listed_counts(named)}")
        if self.beyond > BEYOND:
            found.append(
                f"{share(self.beyond)} of the tumor drawn lies beyond the slide"
            )
        return [*found, *self.notes]

    def with_correction(self, correction: Self) -> Self:
        """Account of an annotation and of the corrections over it."""
        return replace(
            self,
            classes=(*self.classes, *correction.classes),
            skipped=dict(Counter(self.skipped) + Counter(correction.skipped)),
            beyond=max(self.beyond, correction.beyond),
            notes=(*self.notes, *correction.notes),
        )

    def to_json(self) -> str:
        """The account as text, for :meth:`from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """An account of the text that :meth:`to_json` wrote."""
        tree = json.loads(text)
        classes = tuple(ClassUse(**use) for use in tree["classes"])
        return cls(**{**tree, "classes": classes, "notes": tuple(tree["notes"])})


def listed_counts(counts: Mapping[str, int]) -> str:
    """Counts by name as text: ``2 x a Dot, 1 x a ruler``."""
    return ", ".join(f"{n} x {what}" for what, n in sorted(counts.items()))


def share(part: float) -> str:
    """A part of 1 as percent, never rounded to none or all."""
    if part >= 1:
        return "100 %"
    return f"{min(max(100 * part, 0.1), 99.9):.3g} %"


def account_of(outlines: Outlines, slide: SlideSize) -> Account:
    """Account of a file of outlines."""
    frame = shapely.box(0, 0, slide.width, slide.height)
    classes = []
    for meaning in MEANINGS[:3]:
        by_name: dict[str, list[Shape]] = {}
        shapes = outlines.of(meaning)
        names = outlines.names.get(meaning) or [""] * len(shapes)
        for name, shape in zip(names, shapes, strict=True):
            by_name.setdefault(name, []).append(shape)
        if meaning == "hole" and outlines.cut:
            by_name.setdefault(CUT, []).extend(outlines.cut)
        for name, drawn in by_name.items():
            area = float(shapely.intersection(shapely.union_all(drawn), frame).area)
            classes.append(
                ClassUse(name=name, meaning=meaning, shapes=len(drawn), area_px=area)
            )
    classes += [
        ClassUse(name=name, meaning="skip", shapes=n, area_px=None)
        for name, n in outlines.unused.items()
    ]
    whole = shapely.union_all(outlines.tumor)
    inside = shapely.intersection(whole, frame).area
    return Account(
        kind=outlines.kind,
        classes=tuple(classes),
        skipped=dict(outlines.skipped),
        beyond=1 - inside / whole.area if whole.area else 0.0,
        unclassified=outlines.unclassified,
        notes=outlines.notes,
    )


def check_holds_tumor(
    name: str, outlines: Outlines, tumor: Shape, slide: SlideSize
) -> None:
    """Raise if things are drawn in a file of which none is tumor on the slide.

    Only an empty file says that there is no tumor, or one of which the user said that
    none of its classes is.

    Args:
        name: of the file.
        outlines: what it holds.
        tumor: what is left of its tumor on the slide, without holes.
        slide: size of the slide.

    Raises:
        SlideError: kinds and numbers of what is drawn.
    """
    others = len(outlines.ignored) + outlines.unused.total()
    all_excluded = (
        others == outlines.excluded and not outlines.skipped and not outlines.holes
    )
    if tumor.area > 0 or outlines.is_empty or (all_excluded and not outlines.tumor):
        return
    if outlines.tumor:
        frame = shapely.box(0, 0, slide.width, slide.height)
        drawn = count(len(outlines.tumor), "outline")
        if not any(shape.intersects(frame) for shape in outlines.tumor):
            left, top, right, bottom = shapely.total_bounds(outlines.tumor)
            raise SlideError(
                f"{name}: all tumor lies beyond the slide: {drawn} within x {left:.0f} "
                f"to {right:.0f} and y {top:.0f} to {bottom:.0f}, the slide has "
                f"{slide.width} x {slide.height} px",
                "check that it is the annotation of this slide, in level-0 px",
            )
        raise SlideError(
            f"{name}: no tumor is left of {drawn}: holes or ignored areas cover all "
            "that lies on the slide",
            "check the classes, or what they mean (--classes)",
        )
    raise SlideError(
        f"{name}: no tumor in what is drawn: {listed_counts(_drawn(outlines))}",
        "draw tumor as closed outlines and export again; if the slide shows no tumor, "
        "label it negative and leave its annotation empty",
    )


def _drawn(outlines: Outlines) -> dict[str, int]:
    """Number of things in a file without tumor, by what they are."""
    found = dict(outlines.skipped)
    for meaning in ("hole", "ignored"):
        for name in outlines.names.get(meaning, []):
            key = f"{name} ({meaning})"
            found[key] = found.get(key, 0) + 1
    return {**found, **{f"{k} (not drawn)": n for k, n in outlines.unused.items()}}
