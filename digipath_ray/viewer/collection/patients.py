"""Patients as the JSON that the page shows: their nodes, their stage, and why."""

from collections.abc import Iterable, Sequence

from digipath_ray.outcome.metastasis.forests import FORESTS
from digipath_ray.report.evidence import format_missing, format_rule, split_notes
from digipath_ray.report.findings import Row
from digipath_ray.viewer.collection.snapshot import Json
from digipath_ray.words import natural

NOT_STAGED = {
    "stage": "no stage yet: it is given once all slides of the run are done",
    "burden": "no stage: this run's slides end in a tumor burden, patients are not "
    "staged",
    "none": "no stage: this run's slides end in outlines, patients are not staged",
}
"""By what a run's slides end in."""
NO_RUN = "no stage: no run has analyzed these slides"


def patient_payloads(
    staged: Iterable[Row], entries: Iterable[Json], *, rule: str
) -> list[Json]:
    """The patients, also those that have no stage, in the order of their names.

    Args:
        staged: rows of PATIENTS.
        entries: what is said of the slides.
        rule: what is said of those without a stage.
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
