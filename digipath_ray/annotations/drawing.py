"""What an annotation file holds, and what its names mean.

The readers of the formats return a :class:`Drawing`: shapes under the names that their
program gave them. What a name means is decided here, for all formats: a name that is
not known is refused, and a shape without any counts as tumor only where no shape of the
file has one.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import shapely

from digipath_ray.annotations.outlines import Meaning, Meanings, Outlines, Shape
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.slide.info import SlideError

UNCLASSIFIED = "unclassified"
FRAME_CLASS = "Region*"
"""QuPath's class of a frame around what was looked at; says nothing about its inside.
"""
KNOWN_CLASSES: dict[str, Meaning] = {
    "Tumor": "tumor",
    "Tumour": "tumor",
    "Viable tumor": "tumor",
    "Viable": "tumor",
    "Metastasis": "tumor",
    "Metastases": "tumor",
    "Carcinoma": "tumor",
    "Cancer": "tumor",
    "Exclusion": "hole",
    "Hole": "hole",
    "Ignore": "ignored",
    "Ignore*": "ignored",
    "Whole tumor": "skip",
    "Whole": "skip",
    "Artifact": "skip",
    FRAME_CLASS: "skip",
}
"""Classes of QuPath, HALO and ImageScope. ``Ignore*`` and ``Region*`` are QuPath's own.

``Whole tumor`` (PAIP 2019, and our own exports) is the region whose viable part is the
tumor, so the region itself is not drawn. ``artifact: fold`` and the like are our own.
"""
OUTSIDE = "a hole outside every outline"
GENERIC = re.compile(
    r"(annotations?|layers?|regions?|roi|polygons?|areas?|shapes?|outlines?|objects?)?"
    r"[ _#-]*[0-9]*",
    re.IGNORECASE,
)
"""Names that programs give by themselves, and that say nothing."""
NUMBERED = re.compile(r"(.*?)[ _#-]*[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A shape of a file, level-0 px.

    Attributes:
        shape: valid Polygon or MultiPolygon.
        names: what the file calls it, most specific first; the first that is known
            decides. Empty if it has no class.
        is_free: whether they are free text, not a class of the program.
        also: further names by which the user may say what it means.
        is_hole: whether it is cut out, whatever its class.
    """

    shape: Shape
    names: tuple[str, ...] = ()
    is_free: bool = False
    also: tuple[str, ...] = ()
    is_hole: bool = False


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """All shapes of a file.

    Attributes:
        kind: format of the file.
        word: what the format calls a class: group, class, layer.
        known: names of known meaning.
        shapes: shapes that have an area.
        cut: what was already cut out of them.
        skipped: number of elements that cannot be used, by reason.
        no_class: name by which the user may say what shapes without a class mean.
        alone: their meaning where no shape of the file has a class; None: refused.
        beside: their meaning beside shapes that have one; None: refused.
        notes: what was assumed, as sentences.
    """

    kind: str
    word: str
    known: Meanings
    shapes: list[Drawn] = field(default_factory=list)
    cut: list[Shape] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    no_class: str = UNCLASSIFIED
    alone: Meaning | None = "tumor"
    beside: Meaning | None = None
    notes: tuple[str, ...] = ()

    def add(self, drawn: Drawn) -> None:
        """Add a shape; one without area is counted as skipped."""
        if drawn.shape.area == 0:
            self.skipped["an outline without area"] += 1
        else:
            self.shapes.append(drawn)


def free_names(text: str | None) -> tuple[str, ...]:
    """Names in a text that a person or a program wrote: with and without its number.

    ``Tumor 2`` may be known as ``Tumor``; ``Annotation 2`` names nothing.
    """
    text = (text or "").strip()
    if GENERIC.fullmatch(text):
        return ()
    numbered = NUMBERED.fullmatch(text)
    bare = numbered.group(1) if numbered else ""
    return (text, bare) if bare else (text,)


