"""Which slides a person should look at first, and why, in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from digipath_ray.report.findings import Row
from digipath_ray.report.words import GRAVER, TYPES, share, small
from digipath_ray.run.failure import Failure
from digipath_ray.words import count, listed

BORDERS_UM = ((200.0, "itc", "micro"), (2000.0, "micro", "macro"))
"""Sizes at which a metastasis' type changes (Table 2), and the types on both sides."""
NEAR_BORDER = 0.2
"""A lesion whose size is this near one of them, relatively, could be either."""


class Concern(IntEnum):
    """Why a slide needs a look; the lower the more it needs one."""

    FAILED = 0
    FLAGGED = 1
    NO_BURDEN = 2
    BORDERLINE = 3
    SPLIT = 4


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One reason to look at a slide."""

    concern: Concern
    title: str
    text: str


def failure_reason(failure: Failure) -> Reason:
    """That the slide could not be analyzed, why, and what to do."""
    return Reason(
        concern=Concern.FAILED,
        title=f"Not analyzed: failed at {failure.step}",
        text=f"{_sentence(failure.error)} What to do: {_sentence(failure.hint)}",
    )


def unfinished_reason() -> Reason:
    """That the run ended before the slide's turn."""
    return Reason(
        concern=Concern.FAILED,
        title="Not analyzed yet",
        text="The run ended before its turn came. Start the same run again: it goes "
        "on where it stopped.",
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def find_reasons(outcome: Row, slide: Row, *, ending: str) -> list[Reason]:
    """All reasons to look at a finished slide, the most pressing first.

    Args:
        outcome: its row of OUTCOMES.
        slide: its row of SLIDES.
        ending: what the run's slides end in: "stage", "burden" or "none".
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


def border_reason(largest_um: float) -> Reason | None:
    """That the largest lesion is near a size at which the type changes."""
    for border_um, below, above in BORDERS_UM:
        # Rounded, so that 160 um of 200 are 20 % off and no tail more.
        off = round(largest_um / border_um - 1, 9)
        if abs(off) <= NEAR_BORDER:
            side = "above" if off > 0 else "below"
            where = f"{100 * abs(off):.0f} % {side}" if abs(off) >= 0.005 else "at"
            return Reason(
                concern=Concern.BORDERLINE,
                title="Borderline size",
                text=f"Its largest lesion measures {largest_um / 1000:.2f} mm, "
                f"{where} the {border_um / 1000:g} mm that part {TYPES[below]} "
                f"from {TYPES[above]}.",
            )
    return None


def split_reason(votes: Sequence[str] | None, taken: str | None) -> Reason | None:
    """That the four forests do not agree on the type."""
    if not votes or len(set(votes)) == 1:
        return None
    kinds = sorted(set(votes), key=lambda v: (-votes.count(v), -GRAVER[v]))
    tally = listed(f"{votes.count(kind)} for {TYPES[kind]}" for kind in kinds)
    tie = votes.count(kinds[0]) == votes.count(kinds[1])
    how = "a tie, so the graver counts" if tie else "the majority"
    taken_name = TYPES[taken] if taken is not None else "none"
    return Reason(
        concern=Concern.SPLIT,
        title="Split votes",
        text=f"Of {count(len(votes), 'forest')} {tally}; taken: {taken_name} ({how}).",
    )


def flag_reason(flag: str, slide: Row) -> Reason:
    """A quality flag with what was measured."""
    title, describe = FLAGS.get(flag, (flag, lambda _: ""))
    return Reason(concern=Concern.FLAGGED, title=title, text=describe(slide))


def _format_mpp(slide: Row) -> str:
    return (
        f"It was read at {slide['effective_mpp_x']:.3g} \N{MICRO SIGN}m/px, "
        f"{share(slide['mpp_deviation'])} off what the networks ask for."
    )


FLAGS: dict[str, tuple[str, Callable[[Row], str]]] = {
    "ink": ("Ink", lambda s: f"Drawn ink covers {share(s['ink'])} of the slide."),
    "ink over tissue": (
        "Ink over tissue",
        lambda s: (
            f"Ink lies over or touches {share(s['ink_over_tissue'])} of the tissue."
        ),
    ),
    "blur": (
        "Out of focus",
        lambda s: f"{share(s['blur'])} of the tissue is grossly out of focus.",
    ),
    "black": (
        "Black area",
        lambda s: f"{share(s['black'])} of the slide is black: it was not scanned.",
    ),
    "little tissue": (
        "Little tissue",
        lambda s: f"Only {s['tissue_mm2']:.2g} mm\N{SUPERSCRIPT TWO} of tissue.",
    ),
    "no tissue": ("No tissue", lambda _: "No tissue was found on it."),
    "mpp deviation": ("Another scale", _format_mpp),
    "mpp differs from file": (
        "Scale in doubt",
        lambda s: (
            f"The scale given ({s['mpp_x']:.3g} \N{MICRO SIGN}m/px) contradicts "
            "the file's own."
        ),
    ),
    "upsampled": (
        "Coarse scan",
        lambda _: "It is coarser than the networks ask for and was interpolated.",
    ),
    "noisy heatmap": (
        "Noisy heatmap",
        lambda _: "It has more regions than tumor has: only the largest are measured.",
    ),
}
"""Each flag of a slide as a title, and what is said of the slide's row of SLIDES."""


def format_unsure(unsure: float | None) -> str:
    """How much the members disagree where a pixel could be either."""
    if unsure is None:
        return "not estimated (one member)"
    if unsure == 0:
        return "none: no pixel between 0.3 and 0.7"
    return small(unsure)
