"""A cohort from slides to outcomes in one call, resumable at every point."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from digipath_ray import schema
from digipath_ray.cohort.manifest import read_manifest, write_manifest
from digipath_ray.cohort.read import SlideRow
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed.collector import Tally
from digipath_ray.distributed.connect import connected
from digipath_ray.distributed.heartbeat import Heartbeat
from digipath_ray.distributed.inference import segment_cohort
from digipath_ray.distributed.nodes import check_all_see
from digipath_ray.distributed.out_of_fold import by_members, overlap_notes
from digipath_ray.distributed.prepare import prepare_cohort
from digipath_ray.distributed.remeasure import find_stale, remeasure_slides
from digipath_ray.distributed.resources import Share, describe_work, divide, fit_chunks
from digipath_ray.distributed.throughput import count_ends, measure
from digipath_ray.distributed.watcher import Watcher, both
from digipath_ray.networks.exposure import read_exposure
from digipath_ray.networks.notes import member_notes
from digipath_ray.outcome.staging import PatientStage
from digipath_ray.outcome.tables import stage_model_of, write_tables
from digipath_ray.pipeline.prepare import mark_seen
from digipath_ray.report import write_report
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError, RunStopped
from digipath_ray.run.prepared import PreparedSlide, digest_mask
from digipath_ray.storage.files import publish, read_table
from digipath_ray.storage.lease import Held

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended.

    Attributes:
        run: its directory.
        slides: of the cohort.
        skipped: finished by an earlier start.
        outcomes: rows of the OUTCOMES table, of the cohort's slides that are finished.
        patients: stages of all patients in the directory, where they are asked for.
        failures: of this start.
        metrics: what metrics.json says of this start; empty if nothing was predicted.
        notes: why its heatmaps are no predictions; mostly empty.
    """

    run: RunDirectory
    slides: int
    skipped: int
    outcomes: list[dict[str, Any]]
    patients: list[PatientStage] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_cohort(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    config: RunConfig,
    *,
    overwrite: bool = False,
    predict: bool = True,
    watcher: Watcher | None = None,
) -> Summary:
    """Prepare and segment every slide of a cohort that is not finished yet.

    Args:
        run: the directory of the run.
        rows: the cohort.
        config: what to do, resolved (:func:`digipath_ray.networks.resolve.resolve`).
        overwrite: make again what an earlier start finished.
        predict: False stops after tissue masks and patch tables.
        watcher: told of the progress.

    Raises:
        RunError: the directory is in use, not writable, or of another config; or what
            ended the run was no slide's fault. What was finished stays.
    """
    watcher = watcher or Watcher()
    stage_model_of(config)  # refused now, not in the morning
    with run.lock() as held, contextlib.ExitStack() as alive:
        run.create()
        run.agree(to_tree(config), [r.slide_id for r in rows], overwrite=overwrite)
        done = run.read_done()
        check_same_slides(rows, done)
        note_cohort(run, rows)
        pending = [r for r in rows if r.slide_id not in done]
        metrics: dict[str, Any] = {}
        failures: list[Failure] = []
        skipped = len(rows) - len(pending)
        beat = Heartbeat(run, slides=len(rows), skipped=skipped, failures=failures)
        watcher = both(watcher, alive.enter_context(beat))
        watcher = replace(watcher, tallied=while_held(run, held, watcher.tallied))
        ids = [r.slide_id for r in rows]
        try:
            if pending or find_stale(done, config):
                with connected():
                    check_all_see(run)
                    failures += remeasure_slides(
                        run, done, config, report=watcher.measured
                    )
                    if pending:
                        metrics = _work(
                            run, pending, config, watcher, predict, done, failures
                        )
        finally:  # the tables say what stands, however this ends
            if not held.lost.is_set():
                run.write_failures(ids, failures)
                tables = write_tables(run, config)
        stop_if_lost(run, held)
        if predict:
            write_report(run)
        return Summary(
            run=run,
            slides=len(rows),
            skipped=skipped,
            outcomes=[row for row in tables.outcomes if row["slide_id"] in set(ids)],
            patients=tables.patients,
            failures=failures,
            metrics=metrics,
            notes=[
                *member_notes(config),
                *overlap_notes(rows, config),
                *patient_notes(tables.outcomes, config),
            ],
        )


def while_held(
    run: RunDirectory, held: Held, tallied: Callable[[Tally], None]
) -> Callable[[Tally], None]:
    """``tallied``, which ends the run once another one has the directory."""

    def checked(tally: Tally) -> None:
        stop_if_lost(run, held)
        tallied(tally)

    return checked


def stop_if_lost(run: RunDirectory, held: Held) -> None:
    """End a run whose directory another one has taken over.

    Raises:
        RunStopped: it has.
    """
    if held.lost.is_set():
        raise RunStopped(
            f"{run.root} was taken over by another run, as this one could not renew "
            "its lease: see that only one runs, then run again"
        )


