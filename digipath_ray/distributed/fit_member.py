"""Fit of one member on Ray Train: workers, their feed, and checkpoints.

After every epoch all workers report and the first writes a checkpoint, from which Ray
Train resumes when a worker or node is lost.
"""

import contextlib
import io
import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import ray
import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    ScalingConfig,
)
from ray.train.torch import TorchTrainer, get_device

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.cohort.pseudonyms import hide_files
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.run import contexts_of
from digipath_ray.distributed.cause import cause_of
from digipath_ray.distributed.fit_feed import Feed
from digipath_ray.distributed.nodes import has_several_nodes
from digipath_ray.distributed.resources import floor_cpus
from digipath_ray.machine import keep_freed_memory
from digipath_ray.run.failure import Failure, RunError, explain_os_error
from digipath_ray.storage.files import publish, read_text
from digipath_ray.training.checkpoints import storage_of
from digipath_ray.training.conclusion import (
    conclude,
    keep_best,
    load_best,
    write_progress,
)
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.fit import FitStopped, MemberFit
from digipath_ray.training.folds import Folds
from digipath_ray.training.sampled import fitted_samples, own_samples

log = logging.getLogger(__name__)

STATE = "fit.pt"
UNSAVED = "cannot write a checkpoint"
REASON_LENGTH = 200
"""Maximum characters of an error: Ray Train truncates long lines to their end."""


@dataclass(frozen=True, kw_only=True)
class FitShare:
    """Resources that each process of a fit requests from Ray."""

    workers: int
    worker_cpus: float
    worker_gpus: float
    threads: int
    readers: int
    reader_cpus: float
    members_at_once: int


def divide_fit(recipe: Recipe, members: int) -> FitShare:
    """Divide the cluster among a fit's processes: one GPU each, CPUs for readers."""
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
    fit = recipe.fit
    worker_gpus = fit.worker_gpus
    if worker_gpus is None:
        worker_gpus = 1.0 if gpus >= 1 else 0.0
    at_once = fit.members_at_once or (
        max(1, int(gpus / worker_gpus / fit.workers)) if worker_gpus > 0 else 1
    )
    processes = fit.workers * min(at_once, max(members, 1))
    # One whole CPU is left for Ray Data's own tasks, which request no less.
    spare = max(0.0, cpus - 1)
    worker_cpus = floor_cpus(min(1.0, spare / (2 * processes)))
    each = (spare - worker_cpus * processes) / processes
    readers = fit.readers or max(1, int(each))
    return FitShare(
        workers=fit.workers,
        worker_cpus=worker_cpus,
        worker_gpus=worker_gpus,
        threads=max(1, int(cpus / processes) - readers),
        readers=readers,
        reader_cpus=floor_cpus(min(1.0, each / readers)),
        members_at_once=at_once,
    )


def check_gpus(wanted: float, have: Mapping[str, float]) -> None:
    """Say that GPUs are waited for; refuse where none can come.

    Args:
        wanted: GPUs of all workers of a member together.
        have: resources of the cluster.

    Raises:
        RunError: this machine is alone, and has fewer.
    """
    gpus = have.get("GPU", 0.0)
    if wanted <= gpus:
        return
    text = f"the workers of a member need {wanted:g} GPUs, and there are {gpus:g}"
    fix = "lower --worker-gpus (0 is the CPU) or --workers"
    if not has_several_nodes(have):
        raise RunError(f"{text} on this machine: {fix}")
    log.warning("%s in the cluster: waiting for nodes to join; or %s", text, fix)


