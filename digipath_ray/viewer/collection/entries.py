"""Slides and a run's progress as the JSON that the page shows.

The words are the report's: what a slide is called, and why it needs a look.
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
"""Columns of OUTCOMES that an entry carries as they are."""


def key_of(slide_id: str) -> str:
    """The name of a slide in addresses: it holds nothing of the slide's own."""
    return hashlib.sha256(slide_id.encode()).hexdigest()[:16]


def number(value: Any) -> float | None:
    """A number that JSON has a word for, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def attention_of(view: SlideView) -> int:
    """How much a slide needs a look: 0 not at all, 5 the most (it failed)."""
    most = max(Concern) + 1
    return max((most - reason.concern for reason in view.reasons), default=0)


def urgency(view: SlideView) -> tuple[Any, ...]:
    """By what slides are ordered, as in the report: the most pressing first."""
    return -attention_of(view), -(view.unsure or 0.0), natural(view.slide_id)


def blank_entry(row: SlideRow, *, thumbnail: bool) -> Json:
    """What is said of a slide of which no run has said anything yet."""
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
    """What is said of a slide that failed."""
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
    """What is said of a slide of a run that goes on; no progress: it still waits."""
    entry = blank_entry(row, thumbnail=thumbnail)
    if progress is None:
        return entry
    return {**entry, "status": "running", "progress": progress}


def left_entry(row: SlideRow, view: SlideView, *, thumbnail: bool) -> Json:
    """What is said of a slide whose turn never came."""
    return {
        **blank_entry(row, thumbnail=thumbnail),
        "attention": attention_of(view),
        "reasons": [f"{reason.title}. {reason.text}" for reason in view.reasons],
    }


def done_entry(row: SlideRow, view: SlideView, outcome: Row, *, ending: str) -> Json:
    """What is said of a finished slide, given its row of OUTCOMES."""
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
    """A row of OUTCOMES of a record that no table holds yet.

    Args:
        record: the slide's ``done`` record.
        columns: of OUTCOMES; what the record does not say is unknown.
        by_size: the run types slides by size alone, so that the type is known already.
    """
    outcome: Json = {**dict.fromkeys(columns), **record.outcome}
    if by_size and outcome["metastasis"] is None:
        outcome["metastasis"] = type_of_size(outcome["largest_um"] or 0.0).label
    return outcome


def lesion_payloads(
    lesions: Iterable[Row], record: Row, l0_per_px: tuple[float, float] | None
) -> list[Json]:
    """A slide's lesions, largest first; centers and boxes in level-0 px.

    Args:
        lesions: as its ``done`` record lists them.
        record: its row of SLIDES; not asked where there are no lesions.
        l0_per_px: level-0 px per heatmap px, of which the boxes are, in x and y; None
            leaves the boxes out.
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
    """How far a run is: what status.json says, whether it goes on, and its pace.

    Args:
        status: what status.json says.
        state: whether the run goes on.
        named: how many of the slides that failed are known by name.
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
