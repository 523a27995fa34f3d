"""How a run ends: its tables, what is left out on a full disk, and its summary."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.outcome.staging import PatientStage
from digipath_ray.outcome.tables import RunTables, write_tables
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import (
    DISK_FULL,
    Failure,
    RunStopped,
    explain_os_error,
)
from digipath_ray.run.listeners import FailureLog, RunListener, Tally
from digipath_ray.storage.lease import Held

log = logging.getLogger(__name__)

WRITING_AGAIN_S = (1.0, 3.0)
"""Pauses, seconds, between attempts at the tables where the disk is full."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        run: its directory.
        slides: of the cohort.
        skipped: finished by an earlier start.
        outcomes: rows of the OUTCOMES table, of the cohort's slides that are finished.
        patients: stages of all patients in the directory, where they are asked for.
        failures: of this start.
        metrics: what metrics.json says of this start; empty if nothing was predicted.
        changes: what manifest and files of now mean for results of earlier starts.
        notes: why its heatmaps are no predictions; mostly empty.
        unwritten: why report or checksums are missing; empty if they are there.
    """

    run: RunDirectory
    slides: int
    skipped: int
    outcomes: list[dict[str, Any]]
    patients: list[PatientStage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)


def write_what_is_finished(
    run: RunDirectory, ids: Sequence[str], failures: FailureLog, config: RunConfig
) -> RunTables:
    """Write failures and tables, when a run ends.

    On a full disk tasks that have not heard of the end may still hold its last bytes
    for a while.

    Raises:
        RunStopped: the disk stays full.
    """
    pauses = iter(WRITING_AGAIN_S)
    while True:
        try:
            run.write_failures(ids, failures.failures)
            return write_tables(run, config)
        except OSError as e:
            if e.errno not in DISK_FULL:
                raise
            pause_s = next(pauses, None)
            if pause_s is None:
                raise RunStopped(
                    f"the tables of {run.root} cannot be written ({e}); what is "
                    f"finished stays: {explain_os_error(e)}"
                ) from e
            log.warning("%s: %s; once more in %.0f s", run.root, e, pause_s)
        time.sleep(pause_s)
        run.remove_unfinished()


def leave_out(path: Path, write: Callable[[], object]) -> list[str]:
    """Write a file that a run can do without on a full disk.

    Returns:
        Why it is missing; empty if it is there.
    """
    try:
        write()
    except OSError as e:
        if e.errno not in DISK_FULL:
            raise
        return [f"{path.name} is not written ({e}): {explain_os_error(e)}"]
    return []


class LeaseCheck(RunListener):
    """Ends a run whose directory another run has taken over."""

    def __init__(self, run: RunDirectory, held: Held) -> None:
        self._run, self._held = run, held

    def tallied(self, tally: Tally) -> None:
        """Check the lease."""
        stop_if_lost(self._run, self._held)


def stop_if_lost(run: RunDirectory, held: Held) -> None:
    """End a run whose directory another one has taken over.

    Raises:
        RunStopped: it has.
    """
    if held.lost.is_set():
        raise RunStopped(
            f"{run.root} was taken over by another run, as this one could not renew "
            "its lease: make sure that only one runs, then run again"
        )


def patient_notes(outcomes: Sequence[dict[str, Any]], config: RunConfig) -> list[str]:
    """Why no patient has a stage, where stages are asked for."""
    if config.outcome.outcome != "stage" or not outcomes:
        return []
    if any(row["patient_id"] is not None for row in outcomes):
        return []
    return [
        "no slide names its patient, so there is no pN stage: give a manifest with "
        "the column patient_id"
    ]