def fit_member(
    root: str,
    index: int,
    recipe: Recipe,
    rows: Sequence[SlideRow],
    folds: Folds,
    share: FitShare,
) -> str | None:
    """Fit one member by Ray Train; returns the error if it ended early."""
    directory, name = FitDirectory(root), recipe.members[index].name
    storage_path, filesystem = storage_of(directory.checkpoints)
    trainer = TorchTrainer(
        fit_worker,
        train_loop_config={
            "root": root,
            "index": index,
            "recipe": recipe,
            "rows": rows,
            "split": folds.split_of(index),
            "share": share,
        },
        scaling_config=ScalingConfig(
            num_workers=share.workers,
            use_gpu=share.worker_gpus > 0,
            resources_per_worker={
                "CPU": share.worker_cpus,
                **({"GPU": share.worker_gpus} if share.worker_gpus > 0 else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=recipe.fit.restarts),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    directory.stopped(name).unlink(missing_ok=True)
    try:
        with _interrupts_as_before():
            trainer.fit()
    except ray.train.TrainingFailedError as e:
        return _cause_of_fit(e)
    if directory.stopped(name).exists():
        return str(json.loads(read_text(directory.stopped(name))))
    return None


@contextlib.contextmanager
def _interrupts_as_before() -> Iterator[None]:
    """Put the handler of SIGINT back that was there.

    Ray Train's own stays after a fit, and through it the process of the fit's
    controller, of a gigabyte (findings/ray_train_controller_outlives_fit.sh).
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # then Ray Train sets none
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _cause_of_fit(error: BaseException) -> str:
    """What ended a fit; a full disk comes first, as others follow from it."""
    lines = [line.strip() for line in str(error).splitlines()]
    full = next((x for x in lines if UNSAVED in x or "No space left" in x), None)
    return full or cause_of(error)


def fit_worker(work: dict[str, Any]) -> None:
    """Training process of a member, started by Ray Train."""
    directory = FitDirectory(work["root"])
    recipe: Recipe = work["recipe"]
    share: FitShare = work["share"]
    spec, split = recipe.members[work["index"]], work["split"]
    rank = ray.train.get_context().get_world_rank()
    keep_freed_memory()
    torch.set_num_threads(share.threads)
    torch.manual_seed(recipe.fit.seed + rank)
    fit = MemberFit(spec, recipe, get_device())
    _take_up(fit)
    feed = Feed(
        directory=directory,
        recipe=recipe,
        fit=fitted_samples(directory, split.fit),
        validation=own_samples(directory, split.validation),
        rank=rank,
        workers=share.workers,
        readers=share.readers,
        reader_cpus=share.reader_cpus,
        contexts=contexts_of([spec]),
    )
    try:
        while not fit.finished:
            _fit_one_epoch(fit, feed, directory, work["rows"])
    except FitStopped as e:
        if rank == 0:
            _leave_batch(directory, fit, feed, e.batch)
            directory.write_json(directory.stopped(spec.name), str(e))
        return
    load_best(directory, fit)
    _, histogram = fit.validate(feed.validate())
    if rank == 0:
        conclude(directory, fit, histogram, split, work["rows"])


def _take_up(fit: MemberFit) -> None:
    """Resume from the last checkpoint, if any."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{STATE}") as file:
        state = io.BytesIO(file.read())
    fit.restore(torch.load(state, map_location=fit.device, weights_only=True))


def _fit_one_epoch(
    fit: MemberFit, feed: Feed, directory: FitDirectory, rows: Sequence[SlideRow]
) -> None:
    """Fit, validate, keep the best weights, and write a checkpoint."""
    row = fit.fit_epoch(feed.epoch(fit.epoch))
    mark_unread(directory, rows, row.pop("errors"))
    validation, _ = fit.validate(feed.validate())
    best = fit.end_epoch({**row, **validation})
    metrics = {"epoch": row["epoch"], "validation_loss": validation["validation_loss"]}
    if feed.rank != 0:
        ray.train.report(metrics)
        return
    checkpoint = save_epoch(directory, fit, best=best)
    ray.train.report(
        metrics,
        checkpoint=checkpoint,
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )
    write_progress(directory, fit)


def save_epoch(directory: FitDirectory, fit: MemberFit, *, best: bool) -> Checkpoint:
    """Write a checkpoint, and the weights if they are the best so far.

    Raises:
        OSError: says that a checkpoint cannot be written, and why.
    """
    try:
        if best:
            keep_best(directory, fit)
        return leave_checkpoint(directory, fit)
    except OSError as e:
        reason = str(e)[:REASON_LENGTH]
        raise OSError(f"{UNSAVED}: {reason}; {explain_os_error(e)}") from e


def leave_checkpoint(directory: FitDirectory, fit: MemberFit) -> Checkpoint:
    """Write a checkpoint to Ray Train's storage.

    Not with Ray Train's own upload: it copies with pyarrow, which does not report
    objects that a bucket rejected.

    Raises:
        OSError: the checkpoint cannot be written.
    """
    folder = directory.checkpoints / fit.spec.name / f"epoch_{fit.epoch:04}"
    # Serialized in memory first: on a full disk torch's writer hides the cause.
    state = io.BytesIO()
    torch.save(fit.state(), state)
    with publish(folder / STATE) as path:
        path.write_bytes(state.getbuffer())
    path_there, filesystem = storage_of(folder)
    return Checkpoint(path_there, filesystem)


def mark_unread(
    directory: FitDirectory, rows: Sequence[SlideRow], errors: dict[str, str]
) -> None:
    """Mark each slide with an unreadable patch."""
    by_id = {row.slide_id: row for row in rows}
    for slide_id, error in errors.items():
        row = by_id[slide_id]
        hint = "the file is damaged or truncated: copy it again"
        failure = Failure(
            slide_id=slide_id,
            path=row.path,
            patient_id=row.patient_id,
            step="read",
            attempt=1,
            error=hide_files(error, row),
            hint=hint,
        )
        with contextlib.suppress(OSError):  # a full disk is reported elsewhere
            directory.mark_unread(failure)


def _leave_batch(
    directory: FitDirectory, fit: MemberFit, feed: Feed, batch: int | None
) -> None:
    """Save the batch at which a fit stopped, for inspection."""
    if batch is None:
        return
    draws = feed.draws(fit.epoch)
    rows = draws.filter(pc.equal(draws["batch"], batch))
    with contextlib.suppress(OSError):
        directory.write_arrow(directory.unusual(fit.spec.name), rows)
