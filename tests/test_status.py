"""A run's status.json: who writes it, what it says, and how a terminal shows it."""

import dataclasses
import io
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from digipath_ray.cli import run_app
from digipath_ray.cli.logs import JsonLines
from digipath_ray.cli.status import WATCH_S, look, show_status
from digipath_ray.distributed.heartbeat import Heartbeat
from digipath_ray.distributed.run import remeasure_run, run_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.listeners import Tally
from digipath_ray.run.status import Status, liveness, read_status, timestamp
from digipath_ray.schema import FAILURES
from tests.runs import RAY_WARNINGS, hears, small_config, write_cohort

if TYPE_CHECKING:
    from tests.buckets import Bucket

MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
FAILURE = Failure(
    slide_id="s7",
    path="s7.tif",
    patient_id=None,
    step="read",
    attempt=1,
    error="s7.tif: cannot be read",
    hint="copy it again",
)


def status_of(**changes: object) -> Status:
    now = timestamp(time.time())
    here: dict[str, object] = {"host": platform.node(), "pid": os.getpid()}
    said = {"phase": "segment", "started": now, "updated": now, "slides": 4}
    return Status(**{**here, **said, **changes})  # type: ignore[arg-type]


def write(run: RunDirectory, status: Status) -> None:
    run.write_json(run.status, asdict(status))


class Clock:
    def __init__(self) -> None:
        self.now = MIDNIGHT.timestamp()

    def __call__(self) -> float:
        return self.now


# What is written.


def test_a_beat_says_how_far_the_run_is(tmp_path: Path) -> None:
    run, clock = RunDirectory(tmp_path), Clock()
    beat = Heartbeat(run, slides=10, skipped=3, clock=clock, ticks=clock)
    beat.failed(FAILURE)
    beat.planned(7, 1000)
    tally = Tally(started=clock.now, readers=2, predictors=1, first_patch=clock.now)
    beat.tallied(tally)
    beat.beat(write=False)
    clock.now += 30
    tally.patches, tally.slides, tally.open_slides, tally.finishing = 300, 1, 2, 1
    tally.predict_seconds, tally.read_seconds = 29.0, 12.0
    tally.progress = {"s3": 1.0, "s4": 0.5}
    beat.beat(write=False)
    assert read_status(run) == Status(
        phase="segment",
        host=platform.node(),
        pid=os.getpid(),
        started="2026-11-23T00:00:00+00:00",
        updated="2026-11-23T00:00:30+00:00",
        slides=10,
        skipped=3,
        prepared=10,
        done=1,
        failed=1,
        open_slides=2,
        finishing=1,
        progress={"s3": 1.0, "s4": 0.5},
        patches=1000,
        patches_done=300,
        patches_per_s=10.0,
        eta_s=70.0,
        bottleneck="predict: the networks were never idle; more or faster GPUs would "
        "help",
        failures=[
            {
                "slide_id": "s7",
                "step": "read",
                "error": "s7.tif: cannot be read",
                "hint": "copy it again",
            }
        ],
    )


def test_the_rate_is_of_the_last_minute(tmp_path: Path) -> None:
    run, clock = RunDirectory(tmp_path), Clock()
    beat = Heartbeat(run, slides=1, skipped=0, clock=clock, ticks=clock)
    beat.planned(1, 10_000)
    tally = Tally()
    beat.tallied(tally)
    rates = []
    # 100 patches/s for two minutes, 10 for one, then none for one.
    for second in range(0, 241, 10):
        clock.now = MIDNIGHT.timestamp() + second
        slow = min(max(second - 120, 0), 60)
        tally.patches = 100 * min(second, 120) + 10 * slow
        beat.beat(write=True)
        status = read_status(run)
        assert status is not None
        rates.append(status.patches_per_s)
    assert rates[0] is None
    assert rates[12] == 100.0
    assert rates[15] == pytest.approx((30 * 100 + 30 * 10) / 60)
    assert rates[18] == 10.0
    assert rates[24] is None


def test_it_is_written_at_most_every_ten_seconds_but_for_phases(
    tmp_path: Path,
) -> None:
    run, clock = RunDirectory(tmp_path), Clock()
    beat = Heartbeat(run, slides=1, skipped=0, clock=clock, ticks=clock)
    beat.beat(write=False)
    first = run.status.read_bytes()
    clock.now += 9
    beat.beat(write=False)
    assert run.status.read_bytes() == first
    clock.now += 1
    beat.beat(write=False)
    assert run.status.read_bytes() != first


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_stops_no_beat_and_bends_no_rate(
    tmp_path: Path, hours: int
) -> None:
    run, clock, ticks = RunDirectory(tmp_path), Clock(), Clock()
    beat = Heartbeat(run, slides=1, skipped=0, clock=clock, ticks=ticks)
    tally = Tally(started=ticks.now, first_patch=ticks.now)
    beat.tallied(tally)
    beat.beat(write=False)
    clock.now += hours * 3600
    clock.now, ticks.now, tally.patches = clock.now + 20, ticks.now + 20, 100
    beat.beat(write=False)
    status = read_status(run)
    assert status is not None
    assert status.updated == timestamp(clock.now)
    assert status.patches_per_s == 5.0


