"""Whose fault it is: a slide is blamed once it has failed alone, and for no other's."""

import errno
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import ray
from ray import exceptions as of_ray

from digipath_ray.cli.run import exit_status
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed import attempts, fault
from digipath_ray.distributed.attempts import (
    HeldUp,
    TooManyAttempts,
    counted,
    explain,
)
from digipath_ray.distributed.fault import (
    LONGEST_PAUSE_S,
    Patience,
    cause_of_error,
    cause_of_kill,
    pause_after,
    shorten_error,
)
from digipath_ray.distributed.ledger import Ledger, Try
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.distributed.throughput import count_ends
from digipath_ray.run.failure import OUTSIDE, SLIDE, SUSPECT, Failure
from digipath_ray.slide.open import SlideError

SLIDES = [SlideRow(slide_id=f"s{i}", path=f"/slides/s{i}.svs") for i in range(4)]
KILLED = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node "
    "(IP: 192.0.2.2, ID: 94a1) was 15.40GB used / 16.00GB limit (0.962500)\n"
    "OOM kill reason: Memory usage 1B exceeded threshold of 2B (95.0% of 3B limit)\n"
    "Selected to kill: (Task: job ID=01, pid=1, "
    "actual memory used={own}GB, worker ID=e)"
)
NO_MEMORY = """
import json, sys
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed import fault
from digipath_ray.distributed.connect import connected
from digipath_ray.distributed.tasks import for_each_slide
import time

fault.FIRST_PAUSE_S, fault.PATIENCE_S = 0.5, 1.0
rows = [SlideRow(slide_id=i, path=i) for i in "ab"]
with connected():
    patience = fault.Patience()
    found = for_each_slide(
        lambda root, row, settings: time.sleep(60), rows, "", None, attempts=3,
        patience=patience,
    )
print(json.dumps([{i: vars(f) for i, f in found.items()}, patience.met]))
"""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (of_ray.OutOfMemoryError(KILLED.format(own="0.05")), "memory"),
        (of_ray.OutOfMemoryError(KILLED.format(own="14.20")), SUSPECT),
        (of_ray.OutOfMemoryError("in other words"), "memory"),
        (of_ray.LocalRayletDiedError(), "node"),
        (of_ray.NodeDiedError("preempted"), "node"),
        (of_ray.OutOfDiskError("full"), "disk"),
        (of_ray.ObjectStoreFullError("full"), "store"),
        (of_ray.WorkerCrashedError(), SUSPECT),
        (OSError(errno.ENOSPC, "No space left"), "disk"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "disk"),
        (OSError(errno.ESTALE, "Stale file handle"), "storage"),
        (ConnectionResetError(), "storage"),
        (TimeoutError(), "storage"),
        (OSError(errno.EIO, "I/O error"), SLIDE),
        (FileNotFoundError(), SLIDE),
        (OSError(errno.ENOMEM, "Cannot allocate"), SUSPECT),
        (MemoryError(), SUSPECT),
        (TooManyAttempts(3), SUSPECT),
        (HeldUp("node", 3), "node"),
        (SlideError("cut short", "copy it again"), SLIDE),
        (ZeroDivisionError(), SLIDE),
    ],
)
def test_whose_fault_an_error_is(error: Exception, cause: str) -> None:
    failure = explain(error, SLIDES[0], "read")
    assert failure.cause == cause
    if cause in OUTSIDE:
        assert failure.hint == OUTSIDE[cause][1]
        assert "copy it again" not in failure.hint


def test_what_ray_says_of_memory_in_one_line() -> None:
    said = shorten_error(of_ray.OutOfMemoryError(KILLED.format(own="0.05")))
    assert said == (
        "15.40 of 16.00 GB of 192.0.2.2 are used; Ray ends processes above 95.0 %"
    )
    assert cause_of_kill("") == "memory"


def test_pauses_grow_and_have_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    slept: list[float] = []
    patience = Patience(100.0, sleep=slept.append)
    while patience.wait("node", "10.0.0.7 has gone"):
        pass
    assert slept == [5, 10, 20, 40, 25]
    assert "a node was lost (10.0.0.7 has gone): no slide's fault; waiting 5 s" in (
        caplog.text
    )
    patience.settle()
    assert patience.wait("disk", "no space")
    assert slept[-1] == 5, "what succeeds in between fills patience again"
    assert patience.met == {"node": 6, "disk": 1}


class Witness(Ledger):
    """A ledger that knows what each of its tries has ended of."""

    def __init__(self, *ends: str) -> None:
        super().__init__()
        self.ends = list(ends)

    def cause_of_end(self, one: Try, now: Try | None) -> str:
        return self.ends.pop(0)


