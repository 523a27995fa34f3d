"""JSON payloads of patients: nodes, stage and its evidence."""

from collections.abc import Iterable, Sequence

from digipath_ray.outcome.metastasis.forests import FORESTS
from digipath_ray.report.evidence import format_missing, format_rule, split_notes
from digipath_ray.report.findings import Row
from digipath_ray.viewer.collection.snapshot import Json
from digipath_ray.words import natural

NOT_STAGED = {
    "stage": "no stage yet: patients are staged when all slides of the run are done",
    "burden": "no stage: this run measures tumor burden, patients are not staged",
    "none": "no stage: this run only outlines lesions, patients are not staged",
}
"""Reason for no stage, by the outcome of the run."""
NO_RUN = "no stage: these slides have not been analyzed"


def patient_payloads(
    staged: Iterable[Row], entries: Iterable[Json], *, rule: str
) -> list[Json]:
    """Payloads of all patients, with or without stage, sorted by name.

    Args:
        staged: rows of PATIENTS.
        entries: payloads of the slides.
        rule: text for patients without a stage.
    """
    of: dict[str, list[Json]] = {}
    for entry in entries:
        if entry["patient_id"] is not None:
            of.setdefault(entry["patient_id"], []).append(entry)
    stages = {row["patient_id"]: row for row in staged}
    return [
        _patient_payload(name, of.get(name, []), stages.get(name), rule)
        for name in sorted({*of, *stages}, key=natural)
    ]


def _patient_payload(
    name: str, entries: Sequence[Json], row: Row | None, rule: str
) -> Json:
    stage: Json = {
        "patient_id": name,
        "pn_stage": None,
        "complete": False,
        "rule": rule,
        "missing": "",
        "notes": [],
    }
    if row is not None:
        stage |= {
            "pn_stage": row["pn_stage"],
            "complete": row["complete"],
            "rule": format_rule(row),
            "missing": format_missing(row),
            "notes": split_notes(row),
        }
    ordered = sorted(entries, key=lambda e: natural(e["node"] or e["slide_id"]))
    return {**stage, "nodes": [_format_node(entry) for entry in ordered]}


def _format_node(entry: Json) -> Json:
    names = [forest.name for forest in FORESTS]
    votes = [
        {"forest": forest, "type": kind}
        for forest, kind in zip(names, entry["votes"], strict=False)
    ]
    return {
        "key": entry["key"],
        "node": entry["node"] or entry["slide_id"],
        "status": entry["status"],
        "finding": entry["verdict_label"],
        "metastasis": entry["metastasis"],
        "votes": votes,
    }
