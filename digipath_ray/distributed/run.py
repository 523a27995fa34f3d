"""A cohort from slides to outcomes in one call, resumable at every point."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ray

from digipath_ray import schema
from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.config.member import FROM_FILE
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed.connect import connected, describe_place
from digipath_ray.distributed.ending import (
    LeaseCheck,
    Summary,
    leave_out,
    patient_notes,
    stop_if_lost,
    write_what_is_finished,
)
from digipath_ray.distributed.fault import Patience
from digipath_ray.distributed.heartbeat import Heartbeat
from digipath_ray.distributed.inference import segment_cohort
from digipath_ray.distributed.nodes import check_all_see, has_several_nodes
from digipath_ray.distributed.out_of_fold import by_members, overlap_notes
from digipath_ray.distributed.prepare import prepare_cohort
from digipath_ray.distributed.remeasure import find_stale, remeasure_slides
from digipath_ray.distributed.resources import Share, describe_work, divide, fit_chunks
from digipath_ray.distributed.throughput import count_ends, measure
from digipath_ray.machine import check_compiler
from digipath_ray.networks.notes import member_notes, stain_notes
from digipath_ray.networks.seen_slides import read_exposure
from digipath_ray.outcome.tables import stage_model_of
from digipath_ray.pipeline.prepare import mark_seen, marker_of
from digipath_ray.report import write_report
from digipath_ray.run.amended import (
    amend_records,
    drop_others,
    with_earlier,
    write_cohort,
)
from digipath_ray.run.checksums import seal, sums_file, unseal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.identity import hold_against_files
from digipath_ray.run.listeners import FailureLog, Listeners, RunListener, Tally
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.schema import SLIDES
from digipath_ray.storage.files import read_rows


def run_cohort(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    config: RunConfig,
    *,
    overwrite: bool = False,
    predict: bool = True,
    drop: bool = False,
    listener: RunListener | None = None,
) -> Summary:
    """Prepare and segment every slide of a cohort that is not finished yet.

    Args:
        run: the directory of the run.
        rows: the cohort.
        config: what to do, resolved (:func:`digipath_ray.networks.resolve.resolve`).
        overwrite: process again what an earlier start finished.
        predict: False stops after tissue masks and patch tables.
        drop: take slides of earlier starts that ``rows`` does not name out of tables,
            stages and report; their heatmaps stay.
        listener: called as the run goes on.

    Raises:
        RunError: the directory is in use, not writable, or of another config; or
            something other than a slide ended the run. What was finished stays.
    """
    stage_model_of(config)  # refused now, not when the networks are done
    ids = [row.slide_id for row in rows]
    with run.lock() as held:
        run.create()
        run.check_settings(to_tree(config), ids, overwrite=overwrite)
        unseal(run)  # not by a start that is refused
        run.record_settings(to_tree(config), ids, overwrite=overwrite)
        rows = with_earlier(run, rows)
        notes = drop_others(run, rows, drop=drop)
        done = run.read_done()
        done, compared = hold_against_files(run, rows, done)
        done, amended = amend_records(run, rows, done, mark=marker_of(config))
        write_cohort(run, rows, drop=drop)
        pending = [row for row in rows if row.slide_id not in done]
        skipped = len(rows) - len(pending)
        failures = FailureLog()
        unwritten: list[str] = []
        with Heartbeat(run, slides=len(rows), skipped=skipped) as beat:
            heard = Listeners(
                LeaseCheck(run, held), failures, beat, listener or RunListener()
            )
            try:
                metrics = _work(run, pending, done, config, heard, predict=predict)
            finally:  # the tables hold what is finished, however this ends
                if not held.lost.is_set():
                    tables = write_what_is_finished(run, ids, failures, config)
            stop_if_lost(run, held)
            if predict:
                unwritten += leave_out(run.report, lambda: write_report(run))
        unwritten += leave_out(sums_file(run), lambda: seal(run))
    return Summary(
        run=run,
        slides=len(rows),
        skipped=skipped,
        outcomes=[row for row in tables.outcomes if row["slide_id"] in set(ids)],
        patients=tables.patients,
        failures=failures.failures,
        metrics=metrics,
        changes=[*notes, *compared, *amended],
        notes=[
            *member_notes(config),
            *stain_notes(config),
            *overlap_notes(rows, config),
            *patient_notes(tables.outcomes, config),
        ],
        unwritten=unwritten,
    )


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
            _work(run, [], done, config, heard, predict=False)
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


def _work(
    run: RunDirectory,
    pending: Sequence[SlideRow],
    done: Mapping[str, DoneRecord],
    config: RunConfig,
    listener: RunListener,
    *,
    predict: bool,
) -> dict[str, Any]:
    """Whatever needs Ray: measure finished slides, prepare and segment the others.

    Returns:
        What metrics.json holds; empty if nothing was predicted.
    """
    if not pending and not find_stale(done, config):
        return {}
    cpus = config.compute.cpus
    with connected(cpus):
        listener.placed(describe_place(cpus))
        check_all_see(run)
        remeasure_slides(run, done, config, listener)
        return _segment(run, pending, done, config, listener, predict=predict)


def _segment(
    run: RunDirectory,
    pending: Sequence[SlideRow],
    done: Mapping[str, DoneRecord],
    config: RunConfig,
    listener: RunListener,
    *,
    predict: bool,
) -> dict[str, Any]:
    """Prepare and segment the pending slides; what metrics.json holds."""
    if not pending:
        return {}
    started = time.monotonic()
    log = FailureLog()
    listener = Listeners(log, listener)
    share = divide(config)
    if config.compute.compile_networks and not has_several_nodes(
        ray.cluster_resources()
    ):
        check_compiler()  # of other nodes it is known when an actor is there
    config = fit_chunks(settle_precision(config, share, done), share)
    exposure = read_exposure(config.members)
    patience = Patience()
    prepared = prepare_cohort(run, pending, config, listener, patience=patience)
    slides = [mark_seen(slide, exposure) for slide in prepared]
    run.write_table(run.slides, merge_slides(run, slides, pending), schema.SLIDES)
    prepare_seconds = time.monotonic() - started
    if not (predict and slides):
        if predict:
            ends = count_ends(len(pending), log.failures, patience.met)
            run.write_json(run.metrics, ends)
        return {}
    patches = sum(slide.patches for slide in slides)
    listener.planned(len(slides), patches)
    listener.started(describe_work(config, share, patches=patches))
    tally = Tally(planned=patches)
    for members, part in by_members(slides, config, listener):
        own = replace(config, members=members)
        segment_cohort(run, part, own, share, listener, tally=tally, patience=patience)
    metrics = {
        **count_ends(len(pending), log.failures, patience.met),
        **measure(tally, config, share, prepare_seconds=prepare_seconds),
    }
    run.write_json(run.metrics, metrics)
    return metrics


def settle_precision(
    config: RunConfig, share: Share, done: Mapping[str, DoneRecord]
) -> RunConfig:
    """The config with ``auto`` decided by what the networks are and run on.

    Networks from files compute in their own numbers: beside others they are, in the
    record, of the precision of these.

    Raises:
        RunError: slides were finished in another precision.
    """
    precision = config.compute.precision
    if precision == "auto":
        kinds = {member.architecture for member in config.members}
        files = kinds and kinds <= {*FROM_FILE}
        precision = "float16" if share.actor_gpus > 0 and not files else "float32"
    others = {record.precision for record in done.values()} - {precision}
    if others:
        raise RunError(
            f"slides were finished in {', '.join(sorted(others))}, the others would be "
            f"in {precision} here: give --precision {min(others)}, or another --out"
        )
    return replace(config, compute=replace(config.compute, precision=precision))


def merge_slides(
    run: RunDirectory, slides: Sequence[SlideRecord], tried: Sequence[SlideRow]
) -> list[dict[str, Any]]:
    """Rows of the SLIDES table: those of earlier starts that this one is not about."""
    ids = {row.slide_id for row in tried}
    before = read_rows(run.slides, SLIDES) if run.slides.exists() else []
    kept = [row for row in before if row["slide_id"] not in ids]
    return kept + [slide.to_row() for slide in slides]
