"""Prepare a cohort: one Ray task per slide finds tissue and places patches."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from digipath_ray.cohort.read import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.attempts import explain, watched
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.pipeline.prepare import prepare_slide
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.prepared import read_prepared
from digipath_ray.run.record import SlideRecord

Answer = SlideRecord | Failure


def try_prepare(root: str, row: SlideRow, config: RunConfig) -> Answer:
    """The prepared slide, or why it cannot be; ends its process if it hangs."""
    try:
        with watched(config.compute.read_timeout_s) as rewind:
            return prepare_slide(row, config, RunDirectory(root), on_progress=rewind)
    except Exception as e:
        return explain(e, row, "prepare")


def prepare_cohort(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    config: RunConfig,
    *,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[list[SlideRecord], list[Failure]]:
    """Prepare every slide that an earlier start has not, in the cohort's order.

    Args:
        run: where masks and patch tables go.
        rows: the cohort.
        config: what to do.
        report: called with the number of slides prepared so far.
    """
    with ThreadPoolExecutor(READERS) as pool:
        ready = list(pool.map(lambda row: read_prepared(run, row, config), rows))
    answers: dict[str, Answer] = {p.slide_id: p for p in ready if p is not None}
    before = len(answers)
    answers |= for_each_slide(
        try_prepare,
        [row for row in rows if row.slide_id not in answers],
        str(run.root),
        config,
        attempts=config.compute.attempts,
        report=lambda n: report(before + n),
    )
    ordered = [answers[row.slide_id] for row in rows]
    return (
        [a for a in ordered if isinstance(a, SlideRecord)],
        [a for a in ordered if isinstance(a, Failure)],
    )
