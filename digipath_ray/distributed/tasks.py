"""One Ray task per slide, tried again when its process dies."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.distributed.attempts import TooManyAttempts, explain
from digipath_ray.run.failure import Failure

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def for_each_slide(
    work: Callable[..., Result | Failure],
    rows: Sequence[SlideRow],
    root: str,
    settings: Any,
    *,
    attempts: int,
    step: str = "prepare",
    report: Callable[[int], None] = lambda n: None,
) -> dict[str, Result | Failure]:
    """Run ``work(root, row, settings)`` for every slide: slide_id -> result or failure.

    Args:
        work: a function that turns a slide's errors into its failure.
        rows: the slides.
        root: directory that ``work`` writes to.
        settings: sent to the cluster once.
        attempts: after so many crashes or hangs of its process a slide has failed.
        step: name of the work in a failure.
        report: called with the number of results so far.
    """
    results: dict[str, Result | Failure] = {}
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
            results[row.slide_id] = ray.get(ref)
        except ray.exceptions.RayError as e:  # its worker crashed, hung or was lost
            about = {"slide_id": row.slide_id, "step": step}
            log.warning(
                "%s: %s, try %d: %s", row.slide_id, step, attempt, e, extra=about
            )
            if attempt < attempts:
                todo.append((row, attempt + 1))
                continue
            lost = TooManyAttempts(attempt)
            results[row.slide_id] = explain(lost, row, step)
        report(len(results))
    return results
