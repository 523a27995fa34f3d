"""Outcomes recomputed from finished heatmaps: one Ray task per slide, no GPU."""

from collections.abc import Mapping

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.attempts import explain
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.outcome.measure import measured_with
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.listeners import RunListener
from digipath_ray.run.record import DoneRecord, SlideRecord

ATTEMPTS = 3


def try_remeasure(root: str, row: SlideRow, config: RunConfig) -> Failure | None:
    """Measure a finished slide again; the failure if it cannot be."""
    # Here, as the driver finishes no slide itself.
    from digipath_ray.pipeline.finish import remeasure_slide

    run = RunDirectory(root)
    try:
        remeasure_slide(run, run.read_record(row.slide_id), config)
    except Exception as e:
        return explain(e, row, "measure")
    return None


def find_stale(done: Mapping[str, DoneRecord], config: RunConfig) -> list[SlideRecord]:
    """Finished slides whose outcome was measured with other settings, or never."""
    now = measured_with(config)
    return [record.slide for record in done.values() if record.measured != now]


def remeasure_slides(
    run: RunDirectory,
    done: Mapping[str, DoneRecord],
    config: RunConfig,
    listener: RunListener,
) -> None:
    """Measure the finished slides again whose outcome is not by this config.

    Of those that cannot be measured the heatmap and the former outcome stay.

    Args:
        run: where they are finished.
        done: slide_id -> ``done`` record.
        config: of the run.
        listener: called as slides are measured or fail.
    """
    stale = find_stale(done, config)
    if not stale:
        return
    results = for_each_slide(
        try_remeasure,
        stale,
        str(run.root),
        config,
        step="measure",
        attempts=ATTEMPTS,
        report=lambda n: listener.measured(n, len(stale)),
    )
    for failure in results.values():
        if isinstance(failure, Failure):
            listener.failed(failure)