def test_tries_that_others_ended_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(attempts.time, "sleep", slept.append)
    monkeypatch.setattr(attempts, "this_try", lambda: Try("w", "n"))
    ledger = Witness("node", "memory", SUSPECT, "node", SUSPECT)
    for _ in range(5):
        ledger.begin("s 0", 9, Try("w", "n"))
    with pytest.raises(TooManyAttempts) as caught, counted(ledger, "s 0", limit=2):
        pass
    assert caught.value.attempts == 2
    assert slept == []
    assert dict(ledger.standing().met) == {"node": 2, "memory": 1}
    ledger = Witness(*["memory"] * 99)
    begun = []  # and none of them ends

    def crash_for_ever() -> None:
        while True:
            begun.append(counted(ledger, "s 1", limit=2))
            begun[-1].__enter__()

    with pytest.raises(HeldUp, match=r"memory is short: \d+ tries ended of it"):
        crash_for_ever()
    assert slept == sorted(slept)
    assert max(slept) == LONGEST_PAUSE_S
    assert sum(slept) <= fault.PATIENCE_S


def test_pauses_of_workers() -> None:
    assert [pause_after(n) for n in (1, 2, 3)] == [(5, 5), (10, 15), (20, 35)]


def test_ends_are_counted_apart_and_told_by_the_exit_status() -> None:
    def failure(cause: str | None) -> Failure:
        return Failure(
            slide_id="s",
            path="",
            patient_id=None,
            step="read",
            attempt=1,
            error="",
            hint="",
            cause=cause,
        )

    failures = [failure(cause) for cause in ("slide", "memory", "memory", None)]
    ends = count_ends(9, failures, {"node": 3})
    assert ends["failed_by"] == {"memory": 2, "slide": 2}
    assert ends["tried_again"] == {"node": 3}
    assert [exit_status(f) for f in ([], failures[:1], failures)] == [0, 1, 3]
    assert exit_status([], ["report.html is not written"]) == 3


def work_once(root: str, row: SlideRow, sick: dict[str, str]) -> str | Failure:
    """Answers with whether the process was fresh; does to a sick slide as is told."""
    marks = [p for p in Path(root).iterdir() if p.name.startswith(f"{row.slide_id} ")]
    (Path(root) / f"{row.slide_id} {len(marks)}").touch()
    what = sick.get(row.slide_id, "")
    if what == "crash always" or (what == "crash in a crowd" and not is_alone()):
        os.abort()
    if what == "full twice" and len(marks) < 2:
        return explain(OSError(errno.ENOSPC, "No space left"), row, "prepare")
    if what == "no memory beside others" and not is_alone():
        return explain(MemoryError(), row, "prepare")
    time.sleep(0.1)
    return "alone" if is_alone() else "in a crowd"


def is_alone() -> bool:
    return "DIGIPATH_ALONE" in os.environ


@pytest.mark.ray
@pytest.mark.slow
def test_a_slide_is_blamed_once_it_has_failed_alone(ray_here, tmp_path: Path) -> None:
    sick = {
        "s0": "crash always",
        "s1": "crash in a crowd",
        "s2": "full twice",
        "s3": "no memory beside others",
    }
    rows = [*SLIDES, SlideRow(slide_id="s4", path="")]
    slept: list[float] = []
    patience = Patience(sleep=slept.append)
    found = for_each_slide(
        work_once, rows, str(tmp_path), sick, attempts=3, patience=patience
    )
    lost = found.pop("s0")
    assert isinstance(lost, Failure)
    assert (lost.cause, lost.attempt) == (SLIDE, 3)
    assert lost.error.endswith("crashed or hung 3 times, the last time alone")
    assert found == {"s1": "alone", "s2": "alone", "s3": "alone", "s4": "in a crowd"}
    assert slept[0] == 5
    assert patience.met == {"disk": 2}


@pytest.mark.ray
@pytest.mark.slow
def test_memory_that_others_fill_is_no_slides_fault() -> None:
    # Pytest's own folder may be too long for Ray's sockets.
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", NO_MEMORY],
            env={
                **os.environ,
                "RAY_ADDRESS": "local",
                "RAY_TMPDIR": folder,
                "RAY_memory_usage_threshold": "0.01",
                "RAY_memory_monitor_refresh_ms": "100",
            },
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    failures, met = json.loads(done.stdout)
    assert {f["cause"] for f in failures.values()} == {"memory"}
    assert "are used; Ray ends processes above 1.0 %" in failures["a"]["error"]
    assert "free memory on the nodes" in failures["a"]["hint"]
    assert met["memory"] >= 2
    assert "memory is short" in done.stderr
    assert "waiting" in done.stderr


def test_a_cause_says_what_and_what_to_do() -> None:
    for said, hint in OUTSIDE.values():
        assert said
        assert hint.endswith("run again")
    assert cause_of_error(ray.exceptions.RayError("?")) == SUSPECT
