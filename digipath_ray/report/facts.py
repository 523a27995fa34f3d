"""What was measured on a slide, in words: its numbers, votes, lesions and notes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.report.attention import format_unsure
from digipath_ray.report.findings import Findings, Row
from digipath_ray.report.words import (
    TYPES,
    format_area,
    format_lesion_length,
    format_probability,
    share,
)
from digipath_ray.words import count

Facts = tuple[tuple[str, str], ...]
"""Names and what is said of them."""
LESION_COLUMNS = (
    "area",
    "largest diameter",
    "major axis",
    "mean probability",
    "highest",
    "x, y from the corner",
    "counts",
)


@dataclass(frozen=True, kw_only=True)
class LesionView:
    """A row of a slide's lesion table, and its place on the picture.

    Attributes:
        number: 1 is the largest.
        cells: as LESION_COLUMNS names them.
        x_um, y_um: its centroid, from the slide's top left corner.
        feret_um: its largest diameter.
        counted: the size rule counts it.
    """

    number: int
    cells: tuple[str, ...]
    feret_um: float
    x_um: float
    y_um: float
    counted: bool


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What the forests say of a type."""

    tone: str
    name: str
    votes: int
    probability: float


def find_facts(row: Row, slide: Row, findings: Findings) -> Iterator[tuple[str, str]]:
    """A finished slide's numbers by name, given its rows of OUTCOMES and SLIDES."""
    ending = findings.config.outcome.outcome
    if ending == "burden" and row["burden"] is not None:
        yield "viable tumor", format_area(row["viable_mm2"])
        yield "whole tumor", format_area(row["whole_mm2"])
    listed = findings.lesions(row["slide_id"])
    yield "largest lesion", format_largest(row, listed, ending)
    counted = _format_counted(row, listed) if ending == "stage" else ""
    yield "lesions", f"{row['lesions']:,}{counted}"
    part = row["tumor_mm2"] / row["tissue_mm2"] if row["tissue_mm2"] else 0.0
    yield "tumor", format_area(row["tumor_mm2"])
    yield "tissue", format_area(row["tissue_mm2"])
    if part:
        yield "tumor in tissue", share(part)
    yield "highest probability", format_probability(row["probability_max"])
    yield "disagreement", format_unsure(row["unsure"])
    mpp = (slide["effective_mpp_x"], slide["mpp_x"])
    yield "read at", "{:.3g} \N{MICRO SIGN}m/px (slide: {:.3g})".format(*mpp)


def format_largest(row: Row, listed: Sequence[Row], ending: str) -> str:
    """The largest lesion that the size rule counts; where no size is asked, of all."""
    if ending == "stage" or not listed:
        return format_lesion_length(row["largest_um"])
    return format_lesion_length(max(lesion["feret_um"] for lesion in listed))


def _format_counted(row: Row, listed: Sequence[Row]) -> str:
    """How many of the lesions the size rule counts, if all of them are known."""
    if not listed or row["lesions"] > len(listed):
        return ""
    counted = sum(lesion["counted"] for lesion in listed)
    if counted == len(listed):
        return ", counted" if counted == 1 else ", all counted"
    return f", {counted} of them counted" if counted else ", none counted"


def find_votes(row: Row) -> Iterator[Vote]:
    """The forests' votes, the gravest type first; nothing without forests."""
    if not row["votes"]:
        return
    chances: Sequence[float] = row["type_probability"] or [0.0] * len(TYPES)
    for (tone, name), chance in reversed(
        list(zip(TYPES.items(), chances, strict=True))
    ):
        votes = row["votes"].count(tone)
        yield Vote(tone=tone, name=name, votes=votes, probability=chance)


def view_lesion(lesion: Row) -> LesionView:
    """A lesion of a ``done`` record as the page shows it."""
    return LesionView(
        number=lesion["number"],
        cells=(
            format_area(lesion["area_mm2"]),
            format_lesion_length(lesion["feret_um"]),
            format_lesion_length(lesion["major_axis_um"]),
            format_probability(lesion["mean_p"]),
            format_probability(lesion["max_p"]),
            f"{lesion['x_um'] / 1000:.2f}, {lesion['y_um'] / 1000:.2f} mm",
            "yes" if lesion["counted"] else "no",
        ),
        feret_um=lesion["feret_um"],
        x_um=lesion["x_um"],
        y_um=lesion["y_um"],
        counted=lesion["counted"],
    )


def find_notes(row: Row) -> Iterator[str]:
    """What else to know of a finished slide, given its row of OUTCOMES."""
    by_size = type_of_size(row["largest_um"]).label
    if row["votes"] and by_size != row["metastasis"]:
        yield f"By the size of its largest lesion alone it would be: {TYPES[by_size]}."
    if row["seen_by"]:
        members = count(len(row["seen_by"]), "member")
        were = "was" if len(row["seen_by"]) == 1 else "were"
        yield (
            f"{members} ({', '.join(row['seen_by'])}) {were} fitted on this slide or "
            "another of its patient: what is said of it is no test of them."
        )