def meanings_of(
    drawing: Drawing, spec: ClassSpec, counted: Set[str], classes: Meanings | None
) -> tuple[Drawing, Meanings]:
    """A drawing, and meanings, for which tumor is what is drawn as some classes.

    What the program or we take for tumor by its name is the class that is tumor; where
    several are, it has to be said which. Nothing is tumor for lack of a name.

    Args:
        drawing: the shapes.
        spec: the classes.
        counted: names of the classes that count.
        classes: what else the user said of names.
    """
    by_name = dict(spec.by_drawn)
    if len(spec.tumor) == 1:
        tumor = (n.casefold() for n, m in drawing.known.items() if m == "tumor")
        by_name = dict.fromkeys(tumor, spec.tumor[0]) | by_name
    given = {name.casefold(): meaning for name, meaning in (classes or {}).items()}
    for name, of in by_name.items():
        given.setdefault(name, "tumor" if of in counted else "skip")
    known = {n: m for n, m in drawing.known.items() if m != "tumor"}
    beside = None if drawing.beside == "tumor" else drawing.beside
    return replace(drawing, known=known, alone=None, beside=beside), given


def sort_by_meaning(
    drawing: Drawing,
    path: Path,
    classes: Meanings | None,
    spec: ClassSpec | None = None,
) -> Outlines:
    """Shapes of a file by what their names mean.

    Args:
        drawing: the shapes.
        path: file that they are from.
        classes: meanings by name that extend and override the known ones.
        spec: classes that networks are fitted to tell apart, by
            :func:`meanings_of`; for messages.

    Raises:
        SlideError: names of unknown meaning, or shapes with a class beside others
            without one.
        ValueError: ``classes`` holds an unknown meaning.
    """
    given, known = _by_user(classes), _by_lower_case(drawing.known)
    found = [_look_up(drawn, drawing, given, known) for drawn in drawing.shapes]
    pairs = list(zip(drawing.shapes, found, strict=True))
    classified = Counter(
        d.names[0] for d, (_, m) in pairs if d.names and m and not is_frame(d)
    )
    unknown = [d for d, (_, m) in pairs if d.names and m is None]
    names = Counter(d.names[0] for d in unknown)
    # One text on all outlines tells no kinds apart, so it is no class.
    one_text = len(names) == 1 and not classified and all(d.is_free for d in unknown)
    if unknown and spec is not None:
        raise _unknown_classes(path, drawing.word, names, spec)
    if unknown and not one_text:
        raise unknown_names(path, drawing.word, names, known=drawing.known)
    bare = sum(meaning is None for _, meaning in found)
    without = drawing.beside if classified else drawing.alone
    if bare and without is None:
        if spec is not None:
            raise _unknown_classes(path, drawing.word, {drawing.no_class: bare}, spec)
        raise _without_class(path, drawing, bare, classified)
    notes = drawing.notes
    if one_text:
        text = next(iter(names))
        notes += (f"the only name, {text!r}, is of no known meaning: taken for tumor",)
    outlines = Outlines(
        kind=drawing.kind,
        cut=drawing.cut,
        skipped=Counter(drawing.skipped),
        excluded=sum(by_user and m in ("skip", "ignored") for by_user, m in found),
        unclassified=bool(bare) and without == "tumor",
        notes=notes,
    )
    for drawn, (_, meaning) in pairs:
        meant = meaning or without or "ignored"
        if drawn.is_hole and meant != "skip":
            meant = "hole"
        name = drawn.names[0] if drawn.names else drawing.no_class
        outlines.add(meant, drawn.shape, name)
    if outlines.tumor and (outside := _count_outside(outlines)):
        outlines.skipped[OUTSIDE] += outside
    return outlines


def is_frame(drawn: Drawn) -> bool:
    """Whether a shape is a frame of QuPath's class ``Region*``."""
    return FRAME_CLASS.casefold() in (name.casefold() for name in drawn.names)


def _look_up(
    drawn: Drawn, drawing: Drawing, given: Meanings, known: Meanings
) -> tuple[bool, Meaning | None]:
    """Whether the user said what a shape means, and its meaning; None if unknown."""
    bare = drawn.is_free or not drawn.names
    unsaid = (drawing.no_class, UNCLASSIFIED) if bare else ()
    for name in (*drawn.names, *drawn.also, *unsaid):
        if name.casefold() in given:
            return True, given[name.casefold()]
    for name in drawn.names:
        if name.casefold() in known:
            return False, known[name.casefold()]
    return False, None


