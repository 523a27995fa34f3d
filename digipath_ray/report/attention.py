"""Slides that need review first, and the reasons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from digipath_ray.artifacts.kinds import KINDS, Kind
from digipath_ray.report.findings import Row
from digipath_ray.report.words import GRAVER, TYPES, percent, small
from digipath_ray.run.failure import Failure
from digipath_ray.words import count, listed

BORDERS_UM = ((200.0, "itc", "micro"), (2000.0, "micro", "macro"))
"""Sizes at which the metastasis type changes (Table 2), and the types on both sides."""
NEAR_BORDER = 0.2
"""Relative distance to such a size within which a lesion could be of either type."""


class Concern(IntEnum):
    """Kinds of reasons for review, most urgent first."""

    FAILED = 0
    FLAGGED = 1
    NO_BURDEN = 2
    BORDERLINE = 3
    SPLIT = 4


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason to review a slide."""

    concern: Concern
    title: str
    text: str


def failure_reason(failure: Failure) -> Reason:
    """Reason of a slide that failed: the error and the fix."""
    return Reason(
        concern=Concern.FAILED,
        title=f"Not analyzed: failed at {failure.step}",
        text=f"{_sentence(failure.error)} Fix: {_sentence(failure.hint)}",
    )


def unfinished_reason() -> Reason:
    """Reason of a slide that the run did not reach."""
    return Reason(
        concern=Concern.FAILED,
        title="Not analyzed yet",
        text="The run ended before this slide. Start the same run again to resume it.",
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def find_reasons(outcome: Row, slide: Row, *, ending: str) -> list[Reason]:
    """All reasons to review a finished slide, most urgent first.

    Args:
        outcome: row of the slide in OUTCOMES.
        slide: row of the slide in SLIDES.
        ending: outcome of the run: "stage", "burden" or "none".
    """
    reasons = [flag_reason(flag, slide) for flag in outcome["qc"]]
    if ending == "burden" and outcome["burden"] is None:
        note = outcome["burden_note"] or "no tumor was found"
        reasons.append(
            Reason(
                concern=Concern.NO_BURDEN,
                title="No tumor burden",
                text=_sentence(note[0].upper() + note[1:]),
            )
        )
    if ending == "stage":
        borderline = border_reason(outcome["largest_um"])
        split = split_reason(outcome["votes"], outcome["metastasis"])
        reasons += [reason for reason in (borderline, split) if reason is not None]
    return reasons


def border_reason(largest_um: float | None) -> Reason | None:
    """Reason of a largest lesion near a size limit of a type; None if unknown."""
    if largest_um is None:
        return None
    for border_um, below, above in BORDERS_UM:
        # Rounded, so that 160 um is exactly 20 % below 200.
        off = round(largest_um / border_um - 1, 9)
        if abs(off) <= NEAR_BORDER:
            side = "above" if off > 0 else "below"
            where = f"{100 * abs(off):.0f} % {side}" if abs(off) >= 0.005 else "at"
            return Reason(
                concern=Concern.BORDERLINE,
                title="Borderline size",
                text=f"The largest lesion measures {largest_um / 1000:.2f} mm, "
                f"{where} the {border_um / 1000:g} mm limit between "
                f"{TYPES[below]} and {TYPES[above]}.",
            )
    return None


def split_reason(votes: Sequence[str] | None, taken: str | None) -> Reason | None:
    """Reason of forests that disagree on the type."""
    if not votes or len(set(votes)) == 1:
        return None
    kinds = sorted(set(votes), key=lambda v: (-votes.count(v), -GRAVER[v]))
    tally = listed(f"{votes.count(kind)} for {TYPES[kind]}" for kind in kinds)
    tie = votes.count(kinds[0]) == votes.count(kinds[1])
    how = "a tie, so the more severe type is used" if tie else "the majority"
    taken_name = TYPES[taken] if taken is not None else "none"
    return Reason(
        concern=Concern.SPLIT,
        title="Split votes",
        text=f"Of {count(len(votes), 'forest')}, {tally}; result: {taken_name} "
        f"({how}).",
    )


def flag_reason(flag: str, slide: Row) -> Reason:
    """Reason of a quality flag, with its measurement."""
    title, describe = FLAGS.get(flag, (flag, lambda _: ""))
    return Reason(concern=Concern.FLAGGED, title=title, text=describe(slide))


def _format_mpp(slide: Row) -> str:
    return (
        f"It was read at {slide['effective_mpp_x']:.3g} \N{MICRO SIGN}m/px, "
        f"{percent(slide['mpp_deviation'])} off the mpp of the networks."
    )


def _format_kind(kind: Kind) -> Callable[[Row], str]:
    column = f"artifact_{kind.name}"
    return lambda slide: f"{percent(slide[column])} of the tissue is {kind.said}."


FLAGS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "ink": ("Ink", lambda s: f"Ink covers {percent(s['ink'])} of the slide."),
    "ink over tissue": (
        "Ink over tissue",
        lambda s: (
            f"Ink covers or touches {percent(s['ink_over_tissue'])} of the tissue."
        ),
    ),
    "blur": (
        "Out of focus",
        lambda s: f"{percent(s['blur'])} of the tissue is grossly out of focus.",
    ),
    "black": (
        "Black area",
        lambda s: f"{percent(s['black'])} of the slide is black (not scanned).",
    ),
    "little tissue": (
        "Little tissue",
        lambda s: f"Only {s['tissue_mm2']:.2g} mm\N{SUPERSCRIPT TWO} of tissue.",
    ),
    "no tissue": ("No tissue", lambda _: "No tissue was found."),
    "color outside the tissue": (
        "Tissue may be missed",
        lambda _: (
            "Much of the slide differs from glass and is not in the tissue mask: look "
            "at masks/ and give a lower min_saturation or a mask of your own."
        ),
    ),
    "glass in the tissue mask": (
        "Glass in the tissue mask",
        lambda _: (
            "More than half of the tissue mask that was given is glass: look at masks/ "
            "whether its values are what they should be (tissue is above 0)."
        ),
    ),
    "mpp deviation": ("Different scale", _format_mpp),
    "mpp differs from file": (
        "Uncertain scale",
        lambda s: (
            f"The scale given ({s['mpp_x']:.3g} \N{MICRO SIGN}m/px) contradicts "
            "the file's own."
        ),
    ),
    "mpp contradicts objective": (
        "Uncertain scale",
        lambda s: (
            f"The file's scale ({s['mpp_x']:.3g} \N{MICRO SIGN}m/px) contradicts its "
            "own objective power."
        ),
    ),
    "two mpp in the file": (
        "Uncertain scale",
        lambda s: (
            "Two headers of the file state different scales; "
            f"{s['mpp_x']:.3g} \N{MICRO SIGN}m/px was used."
        ),
    ),
    "levels left out": (
        "Wrong levels",
        lambda _: (
            "Levels of the file show another field than level 0 and were not read."
        ),
    ),
    "several images": (
        "Several images",
        lambda _: (
            "The file holds several images of the full size; only the first was read."
        ),
    ),
    "upsampled": (
        "Coarse scan",
        lambda _: "The scan is coarser than the networks require and was interpolated.",
    ),
    "stains not normalized": (
        "Stains as scanned",
        lambda s: (
            "Its stains were not normalized, and the networks saw them as scanned"
            + (f": {s['stain_note']}." if s.get("stain_note") else ".")
        ),
    ),
    "noisy heatmap": (
        "Noisy heatmap",
        lambda _: (
            "The heatmap has implausibly many regions; only the largest are measured."
        ),
    ),
    "tumor outside the tissue": (
        "Tumor outside the tissue",
        lambda _: (
            "Much of what was found as tumor is not in the tissue mask, and counts: "
            "the networks take glass for tumor (then look at classes, mean and std in "
            "their cards), or the mask lacks tissue (look at masks/)."
        ),
    ),
}
FLAGS |= {kind.label: (f"Artifact: {kind.name}", _format_kind(kind)) for kind in KINDS}
"""Title of each quality flag, and its text from the slide's row of SLIDES."""


def format_unsure(unsure: float | None) -> str:
    """Format the members' disagreement on uncertain pixels."""
    if unsure is None:
        return "not estimated (one member)"
    if unsure == 0:
        return "none: no pixel between 0.3 and 0.7"
    return small(unsure)
