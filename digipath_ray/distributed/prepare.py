"""Prepare a cohort: one Ray task per slide finds tissue and places patches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.attempts import explain, watched
from digipath_ray.distributed.fault import Patience
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.pipeline.prepare import prepare_slide
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.listeners import RunListener
from digipath_ray.run.patch_table import read_prepared
from digipath_ray.run.record import SlideRecord

Result = SlideRecord | Failure


def try_prepare(root: str, row: SlideRow, config: RunConfig) -> Result:
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
    listener: RunListener,
    *,
    patience: Patience | None = None,
) -> list[SlideRecord]:
    """Prepare every slide that an earlier start has not, in the cohort's order.

    Args:
        run: where masks and patch tables go.
        rows: the cohort.
        config: what to do.
        listener: called as slides are prepared or fail.
        patience: waits for what is no slide's fault.
    """
    with ThreadPoolExecutor(READERS) as pool:
        ready = list(pool.map(lambda row: read_prepared(run, row, config), rows))
    results: dict[str, Result] = {p.slide_id: p for p in ready if p is not None}
    before = len(results)
    results |= for_each_slide(
        try_prepare,
        [row for row in rows if row.slide_id not in results],
        str(run.root),
        config,
        attempts=config.compute.attempts,
        patience=patience,
        report=lambda n: listener.prepared(before + n, len(rows)),
    )
    prepared = []
    for row in rows:
        result = results[row.slide_id]
        if isinstance(result, Failure):
            listener.failed(result)
        else:
            prepared.append(result)
    return prepared
