"""Outcomes recomputed from finished heatmaps: one Ray task per slide, no GPU."""

from collections.abc import Mapping, Sequence

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed.attempts import explain
from digipath_ray.distributed.connect import connected, describe_place
from digipath_ray.distributed.ending import (
    Summary,
    leave_out,
    patient_notes,
    stop_if_lost,
    write_what_is_finished,
)
from digipath_ray.distributed.heartbeat import Heartbeat
from digipath_ray.distributed.nodes import check_all_see
from digipath_ray.distributed.tasks import for_each_slide
from digipath_ray.networks.notes import member_notes
from digipath_ray.outcome.measure import measured_with
from digipath_ray.outcome.tables import stage_model_of
from digipath_ray.pipeline.prepare import marker_of
from digipath_ray.report import write_report
from digipath_ray.run.amended import (
    amend_records,
    drop_others,
    with_earlier,
    write_cohort,
)
from digipath_ray.run.checksums import seal, sums_file, unseal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.listeners import FailureLog, Listeners, RunListener
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


def remeasure_run(
    run: RunDirectory,
    config: RunConfig,
    *,
    rows: Sequence[SlideRow] | None = None,
    drop: bool = False,
    listener: RunListener | None = None,
) -> Summary:
    """Recompute a finished run's outcomes from its heatmaps alone.

    Args:
        run: the directory of the run.
        config: of the run, with another [outcome].
        rows: slides as a manifest describes them now; None leaves them as they are.
        drop: take slides that ``rows`` does not name out of the run.
        listener: called as the run goes on.

    Raises:
        RunError: the directory is in use, or no slide of it is finished.
        ValueError: the stage model does not fit the run.
    """
    stage_model_of(config)
    with run.lock() as held:
        finished = run.finished_ids()
        run.check_settings(to_tree(config), finished, overwrite=False)
        if finished:  # else it is refused below
            unseal(run)
        changes: list[str] = []
        if rows is not None:
            changes += drop_others(run, rows, drop=drop)
        done = run.read_done()
        if not done:
            raise RunError(f"{run.root}: no slide is finished yet: digipath run first")
        if rows is not None:
            rows = with_earlier(run, rows)
            done, amended = amend_records(run, rows, done, mark=marker_of(config))
            changes += amended
            known = [row for row in rows if row.slide_id in done]
            write_cohort(run, known, drop=drop)
        run.record_settings(to_tree(config), list(done), overwrite=False)
        failures = FailureLog()
        with Heartbeat(run, slides=len(done), skipped=len(done)) as beat:
            heard = Listeners(failures, beat, listener or RunListener())
            _measure_again(run, done, config, heard)
            stop_if_lost(run, held)
            tables = write_what_is_finished(run, list(done), failures, config)
            unwritten = leave_out(run.report, lambda: write_report(run))
        unwritten += leave_out(sums_file(run), lambda: seal(run))
    return Summary(
        run=run,
        slides=len(done),
        skipped=0,
        outcomes=tables.outcomes,
        patients=tables.patients,
        failures=failures.failures,
        changes=changes,
        notes=[*member_notes(config), *patient_notes(tables.outcomes, config)],
        unwritten=unwritten,
    )


def _measure_again(
    run: RunDirectory,
    done: Mapping[str, DoneRecord],
    config: RunConfig,
    listener: RunListener,
) -> None:
    """Measure stale slides on Ray, which is started for them alone."""
    if not find_stale(done, config):
        return
    cpus = config.compute.cpus
    with connected(cpus):
        listener.placed(describe_place(cpus))
        check_all_see(run)
        remeasure_slides(run, done, config, listener)
