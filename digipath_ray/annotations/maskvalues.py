"""What the values of a mask image mean.

A mask says by itself what is tumor where it is 0 and one value, or a bool. Anything
else (several values, gray, colors, transparency, a white background) is refused with
what was seen, until the user says which values are tumor.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations.account import Account, ClassUse, share
from digipath_ray.slide.info import SlideError

Bools = NDArray[np.bool_]
Test = Callable[[NDArray[Any]], Bools]
"""Whether each value of an array counts."""
Kind = Literal["bool", "gray", "index", "color", "JPEG"]
Value = float | tuple[int, int, int]
"""A gray value or index, or a color (red, green, blue)."""

JPEG_ABOVE = 127.0
"""JPEG leaves noise near 0 and near 255: tumor is 128 and above."""
JPEG_SPECKS = 0.01
"""Part of a JPEG that may have colors of its own: ringing at edges."""
JPEG_GRAY = (64, 192)
FEW = 12
"""Values up to which a mask is a label image, and not gray."""
MANY = 4096
"""Values after which no further ones are counted."""
WHITE = 255
SHOWN = 6
"""Values shown in a message, the most frequent."""
WHITE_SHARE = 2 / 3
"""Part of a mask, and of its border, from which tumor may be a white background."""
NO_MASK_VALUES = "save the mask with one channel: 0, and one value where tumor is"


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """What the user says of mask images.

    Attributes:
        above: tumor is above this value.
        values: value -> "tumor", "ignored" or "skip"; what is not named is no tumor.
        is_prediction: whether the mask is a prediction, which need not have the values
            of the reference.
        is_complete: whether every value but 0 must be named.
    """

    above: float | None = None
    values: Mapping[float, str] = field(default_factory=dict)
    is_prediction: bool = False
    is_complete: bool = False

    def of(self, meaning: str) -> list[float]:
        """Values of a meaning."""
        return [value for value, m in self.values.items() if m == meaning]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Values of a mask image, counted.

    Attributes:
        kind: how its pixels are stored.
        counts: number of pixels by value.
        pixels: all pixels.
        invalid: pixels that are not a number.
        see_through: whether the transparency differs between pixels.
        index_0: color of index 0 of a palette.
        gray: part of a JPEG's pixels that is neither dark nor bright.
    """

    kind: Kind
    counts: Counter[Value]
    pixels: int
    invalid: int = 0
    see_through: bool = False
    index_0: tuple[int, int, int] | None = None
    gray: float = 0.0

    @property
    def shown(self) -> str:
        """The most frequent values with their shares, as text."""
        shown = [
            f"{_shown(value)} ({share(n / self.pixels)})"
            for value, n in self.counts.most_common(SHOWN)
        ]
        if self.invalid:
            shown.append(f"NaN ({share(self.invalid / self.pixels)})")
        more = len(self.counts) - SHOWN
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    @property
    def beside_zero(self) -> list[Value]:
        """Values other than 0 (black), in order."""
        found = [v for v in self.counts if v not in (0, (0, 0, 0))]
        return sorted(found, key=lambda v: (plain(v), str(v)))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which values of a mask count, and what to know of that.

    Attributes:
        is_tumor: test for tumor.
        is_ignored: test for what is neither tumor nor normal; None if nothing is.
        by_itself: whether the mask says so, not the user.
        notes: sentences.
    """

    is_tumor: Test
    is_ignored: Test | None = None
    by_itself: bool = True
    notes: tuple[str, ...] = ()


def above(limit: float) -> Test:
    """Test for values above a limit; NaN is not."""
    return lambda values: np.asarray(values > limit)


def among(named: list[float]) -> Test:
    """Test for values among those named, NaN too."""
    numbers = [v for v in named if not math.isnan(v)]

    def test(values: NDArray[Any]) -> Bools:
        found = np.isin(values, numbers)
        if len(numbers) < len(named):
            found |= np.isnan(values)
        return np.asarray(found)

    return test


def decide(name: str, seen: Seen, rule: MaskRule) -> Decision:
    """Which values of a mask are tumor.

    Args:
        name: of the file.
        seen: values of the mask.
        rule: what the user says.

    Raises:
        SlideError: neither the mask nor the user says it; what was seen, and the
            option that says it.
    """
    if seen.kind == "bool" and not rule.is_complete:
        return Decision(is_tumor=above(0), by_itself=rule.above is None)
    if seen.see_through:
        raise _unclear(name, seen, "transparency that differs", NO_MASK_VALUES)
    colors = [v for v in seen.beside_zero if isinstance(v, tuple)]
    if colors and (len(seen.beside_zero) > 1 or (255, 255, 255) in colors):
        raise _unclear(name, seen, "several colors", NO_MASK_VALUES)
    if rule.values:
        return _by_values(name, seen, rule)
    if rule.above is not None:
        return _by_threshold(name, seen, rule.above)
    return _by_itself(name, seen)


def decide_unseen(kind: Kind, rule: MaskRule, *, may_be_nan: bool) -> Decision:
    """Which values of a mask are tumor, as :func:`decide` says of one that is clear."""
    if kind == "bool" and not rule.is_complete:
        return Decision(is_tumor=above(0))
    if rule.values:
        ignored = rule.of("ignored")
        return Decision(
            is_tumor=among(rule.of("tumor")),
            is_ignored=among(ignored) if ignored else None,
        )
    if rule.above is not None:
        return Decision(
            is_tumor=above(rule.above), is_ignored=np.isnan if may_be_nan else None
        )
    return Decision(is_tumor=above(JPEG_ABOVE if kind == "JPEG" else 0))


def _by_values(name: str, seen: Seen, rule: MaskRule) -> Decision:
    if seen.kind == "JPEG":
        raise SlideError(
            f"{name}: a JPEG, whose values are blurred, so that none can be named",
            "save the mask as PNG or TIFF without loss",
        )
    if seen.kind == "color":
        raise _unclear(name, seen, "colors, which cannot be named", NO_MASK_VALUES)
    named = {v for v in rule.values if not math.isnan(v)}
    if rule.is_complete and (odd := sorted({*map(plain, seen.beside_zero)} - {*named})):
        raise _unclear(
            name,
            seen,
            f"values that are of no class, {', '.join(f'{v:g}' for v in odd[:SHOWN])}",
            "say which class each value is: --class-values CLASS=VALUE,... (several "
            "values may be one class)",
        )
    if others := _unnamed(seen, rule):
        if rule.is_prediction and others == [WHITE] and not seen.invalid:
            return Decision(is_tumor=above(0))
        raise _unclear(
            name,
            seen,
            "none of the values named",
            f"name what it holds too: --mask-values {_named(rule)},"
            f"tumor={others[-1]:g}, or other={others[-1]:g} if that is no tumor",
        )
    if seen.invalid and not any(math.isnan(v) for v in rule.values):
        raise _unclear(name, seen, "pixels that are not a number", _nan_hint(rule))
    ignored = rule.of("ignored")
    return Decision(
        is_tumor=among(rule.of("tumor")),
        is_ignored=among(ignored) if ignored else None,
        by_itself=False,
    )


def _unnamed(seen: Seen, rule: MaskRule) -> list[float]:
    """Values of a mask that cannot be told without a name: it holds no other.

    A value below the named ones is another class beside them (tissue is 1, tumor is 2),
    but in a prediction it may as well be tumor.
    """
    named = [v for v in rule.values if not math.isnan(v)]
    others = [plain(v) for v in seen.beside_zero]
    if not named or not others or any(v in seen.counts for v in named):
        return []
    return others if rule.is_prediction or max(others) > max(named) else []


def _by_threshold(name: str, seen: Seen, limit: float) -> Decision:
    beside = seen.beside_zero
    (highest, *others) = [v for v in beside if isinstance(v, float | int)] or [0]
    if len(beside) == 1 and not others and 0 < highest <= limit and not seen.invalid:
        raise _unclear(
            name,
            seen,
            f"one value beside 0, which is not above {limit:g}",
            f"leave out --mask-above, give it below {highest:g}, or save the mask as 0 "
            "and 255",
        )
    invalid: Test = np.isnan
    return Decision(
        is_tumor=above(limit),
        is_ignored=invalid if seen.invalid else None,
        by_itself=False,
        notes=_invalid_note(seen),
    )


def _by_itself(name: str, seen: Seen) -> Decision:
    beside = seen.beside_zero
    if seen.kind == "JPEG":
        low, high = JPEG_GRAY
        gray = (
            (f"{share(seen.gray)} of the JPEG is gray, {low} to {high}: tumor is "
             f"above {JPEG_ABOVE:g}",)
            if seen.gray > JPEG_SPECKS
            else ()
        )  # fmt: skip
        return Decision(is_tumor=above(JPEG_ABOVE), notes=gray)
    if seen.invalid:
        raise _unclear(name, seen, "pixels that are not a number", _nan_hint(None))
    if len(beside) > FEW:
        middle = 0.5 if max(map(plain, beside)) <= 1 else 127
        raise _unclear(
            name,
            seen,
            f"gray, {len(seen.counts)} values",
            f"say from where on it is tumor: --mask-above {middle:g}",
        )
    index = seen.kind == "index" and beside
    if index and (0 not in seen.counts or _is_colored(seen.index_0)):
        raise _unclear(
            name, seen, "a palette whose index 0 is not the background", _ask(seen)
        )
    if len(beside) > 1 or any(plain(v) < 0 for v in beside):
        raise _unclear(name, seen, "several values", _ask(seen))
    if beside == [255] and 0 not in seen.counts:
        raise _unclear(name, seen, "white all over", _ask(seen))
    return Decision(is_tumor=above(0))


def check_background(name: str, seen: Seen, *, tumor: float, border: float) -> None:
    """Raise if what counts as tumor looks like a white background.

    Args:
        name: of the file.
        seen: values of the mask.
        tumor: part of the mask that would be tumor.
        border: the same of its outermost pixels.

    Raises:
        SlideError: shares, and the options that say which of both is tumor.
    """
    if tumor < WHITE_SHARE or border < WHITE_SHARE or tumor == 1:
        return
    raise _unclear(
        name,
        seen,
        f"tumor on {share(tumor)} of it and {share(border)} of its border, as if "
        "its background were white",
        "save it with a background of 0; if it is right as it is, say so: "
        f"--mask-above {JPEG_ABOVE if seen.kind == 'JPEG' else 0:g}"
        if seen.kind in ("JPEG", "bool", "color")
        else f"say which is tumor: --mask-values tumor={_shown(seen.beside_zero[0])}, "
        "or tumor=0",
    )


def account_of_mask(
    seen: Seen, decision: Decision, *, area_px: float, l0_per_px: float
) -> Account:
    """Account of a mask image.

    Args:
        seen: values of the mask.
        decision: which of them count.
        area_px: area of the slide, level-0 px.
        l0_per_px: level-0 px of area per mask px.
    """
    counts: Counter[str] = Counter()
    for value, n in seen.counts.items():
        one = np.array([plain(value)])
        if decision.is_tumor(one)[0]:
            counts["tumor"] += n
        elif decision.is_ignored is not None and decision.is_ignored(one)[0]:
            counts["ignored"] += n
    if seen.invalid and decision.is_ignored is not None:
        counts["ignored"] += seen.invalid
    classes = tuple(
        ClassUse(
            name=f"of values {seen.shown}",
            meaning="tumor" if meaning == "tumor" else "ignored",
            shapes=1,
            area_px=min(n * l0_per_px, area_px),
        )
        for meaning, n in sorted(counts.items(), reverse=True)
    )
    return Account(
        kind=f"mask image ({seen.kind})", classes=classes, notes=decision.notes
    )


def _unclear(name: str, seen: Seen, what: str, hint: str) -> SlideError:
    return SlideError(
        f"{name}: the mask has {what}, so tumor is not defined: {seen.shown}", hint
    )


def _ask(seen: Seen) -> str:
    """The option that says which values of a label image are tumor."""
    numbers = [plain(v) for v in seen.beside_zero]
    void = ",ignore=255" if 255 in numbers and len(numbers) > 1 else ""
    tumor = max((v for v in numbers if not void or v != 255), default=1)
    return (
        f"say which value is tumor, e.g. --mask-values tumor={tumor:g}{void} (what is "
        "not named is no tumor, ignore: neither tumor nor normal), or --mask-above N "
        "if all above N is"
    )


def _nan_hint(rule: MaskRule | None) -> str:
    named = f"{_named(rule)}," if rule else "tumor=1,"
    return (
        f"leave them out: --mask-values {named}ignore=nan, or --mask-above 0.5, which "
        "ignores them"
    )


def _invalid_note(seen: Seen) -> tuple[str, ...]:
    if not seen.invalid:
        return ()
    return (
        f"{share(seen.invalid / seen.pixels)} of the mask is not a number: ignored",
    )


def _named(rule: MaskRule) -> str:
    words = {"tumor": "tumor", "ignored": "ignore", "skip": "other"}
    return ",".join(f"{words[m]}={v:g}" for v, m in rule.values.items())


def _is_colored(color: tuple[int, int, int] | None) -> bool:
    return color is not None and len(set(color)) > 1


def plain(value: Value) -> float:
    """A value as the tests see it: of a color the brightest channel."""
    return float(max(value)) if isinstance(value, tuple) else float(value)


def _shown(value: Value) -> str:
    if isinstance(value, tuple):
        return "#{:02x}{:02x}{:02x}".format(*value)
    return f"{value:g}"