def remeasure_run(
    run: RunDirectory, config: RunConfig, *, watcher: Watcher | None = None
) -> Summary:
    """Make a finished run's outcomes anew, from its heatmaps alone.

    Args:
        run: the directory of the run.
        config: of the run, with another [outcome].
        watcher: told of the progress.

    Raises:
        RunError: the directory is in use, or no slide of it is finished.
        ValueError: the stage model does not fit the run.
    """
    watcher = watcher or Watcher()
    stage_model_of(config)
    with run.lock() as held, contextlib.ExitStack() as alive:
        done = run.read_done()
        if not done:
            raise RunError(f"{run.root}: no slide is finished yet: digipath run first")
        run.agree(to_tree(config), list(done), overwrite=False)
        failures: list[Failure] = []
        beat = Heartbeat(run, slides=len(done), skipped=len(done), failures=failures)
        watcher = both(watcher, alive.enter_context(beat))
        if find_stale(done, config):
            with connected():
                check_all_see(run)
                failures += remeasure_slides(run, done, config, report=watcher.measured)
        stop_if_lost(run, held)
        run.write_failures(list(done), failures)
        tables = write_tables(run, config)
        write_report(run)
    return Summary(
        run=run,
        slides=len(done),
        skipped=0,
        outcomes=tables.outcomes,
        patients=tables.patients,
        failures=failures,
        notes=[*member_notes(config), *patient_notes(tables.outcomes, config)],
    )


def patient_notes(outcomes: Sequence[dict[str, Any]], config: RunConfig) -> list[str]:
    """Why no patient has a stage, where stages are asked for."""
    if config.outcome.outcome != "stage" or not outcomes:
        return []
    if any(row["patient_id"] is not None for row in outcomes):
        return []
    return [
        "no slide names its patient, so there is no pN stage: give a manifest with "
        "the column patient_id"
    ]


def check_same_slides(
    rows: Sequence[SlideRow], done: dict[str, dict[str, Any]]
) -> None:
    """Refuse a cohort in which a finished slide_id now names something else."""
    for row in rows:
        record = done.get(row.slide_id)
        if record is None:
            continue
        before = {
            "path": os.path.realpath(record["slide"]["path"]),
            "mpp": record["slide_mpp"],
            "mask": record["mask_digest"],
        }
        now = {
            "path": os.path.realpath(row.path),
            "mpp": row.mpp,
            "mask": digest_mask(row),
        }
        changed = [f"{k}: {before[k]} -> {now[k]}" for k in now if before[k] != now[k]]
        if changed:
            raise RunError(
                f"{row.slide_id} was finished from another slide, mpp or mask "
                f"({', '.join(changed)}): choose another --out, or --overwrite"
            )


def _work(
    run: RunDirectory,
    pending: Sequence[SlideRow],
    config: RunConfig,
    watcher: Watcher,
    predict: bool,
    done: dict[str, dict[str, Any]],
    failures: list[Failure],
) -> dict[str, Any]:
    """Prepare and segment the pending slides, adding to ``failures``; the metrics."""
    started = time.time()
    share = divide(config)
    config = fit_chunks(settle_precision(config, share, done), share)
    slides, lost = prepare_cohort(
        run, pending, config, report=lambda n: watcher.prepared(n, len(pending))
    )
    failures += lost
    exposure = read_exposure(config.members)
    slides = [mark_seen(slide, exposure) for slide in slides]
    run.write_table(run.slides, merge_slides(run, slides, pending), schema.SLIDES)
    prepare_seconds = time.time() - started
    if not (predict and slides):
        return {}
    patches = sum(s.row["patches"] for s in slides)
    watcher.planned(len(slides), patches)
    watcher.started(describe_work(config, share, patches=patches))
    tally = Tally(planned=patches)
    for members, part in by_members(slides, config, failures):
        segment_cohort(
            run,
            part,
            replace(config, members=members),
            share,
            failures,
            report=watcher.tallied,
            tally=tally,
        )
    metrics = {
        **count_ends(len(pending), failures),
        **measure(tally, config, share, prepare_seconds=prepare_seconds),
    }
    run.write_json(run.metrics, metrics)
    return metrics


def settle_precision(
    config: RunConfig, share: Share, done: dict[str, dict[str, Any]]
) -> RunConfig:
    """The config with ``auto`` decided by what the networks run on.

    Raises:
        RunError: slides were finished in another precision.
    """
    precision = config.compute.precision
    if precision == "auto":
        precision = "float16" if share.actor_gpus > 0 else "float32"
    others = {record["precision"] for record in done.values()} - {precision}
    if others:
        raise RunError(
            f"slides were finished in {', '.join(sorted(others))}, the others would be "
            f"in {precision} here: give --precision {min(others)}, or another --out"
        )
    return replace(config, compute=replace(config.compute, precision=precision))


def note_cohort(run: RunDirectory, rows: Sequence[SlideRow]) -> None:
    """Write the manifest, with the slides of earlier starts that this is not about."""
    ids = {row.slide_id for row in rows}
    found = read_manifest(run.manifest) if run.manifest.exists() else []
    kept = [row for row, _ in found if row.slide_id not in ids]
    with publish(run.manifest) as path:
        write_manifest([*kept, *rows], path)


def merge_slides(
    run: RunDirectory, slides: Sequence[PreparedSlide], tried: Sequence[SlideRow]
) -> list[dict[str, Any]]:
    """Rows of the SLIDES table: those of earlier starts that this one is not about."""
    ids = {row.slide_id for row in tried}
    before = read_table(run.slides).to_pylist() if run.slides.exists() else []
    kept = [row for row in before if row["slide_id"] not in ids]
    return kept + [slide.row for slide in slides]