def test_phases_are_written_as_they_begin_and_the_end_last(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    seen = []
    with Heartbeat(run, slides=2, skipped=0) as beat:
        for phase, turn in (
            ("prepare", lambda: None),
            ("measure", lambda: beat.measured(1, 1)),
            ("segment", lambda: beat.planned(2, 8)),
        ):
            turn()
            seen.append(wait_for_phase(run, phase))
    assert seen == ["prepare", "measure", "segment"]  # within 2 s, not after 5
    ended = read_status(run)
    assert ended is not None
    assert (ended.phase, ended.why) == ("done", None)


def wait_for_phase(run: RunDirectory, phase: str, *, seconds: float = 2) -> str | None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = read_status(run)
        if status is not None and status.phase == phase:
            return phase
        time.sleep(0.02)
    return None


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            RunError("the disk is full: free space\nand more"),
            "the disk is full: free space",
        ),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(15), "terminated"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_run_that_stops_says_why(
    tmp_path: Path, error: BaseException, why: str
) -> None:
    run = RunDirectory(tmp_path)
    with (
        pytest.raises(type(error)),
        Heartbeat(run, slides=2, skipped=0),
    ):
        raise error
    status = read_status(run)
    assert status is not None
    assert (status.phase, status.why) == ("stopped", why)


def test_a_status_that_cannot_be_written_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(tmp_path)
    run.status.mkdir()  # no file can take its place
    with Heartbeat(run, slides=2, skipped=0) as beat:
        beat.planned(2, 8)
    assert "status.json cannot be written" in caplog.text


