"""Formatted measurements of a slide: facts, votes, lesions and notes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from digipath_ray.config.run import RunConfig
from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.report.attention import format_unsure
from digipath_ray.report.findings import Findings, Row
from digipath_ray.report.words import (
    TYPES,
    format_area,
    format_lesion_length,
    format_probability,
    percent,
)
from digipath_ray.schema import ARTIFACTS
from digipath_ray.words import count, listed

Facts = tuple[tuple[str, str], ...]
"""Facts: name and text."""
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
    """A row of a slide's lesion table, and its position.

    Attributes:
        number: lesion number, 1 is the largest.
        cells: values of LESION_COLUMNS.
        x_um, y_um: centroid, um from the slide's top-left corner.
        feret_um: maximum diameter.
        counted: whether the size rule counts it.
    """

    number: int
    cells: tuple[str, ...]
    feret_um: float
    x_um: float
    y_um: float
    counted: bool


@dataclass(frozen=True, kw_only=True)
class Vote:
    """Votes of the forests for a type."""

    tone: str
    name: str
    votes: int
    probability: float


def find_facts(row: Row, slide: Row, findings: Findings) -> Iterator[tuple[str, str]]:
    """Facts of a finished slide from its rows of OUTCOMES and SLIDES."""
    ending = findings.config.outcome.outcome
    if ending == "burden" and row["burden"] is not None:
        yield "viable tumor", format_area(row["viable_mm2"])
        known = {"networks": ", by the networks", "refined hull": ", its refined hull"}
        of = known.get(row.get("whole_from") or "", "")
        yield "whole tumor", f"{format_area(row['whole_mm2'])}{of}"
    listed = findings.lesions(row["slide_id"])
    yield "largest lesion", format_largest(row, listed, ending)
    counted = _format_counted(row, listed) if ending == "stage" else ""
    yield "lesions", f"{row['lesions']:,}{counted}"
    part = row["tumor_mm2"] / row["tissue_mm2"] if row["tissue_mm2"] else 0.0
    yield "tumor", format_area(row["tumor_mm2"])
    yield "tissue", format_area(row["tissue_mm2"])
    if part:
        yield "tumor, of the area of tissue", percent(part)
    if row.get("classes"):
        areas = zip(row["classes"], row["class_mm2"], strict=True)
        yield "likeliest class", "; ".join(f"{n} {format_area(a)}" for n, a in areas)
    if row.get("artifact_blur") is not None:
        yield "artifacts", format_artifacts(row)
    yield "highest probability", format_probability(row["probability_max"])
    yield "disagreement", format_unsure(row["unsure"])
    mpp = (slide["effective_mpp_x"], slide["mpp_x"])
    yield "read at", "{:.3g} \N{MICRO SIGN}m/px (slide: {:.3g})".format(*mpp)
    if findings.config.contexts:
        yield "seen by networks", "; ".join(format_contexts(findings.config))


def format_contexts(config: RunConfig) -> Iterator[str]:
    """Yield what members see around each patch, the widest last."""
    side = config.grid.patch_px * config.grid.mpp
    for factor in config.contexts:
        names = [m.name for m in config.members if m.context_mpp_factor == factor]
        yield (
            f"{listed(names)}: {side * factor:,.0f} \N{MICRO SIGN}m around each patch "
            f"of {side:,.0f} \N{MICRO SIGN}m, {factor} x as coarse"
        )


def format_largest(row: Row, listed: Sequence[Row], ending: str) -> str:
    """Format the largest lesion counted by the size rule, or of all without staging."""
    if ending == "stage" or not listed:
        return format_lesion_length(row["largest_um"])
    return format_lesion_length(max(lesion["feret_um"] for lesion in listed))


def format_artifacts(row: Row) -> str:
    """Format the kinds of artifacts and their parts of the tissue."""
    shares = ((kind, row[f"artifact_{kind}"]) for kind in ARTIFACTS)
    found = [f"{kind} {percent(share)}" for kind, share in shares if share]
    return listed(found) if found else "none"


def _format_counted(row: Row, listed: Sequence[Row]) -> str:
    """Format how many lesions the size rule counts, if all are listed."""
    if not listed or row["lesions"] > len(listed):
        return ""
    counted = sum(lesion["counted"] for lesion in listed)
    if counted == len(listed):
        return ", counted" if counted == 1 else ", all counted"
    return f", {counted} of them counted" if counted else ", none counted"


def find_votes(row: Row) -> Iterator[Vote]:
    """Votes of the forests, most severe type first; empty without forests."""
    if not row["votes"]:
        return
    chances: Sequence[float] = row["type_probability"] or [0.0] * len(TYPES)
    for (tone, name), chance in reversed(
        list(zip(TYPES.items(), chances, strict=True))
    ):
        votes = row["votes"].count(tone)
        yield Vote(tone=tone, name=name, votes=votes, probability=chance)


def view_lesion(lesion: Row) -> LesionView:
    """View of a lesion of a ``done`` record."""
    return LesionView(
        number=lesion["number"],
        cells=(
            format_area(lesion["area_mm2"]),
            format_lesion_length(lesion["feret_um"]),
            format_lesion_length(lesion["major_axis_um"]),
            format_probability(lesion["mean_p"]),
            format_probability(lesion["max_p"]),
            f"{lesion['x_um'] / 1000:.2f}, {lesion['y_um'] / 1000:.2f} mm",
            format_counts(lesion),
        ),
        feret_um=lesion["feret_um"],
        x_um=lesion["x_um"],
        y_um=lesion["y_um"],
        counted=lesion["counted"],
    )


def format_counts(lesion: Row) -> str:
    """Whether the size rule counts a lesion, and the artifact it lies in."""
    counts = "yes" if lesion["counted"] else "no"
    kind = lesion.get("artifact")
    return counts if kind is None else f"{counts}; in artifact: {kind}"


def find_notes(row: Row) -> Iterator[str]:
    """Notes on a finished slide, from its row of OUTCOMES."""
    by_size = type_of_size(row["largest_um"]).label
    if row["votes"] and by_size != row["metastasis"]:
        yield f"By lesion size alone the type would be: {TYPES[by_size]}."
    if row["seen_by"]:
        members = count(len(row["seen_by"]), "member")
        were = "was" if len(row["seen_by"]) == 1 else "were"
        yield (
            f"{members} ({', '.join(row['seen_by'])}) {were} trained on this slide "
            "or another of its patient: the result is not an independent test."
        )
