"""The file ``status.json``: progress of a run, and whether its driver is alive.

``distributed/heartbeat.py`` writes it every few seconds; an old one means that the
driver is gone.
"""

import math
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import psutil
from pydantic import TypeAdapter, ValidationError

from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import first_error, read_text

Phase = Literal["prepare", "measure", "segment", "done", "stopped"]
State = Literal["running", "done", "stopped", "dead"]

WRITE_S = 10.0
"""Seconds between two writes."""
SILENT_S = 90.0
"""Seconds without a write after which a run seems dead; a bucket may be slow to take
one, and clocks differ."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What ``status.json`` says.

    Attributes:
        phase: what is being done.
        host: the driver's machine.
        pid: its process there.
        started: when this start began, UTC, ISO 8601.
        updated: when this was written.
        slides: of the cohort.
        skipped: finished by an earlier start.
        prepared: whose patches are placed or that failed at it.
        measured: finished before and measured again.
        done: finished by this start.
        failed: in this start.
        open_slides: of which some chunks are predicted.
        finishing: being stitched and written.
        progress: both of these by slide_id, with the share predicted.
        patches: of the slides to predict.
        patches_done: predicted.
        patches_per_s: of the last minute; None while none came.
        eta_s: seconds left at that rate.
        bottleneck: what the others wait for, in words.
        why: it stopped.
        failures: the last ones, each with slide_id, step, error and hint.
    """

    phase: Phase
    host: str
    pid: int
    started: str
    updated: str
    slides: int
    skipped: int = 0
    prepared: int = 0
    measured: int = 0
    done: int = 0
    failed: int = 0
    open_slides: int = 0
    finishing: int = 0
    progress: dict[str, float] = field(default_factory=dict)
    patches: int = 0
    patches_done: int = 0
    patches_per_s: float | None = None
    eta_s: float | None = None
    bottleneck: str | None = None
    why: str | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)


STATUS: TypeAdapter[Status] = TypeAdapter(Status)
SAID = ("slide_id", "step", "error", "hint")
"""What is said of a failure, as text."""


def read_status(run: RunDirectory) -> Status | None:
    """What a run says of itself; None if it says nothing.

    Fields that this version does not know are ignored.

    Raises:
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    try:
        text = read_text(run.status)
    except FileNotFoundError:
        return None
    try:
        status = STATUS.validate_json(text, strict=True)
        _check(status)
    except ValidationError as e:
        raise ValueError(f"{run.status}: no status of a run: {first_error(e)}") from e
    except ValueError as e:
        raise ValueError(f"{run.status}: no status of a run: {e}") from e
    return status


def _check(status: Status) -> None:
    """Refuse what no run writes.

    Raises:
        ValueError: a time that is none, numbers that are not finite, or a failure
            that does not say of what.
    """
    for moment in (status.started, status.updated):
        if datetime.fromisoformat(moment).tzinfo is None:
            raise ValueError(f"{moment!r:.100}: a time without its zone")
    rates = [status.patches_per_s, status.eta_s, *status.progress.values()]
    if not all(math.isfinite(rate) for rate in rates if rate is not None):
        raise ValueError("a number that is not finite")
    for failure in status.failures:
        if not all(isinstance(failure.get(name), str) for name in SAID):
            raise ValueError(f"{failure!r:.100}: no failure of a slide")


def liveness(status: Status, *, now: datetime) -> State:
    """Whether a run goes on, has ended, or seems dead.

    Dead is one whose process has ended on this machine without a word, or which has
    been silent for SILENT_S.
    """
    if status.phase == "done" or status.phase == "stopped":
        return status.phase
    here = status.host == platform.node()
    ended = here and not psutil.pid_exists(status.pid)
    return "dead" if ended or silent_s(status, now=now) > SILENT_S else "running"


def silent_s(status: Status, *, now: datetime) -> float:
    """Seconds since the last sign of life."""
    return (now - datetime.fromisoformat(status.updated)).total_seconds()


def timestamp(moment: float) -> str:
    """Seconds since 1970 as UTC in ISO 8601."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