def _by_user(classes: Meanings | None) -> dict[str, Meaning]:
    for name, meaning in (classes or {}).items():
        if meaning not in get_args(Meaning):
            raise ValueError(
                f"classes: {name!r} has the unknown meaning {meaning!r}: choose from "
                f"{', '.join(get_args(Meaning))}"
            )
    return _by_lower_case(classes or {})


def _by_lower_case(table: Meanings) -> dict[str, Meaning]:
    return {name.casefold(): meaning for name, meaning in table.items()}


def _count_outside(outlines: Outlines) -> int:
    """Number of holes that touch no tumor."""
    if not outlines.holes:
        return 0
    tree = shapely.STRtree(outlines.tumor)
    touching = tree.query(outlines.holes, predicate="intersects")[0]
    return len(outlines.holes) - len(set(touching.tolist()))


def unknown_names(
    path: Path, word: str, names: Mapping[str, int], known: Meanings
) -> SlideError:
    """Error for groups, classes or layers of unknown meaning, by number of shapes."""
    by_meaning = [
        f"{meaning}: {', '.join(n for n, m in known.items() if m == meaning)}"
        for meaning in get_args(Meaning)
        if meaning in known.values()
    ]
    (first, *others) = names
    what = f"{word} {first!r}"
    if others:
        plural = f"{word}es" if word.endswith("s") else f"{word}s"
        what = f"{plural} {', '.join(f'{n!r} ({k})' for n, k in names.items())}"
    return SlideError(
        f"{path.name}: unknown {what}; known: {'; '.join(by_meaning)}",
        f"say what it means: {classes_line(names)}, with tumor, hole (cut out of the "
        "tumor), ignored (neither tumor nor normal) or skip (not drawn)",
    )


def _unknown_classes(
    path: Path, word: str, names: Mapping[str, int], spec: ClassSpec
) -> SlideError:
    """Error for groups, classes or layers that are no class of a fit."""
    told = ", ".join(f"{name!r} ({n})" for name, n in names.items())
    pairs = [*spec.drawn, *(f"{name}=CLASS" for name in names)]
    line = f"--class-drawn {shlex.quote(','.join(pairs))}"
    if any("," in name for name in names):  # the option is split at commas
        line = f"[classes] drawn = {pairs} in the file of --config"
    return SlideError(
        f"{path.name}: not known which class these are, by {word}: {told}; the classes "
        f"are {', '.join(spec.names)}",
        f"say which: {line}, with one of the classes for CLASS; or that they are none: "
        f"{classes_line(names)}, with hole (cut out), ignored (not fitted on) or skip "
        "(not drawn)",
    )


def classes_line(names: Iterable[str], meaning: str = "ignored") -> str:
    """The option that gives each of some names a meaning, to be pasted and changed."""
    pairs = [f"{name}={meaning}" for name in names]
    if any("," in name for name in names):  # the option is split at commas
        return f"[annotations] classes = {pairs} in the file of --config"
    return f"--classes {shlex.quote(','.join(pairs))}"


def _without_class(
    path: Path, drawing: Drawing, bare: int, classified: Mapping[str, int]
) -> SlideError:
    word = drawing.word
    tumor = classes_line([drawing.no_class], "tumor")
    if not classified:
        return SlideError(
            f"{path.name}: no outline has a {word}, so tumor is not defined",
            f"assign {word}s in {drawing.kind.split()[0]}, or give {tumor}",
        )
    named = ", ".join(f"{n} x {name}" for name, n in classified.items())
    return SlideError(
        f"{path.name}: outlines without a {word} ({bare}) beside {named}: whether they "
        "are tumor is not defined",
        f"give them a {word}, or say what they mean: {tumor}, or "
        f"{drawing.no_class}=skip (not drawn), ignored (neither tumor nor normal) or "
        "hole (cut out of the tumor)",
    )


def with_note(drawing: Drawing, note: str) -> Drawing:
    """The drawing with a further sentence on what was assumed."""
    return replace(drawing, notes=(*drawing.notes, note))