def test_nor_one_that_a_bucket_refuses(
    bucket_server: "Bucket", bucket_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.buckets import Fault

    bucket_server.faults.append(
        Fault(method="PUT", part="status.json", kind="denied", times=99)
    )
    run = RunDirectory(bucket_url)
    with Heartbeat(run, slides=2, skipped=0):
        pass
    assert "status.json cannot be written" in caplog.text
    assert read_status(run) is None


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_real_run_tells_of_itself(ray_here: None, tmp_path: Path) -> None:
    rows = write_cohort(tmp_path / "cohort", 2, width=130, height=110)
    (tmp_path / "cohort" / "s01.tif").write_bytes(b"II*\0 and nothing more")
    run, config = RunDirectory(tmp_path / "run"), small_config()
    seen: list[str | None] = []
    listener = hears(planned=lambda *_: seen.append(wait_for_phase(run, "segment")))
    summary = run_cohort(run, rows, config, listener=listener)
    assert seen == ["segment"]
    status = read_status(run)
    assert status is not None
    assert (status.phase, status.slides, status.done, status.failed) == (
        "done",
        2,
        1,
        1,
    )
    assert status.patches_done == status.patches == summary.metrics["patches"] > 0
    assert status.failures[0]["slide_id"] == "s01"
    assert show_status(Console(file=io.StringIO()), run.root, watch=False) == 1

    remeasure_run(run, config)
    again = read_status(run)
    assert again is not None
    assert (again.phase, again.slides, again.skipped) == ("done", 1, 1)


# What is read.


def test_who_is_dead() -> None:
    now = datetime.now(UTC)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old = timestamp(now.timestamp() - 120)
    assert liveness(status_of(), now=now) == "running"
    assert liveness(status_of(updated=old), now=now) == "dead"
    assert liveness(status_of(pid=ended.pid), now=now) == "dead"
    # Of another machine's processes nothing is known.
    assert liveness(status_of(pid=ended.pid, host="elsewhere"), now=now) == "running"
    assert liveness(status_of(phase="done", updated=old), now=now) == "done"
    assert liveness(status_of(phase="stopped", updated=old), now=now) == "stopped"


def test_a_newer_versions_fields_are_passed_over(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_json(run.status, {**asdict(status_of(done=2)), "mood": "good"})
    status = read_status(run)
    assert status is not None
    assert status.done == 2


def test_what_is_no_status_is_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_json(run.status, {"phase": "done"})
    with pytest.raises(ValueError, match=r"status\.json: no status of a run"):
        read_status(run)


def made_run(folder: Path | str, status: Status, *, done: int) -> RunDirectory:
    run = RunDirectory(folder)
    for i in range(done):
        run.write_json(run.done(f"s{i}"), {})
    write(run, status)
    return run


def shown(folder: Path | str) -> tuple[str, int]:
    out = Console(file=io.StringIO(), width=200)
    code = show_status(out, Path(folder), watch=False)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines()), code


def test_a_running_run_in_a_terminal(tmp_path: Path) -> None:
    status = status_of(
        patches=7200,
        patches_done=1200,
        patches_per_s=2.5,
        eta_s=2400.0,
        open_slides=2,
        finishing=1,
        bottleneck="read: the networks waited for pixels; more --readers would help",
    )
    said, code = shown(made_run(tmp_path, status, done=1).root)
    assert code == 0
    assert re.sub(r"status of \d+ s", "status of 0 s", said) == (
        f"run         {tmp_path}\n"
        "state       running: predicts (status of 0 s ago)\n"
        "slides      1 of 4 finished, 0 failed, 2 open, 1 being written\n"
        "patches     1,200 of 7,200, 2.5/s, 40 min left\n"
        "bottleneck  read: the networks waited for pixels; more --readers would help\n"
        f"started     {status.started} on {platform.node()}"
    )
    write(RunDirectory(tmp_path), dataclasses.replace(status, phase="prepare"))
    assert "running: finds tissue and places patches" in shown(tmp_path)[0]


def test_failures_are_the_runs_own_while_it_runs(tmp_path: Path) -> None:
    told = {"slide_id": "s2", "step": "read", "error": "torn", "hint": "copy it"}
    status = status_of(failed=1, failures=[told])
    run = made_run(tmp_path, status, done=1)
    run.write_table(run.failures, [vars(FAILURE)], FAILURES)  # of an earlier start
    said, code = shown(tmp_path)
    assert code == 1
    assert "1 of 4 finished, 1 failed" in said
    assert "failed   s2 at read: torn\n         fix: copy it" in said
    assert "s7" not in said
    write(run, status_of(phase="done", failed=1, failures=[told]))
    said, code = shown(tmp_path)
    assert code == 1
    assert "failed   s7 at read: s7.tif: cannot be read" in said


def test_how_a_run_ended(tmp_path: Path) -> None:
    now = time.time()
    times = {"started": timestamp(now - 7320), "updated": timestamp(now - 120)}
    run = made_run(tmp_path, status_of(phase="done", **times), done=4)
    said, code = shown(tmp_path)
    assert (code, "done 2 min ago, in 2.0 h" in said) == (0, True)
    assert "4 of 4 finished, 0 failed" in said

    write(run, status_of(phase="stopped", why="the disk is full", **times))
    said, code = shown(tmp_path)
    assert code == 1
    assert "stopped 2 min ago: the disk is full; the same command goes on" in said

    write(run, status_of(host="elsewhere", pid=7, **times))
    said, code = shown(tmp_path)
    assert code == 1
    assert "seems dead: process 7 on elsewhere wrote no status for 2 min" in said


def test_no_run_is_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["status", str(tmp_path)]) == 2
    assert "no run has started there" in capsys.readouterr().err
    run = RunDirectory(tmp_path)
    run.settings.write_text("")  # of a version without status.json
    run.write_json(run.done("s0"), {})
    assert run_app(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "slides 1 slide finished, 0 failed" in " ".join(said.split())


def test_a_run_in_a_bucket(bucket_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["status", bucket_url]) == 2
    assert "no run has started there" in capsys.readouterr().err
    made_run(bucket_url, status_of(host="elsewhere", slides=3), done=2)
    assert run_app(["status", bucket_url]) == 0
    said = capsys.readouterr().out
    assert bucket_url in said
    assert "2 of 3 finished" in said


def test_watching_goes_on_until_the_end(tmp_path: Path) -> None:
    run = made_run(tmp_path, status_of(slides=2), done=0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        run.write_json(run.done(f"s{len(slept)}"), {})
        ended = len(slept) == 2
        write(run, status_of(slides=2, phase="done" if ended else "segment"))

    out = Console(file=io.StringIO(), width=100)
    assert show_status(out, tmp_path, watch=True, sleep=sleep) == 0
    assert slept == [WATCH_S, WATCH_S]
    assert isinstance(out.file, io.StringIO)
    assert "2 of 2 finished" in out.file.getvalue()


def test_status_needs_neither_ray_nor_torch(tmp_path: Path) -> None:
    made_run(tmp_path, status_of(), done=0)
    script = (
        "import sys; from digipath_ray.cli import run_app\n"
        f"run_app(['status', {str(tmp_path)!r}])\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"


def test_look_counts_what_stands(tmp_path: Path) -> None:
    made_run(tmp_path, status_of(), done=3)
    assert look(tmp_path).finished == 3


# Log lines.


def test_a_record_as_json_says_which_slide() -> None:
    record = logging.getLogger("digipath_ray.x").makeRecord(
        "digipath_ray.x",
        logging.WARNING,
        "x.py",
        1,
        "%s failed",
        ("s1",),
        None,
        extra={"slide_id": "s1", "step": "read"},
    )
    record.created = MIDNIGHT.timestamp()
    assert json.loads(JsonLines().format(record)) == {
        "time": "2026-11-23T00:00:00+00:00",
        "level": "WARNING",
        "logger": "digipath_ray.x",
        "message": "s1 failed",
        "slide_id": "s1",
        "step": "read",
    }
