"""The guard around a slide's work, in worker processes that really end."""

import ctypes
import errno
import os
import time

import pytest
import ray

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.distributed.attempts import (
    HINTS,
    TooManyAttempts,
    counted,
    explain,
    watched,
)
from digipath_ray.distributed.ledger import Ledger, share_ledger
from digipath_ray.run.failure import Failure
from digipath_ray.slide.open import SlideError

SLIDE = SlideRow(slide_id="s", path="/slides/s.svs", patient_id="p")


def test_a_try_that_ends_is_forgotten():
    ledger = Ledger()
    with counted(ledger, "s 0", limit=1):
        with pytest.raises(TooManyAttempts), counted(ledger, "s 0", limit=1):
            pass
        with counted(ledger, "s 1", limit=1):
            pass
    with pytest.raises(KeyError), counted(ledger, "s 0", limit=1):
        raise KeyError("an error is an answer, no crash")
    assert ledger.begin("s 0", 1).crashes == 0


def abort_forever(ledger: Ledger) -> str:
    try:
        with counted(ledger, "abort", limit=3):
            os.abort()
    except TooManyAttempts as e:
        return str(e)


def sleep_forever(ledger: Ledger) -> str:
    try:
        with counted(ledger, "sleep", limit=2), watched(0.3):
            time.sleep(300)
    except TooManyAttempts as e:
        return str(e)
    return "slept"


def sleep_with_the_lock_held(ledger: Ledger) -> str:
    try:
        with counted(ledger, "lock", limit=2), watched(0.3):
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
def test_a_crash_and_a_hang_are_tried_a_bounded_number_of_times(ray_here):
    # Tasks that Ray, by itself, would start anew for ever.
    for_ever = {"num_cpus": 0.5, "max_retries": -1}
    ledger = share_ledger()
    tasks = [
        ray.remote(**for_ever)(work).remote(ledger)
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
        "slide_id": "s",
        "path": "/slides/s.svs",
        "patient_id": "p",
        "step": "read",
        "attempt": 1,
        "error": "s.svs: cut short",
        "hint": "copy it again",
        "cause": "slide",
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


@pytest.mark.ray
@pytest.mark.slow
def test_readers_learn_that_a_slide_has_failed(ray_here):
    failure = explain(SlideError("cut short", "copy it again"), SLIDE, "read")
    shared = share_ledger()
    assert shared.failure("s") is None
    ray.get(ray.remote(num_cpus=0.5)(fail).remote(shared, failure))
    assert shared.failure("s") == failure
    assert shared.failure("s.failed") is None


def fail(ledger: Ledger, failure: Failure) -> None:
    ledger.fail(failure)
