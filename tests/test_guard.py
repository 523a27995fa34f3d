"""The guard around a slide's work, in worker processes that really end."""

import ctypes
import errno
import os
import time
from pathlib import Path

import pytest
import ray

from digipath_ray.distributed.guard import (
    HINTS,
    TooManyAttempts,
    counted,
    explain,
    mark_failed,
    read_failed,
    watched,
)
from digipath_ray.rundir import RunDirectory
from digipath_ray.slide import SlideError

SLIDE = {"slide_id": "s", "path": "/slides/s.svs", "patient_id": "p"}


def markers(folder: Path) -> int:
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_a_try_that_ends_leaves_no_marker(tmp_path):
    folder = tmp_path / "s.0"
    with counted(folder, limit=1):
        assert markers(folder) == 1
    assert markers(folder) == 0
    with pytest.raises(KeyError), counted(folder, limit=1):
        raise KeyError("an error is an answer, no crash")
    assert markers(folder) == 0


def abort_forever(folder: Path) -> str:
    try:
        with counted(folder, limit=3):
            os.abort()
    except TooManyAttempts as e:
        return str(e)


def sleep_forever(folder: Path) -> str:
    try:
        with counted(folder, limit=2), watched(0.3):
            time.sleep(300)
    except TooManyAttempts as e:
        return str(e)
    return "slept"


def sleep_with_the_lock_held(folder: Path) -> str:
    try:
        with counted(folder, limit=2), watched(0.3):
            ctypes.PyDLL(None).sleep(300)  # PyDLL keeps the interpreter's lock
    except TooManyAttempts as e:
        return str(e)
    return "slept"


def work_slowly() -> str:
    with watched(1.0) as rewind:
        for _ in range(6):
            time.sleep(0.3)
            rewind()
    time.sleep(1.2)  # nothing watches any more
    return "worked"


@pytest.mark.ray
@pytest.mark.slow
def test_a_crash_and_a_hang_are_tried_a_bounded_number_of_times(ray_here, tmp_path):
    # Tasks that Ray, by itself, would start anew for ever.
    for_ever = {"num_cpus": 0.5, "max_retries": -1}
    tasks = [
        ray.remote(**for_ever)(work).remote(tmp_path / work.__name__)
        for work in (abort_forever, sleep_forever, sleep_with_the_lock_held)
    ]
    assert ray.get(tasks, timeout=120) == [
        "the process at work on it crashed or hung 3 times",
        "the process at work on it crashed or hung 2 times",
        "the process at work on it crashed or hung 2 times",
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_work_that_moves_on_is_left_alone(ray_here):
    task = ray.remote(num_cpus=0.5, max_retries=0)(work_slowly)
    assert ray.get(task.remote(), timeout=60) == "worked"


def test_a_slides_own_error_keeps_its_hint():
    failure = explain(SlideError("s.svs: cut short", "copy it again"), SLIDE, "read")
    assert vars(failure) == {
        **SLIDE,
        "step": "read",
        "attempt": 1,
        "error": "s.svs: cut short",
        "hint": "copy it again",
    }


@pytest.mark.parametrize(
    ("error", "step", "attempt", "hint"),
    [
        (TooManyAttempts(3), "read", 3, "copy it again, convert it"),
        (TooManyAttempts(3), "predict", 3, "lower --batch-size"),
        (OSError(errno.ENOSPC, "No space left"), "finish", 1, "disk is full"),
        (MemoryError(), "read", 1, "memory ran out: lower --readers"),
        (RuntimeError("CUDA out of memory"), "predict", 1, "lower --batch-size"),
        (ZeroDivisionError("division by zero"), "finish", 1, "run again"),
    ],
)
def test_every_error_says_what_to_do(error, step, attempt, hint):
    failure = explain(error, SLIDE, step)
    assert (failure.step, failure.attempt) == (step, attempt)
    assert hint in failure.hint
    assert str(error) in failure.error


def test_every_step_has_a_hint():
    assert set(HINTS) == {"prepare", "read", "predict", "finish", "measure"}


def test_readers_learn_that_a_slide_has_failed(tmp_path):
    run = RunDirectory(tmp_path)
    assert read_failed(run, "s") is None
    failure = explain(SlideError("cut short", "copy it again"), SLIDE, "read")
    mark_failed(run, failure)
    assert read_failed(run, "s") == failure
    assert read_failed(run, "s.failed") is None
