"""Evidence of a patient's stage: nodes, and the rule of Table 3."""

from collections.abc import Sequence
from dataclasses import dataclass

from digipath_ray.outcome.staging import PnStage
from digipath_ray.report.findings import Row
from digipath_ray.report.slides import SlideView
from digipath_ray.report.words import GRAVER
from digipath_ray.words import count, natural

NO_STAGE = "no stage"
RULES: dict[PnStage, str] = {
    PnStage.N0: "no node with metastasis or isolated tumor cells",
    PnStage.N0_ITC: "isolated tumor cells only, which do not count as metastasis",
    PnStage.N1_MICRO: "micrometastases, but no macrometastasis",
    PnStage.N1: "1 to 3 metastatic nodes, at least one with a macrometastasis",
    PnStage.N2: "4 to 9 metastatic nodes, at least one with a macrometastasis",
    PnStage.N3A: "10 or more metastatic nodes, at least one with a macrometastasis "
    "(AJCC, 8th edition: beyond the table of the challenge)",
}
"""Rules of Table 3."""


@dataclass(frozen=True, kw_only=True)
class PatientView:
    """A patient on the page.

    Attributes:
        anchor: HTML anchor.
        patient_id: patient_id.
        stage: pN stage; "no stage" if no node has a type.
        at_least: whether the stage is a lower bound because a node has no type.
        tone: color by the most severe node type; "failed" if none has a type.
        rule: rule of Table 3 that gives the stage.
        evidence: sentences on the nodes.
        slides: most severe first, slides not analyzed last.
        absent: missing nodes.
    """

    anchor: str
    patient_id: str
    stage: str
    at_least: bool
    tone: str
    rule: str
    evidence: tuple[str, ...]
    slides: tuple[SlideView, ...]
    absent: int


def view_patients(
    patients: Sequence[Row], slides: Sequence[SlideView]
) -> list[PatientView]:
    """Patients sorted by name, with their slides."""
    of: dict[str | None, list[SlideView]] = {}
    for slide in slides:
        of.setdefault(slide.patient_id, []).append(slide)
    ordered = sorted(patients, key=lambda p: natural(p["patient_id"]))
    return [
        _view(patient, of.get(patient["patient_id"], []), anchor=f"patient-{i}")
        for i, patient in enumerate(ordered, start=1)
    ]


def _view(patient: Row, slides: Sequence[SlideView], *, anchor: str) -> PatientView:
    graver = sorted(
        slides, key=lambda s: (-GRAVER.get(s.tone, -1), natural(s.slide_id))
    )
    sentences = (format_nodes(patient), format_missing(patient), *split_notes(patient))
    return PatientView(
        anchor=anchor,
        patient_id=patient["patient_id"],
        stage=patient["pn_stage"] or NO_STAGE,
        at_least=patient["pn_stage"] is not None and not patient["complete"],
        tone=graver[0].tone if graver else "failed",
        rule=format_rule(patient),
        evidence=tuple(sentence for sentence in sentences if sentence),
        slides=tuple(graver),
        absent=max(0, patient["nodes"] + patient["missing"] - len(slides)),
    )


def format_rule(patient: Row) -> str:
    """Format the rule of Table 3 met by the patient's nodes."""
    if patient["pn_stage"] is None:
        return "No slide has a type, so the patient cannot be staged."
    stage = PnStage(patient["pn_stage"])
    return f"{stage}: {RULES[stage]}."


def format_nodes(patient: Row) -> str:
    """Format the node counts by type; empty if none was analyzed."""
    nodes, positive = patient["nodes"], patient["n_micro"] + patient["n_macro"]
    if not nodes:
        return ""
    kinds = (("n_macro", "macrometastasis"), ("n_micro", "micrometastasis"))
    found = [count(patient[n], kind) for n, kind in kinds if patient[n]]
    if patient["n_itc"]:
        found.append(f"{patient['n_itc']} with isolated tumor cells")
    what = f": {', '.join(found)}" if found else ""
    if nodes == 1:
        return f"The one node analyzed is {'' if positive else 'not '}metastatic{what}."
    many = f"{positive}" if positive else "None"
    are = "is" if positive == 1 else "are"
    return f"{many} of the {nodes} nodes analyzed {are} metastatic{what}."


def format_missing(patient: Row) -> str:
    """Format the missing nodes; empty if none is missing."""
    missing = patient["missing"]
    if not missing:
        return ""
    was, it = ("was", "it") if missing == 1 else ("were", "they")
    sentence = f"{count(missing, 'node')} {was} not analyzed"
    if patient["pn_stage"] is None:
        return f"{sentence}."
    return f"{sentence}; {it} may raise the stage."


def split_notes(patient: Row) -> list[str]:
    """Further notes of the staging."""
    notes = (patient["note"] or "").split("; ")
    shown = ("at least ", "no stage:", "pN3a by AJCC")
    return [note for note in notes if note and not note.startswith(shown)]


def stage_counts(patients: Sequence[Row]) -> dict[tuple[PnStage | None, bool], int]:
    """Patients per stage and completeness: most severe first, no stage last."""
    counts: dict[tuple[PnStage | None, bool], int] = {}
    for stage in (*reversed(PnStage), None):
        for complete in (True, False):
            alike = [
                p
                for p in patients
                if p["pn_stage"] == stage and p["complete"] == complete
            ]
            if alike:
                counts[stage, complete] = len(alike)
    return counts
