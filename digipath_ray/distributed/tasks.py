"""One Ray task per slide, tried again when its process dies."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from digipath_ray.cohort.read import SlideRow
from digipath_ray.distributed.attempts import TooManyAttempts, explain
from digipath_ray.run.failure import Failure

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def for_each_slide(
    work: Callable[..., Answer | Failure],
    rows: Sequence[SlideRow],
    root: str,
    settings: Any,
    *,
    attempts: int,
    step: str = "prepare",
    report: Callable[[int], None] = lambda n: None,
) -> dict[str, Answer | Failure]:
    """What ``work(root, row, settings)`` answers for every slide: slide_id -> answer.

    Args:
        work: a function that turns a slide's errors into its failure.
        rows: the slides.
        root: directory that ``work`` writes to.
        settings: sent to the cluster once.
        attempts: tries before a slide whose process crashes or hangs has failed.
        step: what the work is called in a failure.
        report: called with the number of answers so far.
    """
    answers: dict[str, Answer | Failure] = {}
    todo = deque((row, 1) for row in rows)
    task = ray.remote(num_cpus=1, max_retries=0)(work)
    stored = ray.put(settings)
    at_once = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    active: dict[ray.ObjectRef, tuple[SlideRow, int]] = {}
    while todo or active:
        while todo and len(active) < at_once:
            row, attempt = todo.popleft()
            active[task.remote(root, row, stored)] = (row, attempt)
        (ref,), _ = ray.wait(list(active), num_returns=1)
        row, attempt = active.pop(ref)
        try:
            answers[row.slide_id] = ray.get(ref)
        except ray.exceptions.RayError as e:  # its worker crashed, hung or was lost
            about = {"slide_id": row.slide_id, "step": step}
            log.warning(
                "%s: %s, try %d: %s", row.slide_id, step, attempt, e, extra=about
            )
            if attempt < attempts:
                todo.append((row, attempt + 1))
                continue
            lost = TooManyAttempts(attempt)
            answers[row.slide_id] = explain(lost, row, step)
        report(len(answers))
    return answers
