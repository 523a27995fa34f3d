"""Slides of a run on the page, those to review first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from digipath_ray.report.attention import (
    Reason,
    failure_reason,
    find_reasons,
    format_unsure,
    unfinished_reason,
)
from digipath_ray.report.facts import (
    Facts,
    LesionView,
    Vote,
    find_facts,
    find_notes,
    find_votes,
    format_largest,
    view_lesion,
)
from digipath_ray.report.findings import Findings, Row
from digipath_ray.report.words import (
    NONE,
    TYPES,
    format_area,
    format_lesion_length,
    format_probability,
    percent,
)
from digipath_ray.words import natural

NO_CONCERN = 99
"""Sort key after every concern."""


@dataclass(frozen=True, kw_only=True)
class SlideView:
    """A slide on the page.

    Attributes:
        anchor: HTML anchor.
        slide_id: slide_id.
        patient_id: patient; None if unknown.
        place: patient and node; empty if unknown.
        node: node, else slide_id.
        verdict: result in a word or two.
        size: formatted size of the finding; empty if none.
        tone: type for coloring, "failed", "tumor" or "clear".
        reasons: reasons for review; empty if none.
        standing: without reasons, explanation of its position.
        unsure: disagreement of the members; None if not estimated.
        facts: measurements.
        votes: votes of the forests; empty without them.
        lesions: largest lesions.
        left_out: number of further lesions.
        notes: further notes.
        slide: row of the slide in SLIDES; empty if never prepared.
        cells: values of SLIDE_COLUMNS, for the table of all slides.
    """

    anchor: str = ""
    slide_id: str
    patient_id: str | None
    place: str
    node: str
    verdict: str
    size: str = ""
    tone: str
    reasons: tuple[Reason, ...]
    standing: str = ""
    unsure: float | None = None
    facts: Facts = ()
    votes: tuple[Vote, ...] = ()
    lesions: tuple[LesionView, ...] = ()
    left_out: int = 0
    notes: tuple[str, ...] = ()
    slide: Row
    cells: tuple[str, ...]


SLIDE_COLUMNS = (
    "review because",
    "largest lesion",
    "lesions",
    "tumor",
    "tissue",
    "highest probability",
    "disagreement",
)


def _finished_or_refused(row: Row, findings: Findings) -> SlideView:
    """View a finished slide.

    Raises:
        ValueError: its row, or its record, lacks what a finished slide has.
    """
    try:
        return _finished(row, findings)
    except (LookupError, TypeError, AttributeError, ArithmeticError, ValueError) as e:
        raise ValueError(
            f"{row['slide_id']}: its row of outcomes.parquet, or its record in done/, "
            f"is damaged ({e!r:.200}): delete both and run again"
        ) from e


def view_slides(findings: Findings) -> list[SlideView]:
    """View all slides: those with reasons for review first, then by disagreement."""
    views = [
        *(_missing(f.slide_id, findings, failure_reason(f)) for f in findings.failures),
        *(_missing(i, findings, unfinished_reason()) for i in findings.unfinished),
        *(_finished_or_refused(row, findings) for row in findings.outcomes.values()),
    ]
    views.sort(key=_urgency)
    quiet = [view.slide_id for view in views if not view.reasons]
    return [
        replace(view, anchor=f"slide-{i}", standing=_reason_for_place(view, quiet))
        for i, view in enumerate(views, start=1)
    ]


def _urgency(view: SlideView) -> tuple[Any, ...]:
    concern = min((r.concern for r in view.reasons), default=NO_CONCERN)
    return concern, -(view.unsure or 0.0), natural(view.slide_id)


def _reason_for_place(view: SlideView, quiet: Sequence[str]) -> str:
    """Explain the position of a slide without reasons for review."""
    if view.reasons:
        return ""
    if view.unsure is None:
        return (
            "No reason for review; sorted by name, as a single member has no "
            "disagreement."
        )
    if view.unsure == 0:
        return "No reason for review: no pixel is uncertain."
    place = quiet.index(view.slide_id) + 1
    return (
        f"No reason for review; number {place} of {len(quiet)} by disagreement of "
        f"the members ({format_unsure(view.unsure)})."
    )


def _missing(slide_id: str, findings: Findings, reason: Reason) -> SlideView:
    slide = findings.slide(slide_id)
    patient_id = slide.get("patient_id")
    for failure in findings.failures:
        if failure.slide_id == slide_id:
            patient_id = failure.patient_id
    blank = (NONE,) * (len(SLIDE_COLUMNS) - 1)
    return SlideView(
        slide_id=slide_id,
        patient_id=patient_id,
        place=_format_place(patient_id, slide.get("node")),
        node=_format_node(slide_id, slide.get("node")),
        verdict="not analyzed",
        tone="failed",
        reasons=(reason,),
        slide=slide,
        cells=(reason.title.lower(), *blank),
    )


def _finished(row: Row, findings: Findings) -> SlideView:
    slide = findings.slide(row["slide_id"])
    ending = findings.config.outcome.outcome
    reasons = tuple(sorted(find_reasons(row, slide, ending=ending), key=_concern))
    listed = findings.lesions(row["slide_id"])
    verdict, size, tone = _verdict(row, ending)
    return SlideView(
        slide_id=row["slide_id"],
        patient_id=row["patient_id"],
        place=_format_place(row["patient_id"], slide.get("node")),
        node=_format_node(row["slide_id"], slide.get("node")),
        verdict=verdict,
        size=size,
        tone=tone,
        reasons=reasons,
        unsure=row["unsure"],
        facts=tuple(find_facts(row, slide, findings)),
        votes=tuple(find_votes(row)),
        lesions=tuple(view_lesion(lesion) for lesion in listed),
        left_out=max(0, row["lesions"] - len(listed)),
        notes=tuple(find_notes(row)),
        slide=slide,
        cells=(
            ", ".join(reason.title.lower() for reason in reasons) or NONE,
            format_largest(row, listed, ending),
            f"{row['lesions']:,}",
            format_area(row["tumor_mm2"]),
            format_area(row["tissue_mm2"]),
            format_probability(row["probability_max"]),
            NONE if row["unsure"] is None else format_unsure(row["unsure"]),
        ),
    )


def _concern(reason: Reason) -> int:
    return reason.concern


def _format_place(patient_id: str | None, node: str | None) -> str:
    parts = []
    if patient_id is not None:
        parts.append(patient_id)
    if node is not None:
        parts.append(f"node {node}")
    return ", ".join(parts)


def _format_node(slide_id: str, node: str | None) -> str:
    return slide_id if node is None else f"node {node}"


def _verdict(row: Row, ending: str) -> tuple[str, str, str]:
    """Result of a slide, its size and its tone."""
    if ending == "burden":
        if row["burden"] is None:
            return "no tumor found", "", "clear"
        return "tumor burden", percent(row["burden"]), "tumor"
    if ending == "stage" and row["metastasis"] is not None:
        kind = row["metastasis"]
        size = format_lesion_length(row["largest_um"]) if row["largest_um"] else ""
        return TYPES[kind], size, kind
    if row["lesions"]:
        return "tumor", format_area(row["tumor_mm2"]), "tumor"
    return "no tumor found", "", "clear"
