"""JSON payloads of slides and of a run's progress.

Titles, verdicts and reasons for review are those of the report.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.report.attention import Concern
from digipath_ray.report.findings import Row
from digipath_ray.report.slides import SlideView
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord
from digipath_ray.run.status import State, Status
from digipath_ray.viewer.collection.snapshot import Json
from digipath_ray.words import natural

NUMBERS = ("burden", "largest_um", "unsure", "tumor_mm2", "tissue_mm2", "score")
"""Columns of OUTCOMES copied to an entry."""


def key_of(slide_id: str) -> str:
    """Key of a slide in URLs: a digest that does not reveal the slide_id."""
    return hashlib.sha256(slide_id.encode()).hexdigest()[:16]


def number(value: Any) -> float | None:
    """A finite number for JSON, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def attention_of(view: SlideView) -> int:
    """Urgency of review of a slide: 0 none to 5 (failed)."""
    most = max(Concern) + 1
    return max((most - reason.concern for reason in view.reasons), default=0)


def urgency(view: SlideView) -> tuple[Any, ...]:
    """Sort key of slides, as in the report: most urgent first."""
    return -attention_of(view), -(view.unsure or 0.0), natural(view.slide_id)


def blank_entry(row: SlideRow, *, thumbnail: bool) -> Json:
    """Payload of a slide without results."""
    return {
        "key": key_of(row.slide_id),
        "slide_id": row.slide_id,
        "patient_id": row.patient_id,
        "node": row.node,
        "status": "waiting",
        "progress": None,
        "attention": None,
        "reasons": [],
        "verdict": None,
        "verdict_label": "",
        "metastasis": None,
        "votes": [],
        **dict.fromkeys(NUMBERS),
        "lesions": None,
        "label": row.label,
        "thumbnail": thumbnail,
        "failure": None,
        "second": None,
    }


def failed_entry(
    row: SlideRow, view: SlideView, failure: Failure, *, thumbnail: bool
) -> Json:
    """Payload of a failed slide."""
    return {
        **blank_entry(row, thumbnail=thumbnail),
        "status": "failed",
        "attention": attention_of(view),
        "reasons": [f"{reason.title}. {reason.text}" for reason in view.reasons],
        "verdict": "failed",
        "verdict_label": view.verdict,
        "failure": {
            "step": failure.step,
            "error": failure.error,
            "hint": failure.hint,
        },
    }


def running_entry(row: SlideRow, progress: float | None, *, thumbnail: bool) -> Json:
    """Payload of a slide of a running run; progress None: still waiting."""
    entry = blank_entry(row, thumbnail=thumbnail)
    if progress is None:
        return entry
    return {**entry, "status": "running", "progress": progress}


def left_entry(row: SlideRow, view: SlideView, *, thumbnail: bool) -> Json:
    """Payload of a slide that the run did not reach."""
    return {
        **blank_entry(row, thumbnail=thumbnail),
        "attention": attention_of(view),
        "reasons": [f"{reason.title}. {reason.text}" for reason in view.reasons],
    }


def done_entry(row: SlideRow, view: SlideView, outcome: Row, *, ending: str) -> Json:
    """Payload of a finished slide, from its row of OUTCOMES."""
    burden = number(outcome["burden"])
    verdict = outcome["metastasis"] if ending == "stage" else None
    if ending == "burden" and burden is not None:
        verdict = f"{burden:.2f}"
    votes: Sequence[str] = outcome["votes"] or ()
    return {
        **blank_entry(row, thumbnail=True),
        "status": "done",
        "progress": 1.0,
        "attention": attention_of(view),
        "reasons": [f"{reason.title}. {reason.text}" for reason in view.reasons],
        "verdict": verdict or view.tone,
        "verdict_label": ", ".join(part for part in (view.verdict, view.size) if part),
        "metastasis": outcome["metastasis"],
        "votes": list(votes),
        **{name: number(outcome[name]) for name in NUMBERS},
        "lesions": outcome["lesions"],
    }


def full_outcome(record: DoneRecord, columns: Iterable[str], *, by_size: bool) -> Json:
    """Build a row of OUTCOMES from a record that is not in the table yet.

    Args:
        record: ``done`` record of the slide.
        columns: columns of OUTCOMES; those missing from the record are None.
        by_size: whether the run types slides by size alone, so that the type is known.
    """
    outcome: Json = {**dict.fromkeys(columns), **record.outcome}
    if by_size and outcome["metastasis"] is None:
        outcome["metastasis"] = type_of_size(outcome["largest_um"] or 0.0).label
    return outcome


def lesion_payloads(
    lesions: Iterable[Row], record: Row, l0_per_px: tuple[float, float] | None
) -> list[Json]:
    """Payloads of a slide's lesions, largest first; centers and boxes in level-0 px.

    Args:
        lesions: lesions of the ``done`` record.
        record: row of the slide in SLIDES; unused without lesions.
        l0_per_px: level-0 px per heatmap px in x and y, to convert the boxes; None
            omits the boxes.
    """

    def box(sides: Sequence[int]) -> list[float] | None:
        if l0_per_px is None:
            return None
        top, left, bottom, right = sides
        x, y = l0_per_px
        x1, y1 = min(right * x, record["width"]), min(bottom * y, record["height"])
        return [left * x, top * y, x1, y1]

    return [
        {
            "number": lesion["number"],
            "area_mm2": number(lesion["area_mm2"]),
            "longest_um": number(lesion["major_axis_um"]),
            "feret_um": number(lesion["feret_um"]),
            "mean_p": number(lesion["mean_p"]),
            "max_p": number(lesion["max_p"]),
            "type": type_of_size(lesion["feret_um"]).label,
            "counted": lesion["counted"],
            "center": [
                lesion["x_um"] / record["mpp_x"],
                lesion["y_um"] / record["mpp_y"],
            ],
            "box": box(lesion["box"]),
        }
        for lesion in lesions
    ]


def status_payload(status: Status, state: State, *, named: int) -> Json:
    """Payload of a run's progress: status.json, state and rate.

    Args:
        status: content of status.json.
        state: state of the run.
        named: number of failed slides known by name.
    """
    passed = datetime.fromisoformat(status.updated) - datetime.fromisoformat(
        status.started
    )
    hours = passed.total_seconds() / 3600
    pace = status.done / hours if status.done and hours > 0 else None
    record = dataclasses.asdict(status)
    record |= {name: number(record[name]) for name in ("patches_per_s", "eta_s")}
    unnamed = max(0, status.failed - named)
    return {**record, "state": state, "slides_per_h": pace, "unnamed": unnamed}
