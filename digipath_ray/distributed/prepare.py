"""Prepare a cohort: one Ray task per slide finds tissue and places patches."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import ray

from digipath_ray.cohort import SlideRow
from digipath_ray.config import RunConfig
from digipath_ray.distributed.guard import TooManyAttempts, explain, watched
from digipath_ray.prepared import PreparedSlide, prepare_slide, read_prepared
from digipath_ray.rundir import Failure, RunDirectory

log = logging.getLogger(__name__)

Answer = PreparedSlide | Failure


def prepare_guarded(root: str, row: SlideRow, config: RunConfig) -> Answer:
    """The prepared slide, or why it cannot be; ends its process if it hangs."""
    try:
        with watched(config.compute.read_timeout_s) as rewind:
            return prepare_slide(row, config, RunDirectory(root), on_progress=rewind)
    except Exception as e:
        return explain(e, vars(row), "prepare")


def prepare_cohort(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    config: RunConfig,
    *,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[list[PreparedSlide], list[Failure]]:
    """Prepare every slide that an earlier start has not, in the cohort's order.

    Args:
        run: where masks and patch tables go.
        rows: the cohort.
        config: what to do.
        report: called with the number of slides prepared so far.
    """
    answers: dict[str, Answer] = {}
    todo: deque[tuple[SlideRow, int]] = deque()
    for row in rows:
        ready = read_prepared(run, row, config)
        if ready is None:
            todo.append((row, 1))
        else:
            answers[row.slide_id] = ready
    task = ray.remote(num_cpus=1, max_retries=0)(prepare_guarded)
    settings = ray.put(config)
    at_once = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    active: dict[ray.ObjectRef, tuple[SlideRow, int]] = {}
    while todo or active:
        while todo and len(active) < at_once:
            row, attempt = todo.popleft()
            active[task.remote(str(run.root), row, settings)] = (row, attempt)
        (ref,), _ = ray.wait(list(active), num_returns=1)
        row, attempt = active.pop(ref)
        try:
            answers[row.slide_id] = ray.get(ref)
        except ray.exceptions.RayError as e:  # its worker crashed, hung or was lost
            log.warning("%s: preparing, try %d: %s", row.slide_id, attempt, e)
            if attempt < config.compute.attempts:
                todo.append((row, attempt + 1))
                continue
            lost = TooManyAttempts(attempt)
            answers[row.slide_id] = explain(lost, vars(row), "prepare")
        report(len(answers))
    ordered = [answers[row.slide_id] for row in rows]
    return (
        [a for a in ordered if isinstance(a, PreparedSlide)],
        [a for a in ordered if isinstance(a, Failure)],
    )
