"""The streaming plan: shards of slides -> chunks of pixels -> members -> heatmaps.

    shards -> read (CPU tasks) -> predict (actor pools) -> the driver
    collects a slide's rows -> one finish task per complete slide

Every stage is stateless and deterministic, so Ray may run any of it again; what must be
remembered is remembered by the driver.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.cause import cause_of
from digipath_ray.distributed.collector import Collector
from digipath_ray.distributed.fairness import fair
from digipath_ray.distributed.fault import Patience, cause_of_error, fresh_process
from digipath_ray.distributed.ledger import Ledger, SharedLedger, share_ledger
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.read import read_shard, shard_table
from digipath_ray.distributed.resources import Share
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import OUTSIDE, SLIDE, Failure, RunStopped
from digipath_ray.run.listeners import RunListener, Tally
from digipath_ray.run.record import SlideRecord

PLAN_ERRORS = (
    ray.exceptions.RayError,
    ray.exceptions.UserCodeException,
    SystemException,
    ExecutionTimeoutError,
)
"""What Ray Data raises when it cannot go on."""


def lay_plan(
    run: RunDirectory,
    shards: pa.Table,
    config: RunConfig,
    share: Share,
    ledger: Ledger,
    *,
    alone: bool = False,
) -> Dataset:
    """The lazy Ray Data plan from a SHARDS table to summed chunks.

    Where it is for a slide ``alone``, its processes have done nothing before.
    """
    fresh = fresh_process() if alone else {}
    readers = len(shards) if share.more_readers else min(share.readers, len(shards))
    actors = actor_pool(share, sum(shards["chunks"].to_pylist()))
    with DataContext.current(plan_context(config)):
        # Not read_parquet: it starts a pool of processes to read one footer.
        rows = ray.data.from_arrow(shards)
    plan = rows.repartition(target_num_rows_per_block=1).map_batches(
        read_shard,
        batch_size=1,
        fn_kwargs={"root": str(run.root), "config": config, "ledger": ledger},
        compute=TaskPoolStrategy(size=readers),
        num_cpus=share.reader_cpus,
        **fresh,
    )
    whole = config.compute.pools == "shared"
    pools = [config.members] if whole else [(m,) for m in config.members]
    for members in pools:
        plan = plan.map_batches(
            PredictStage,
            batch_size=1,
            fn_constructor_args=(ledger, members, members is pools[-1], config, share),
            compute=actors,
            num_cpus=share.actor_cpus,
            num_gpus=share.actor_gpus,
            **fresh,
        )
    return plan


def actor_pool(share: Share, chunks: int) -> ActorPoolStrategy:
    """A pool with no more actors than there are chunks.

    One that grows gets an actor for each free place on a node that joins, and gives one
    without work up where another run claims its part of the cluster.
    """
    actors = min(share.actors, chunks)
    if not share.more_actors:
        return ActorPoolStrategy(size=actors)
    return ActorPoolStrategy(min_size=1, initial_size=actors, max_size=chunks)


def gpus_wanted(share: Share, config: RunConfig, chunks: int) -> float:
    """How many GPUs all pools together could use."""
    actors = chunks if share.more_actors else min(share.actors, chunks)
    return actors * config.pools * share.actor_gpus


def plan_context(config: RunConfig) -> DataContext:
    """Ray Data's settings for the plan; those of the process stay as they are."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # a row is a block: it travels when it is made
    context.enable_progress_bars = False
    # An actor that waits for pixels stays: its networks were long in loading.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    # A slide that hangs every reader, all its tries long, is progress too.
    hang_s = config.compute.attempts * config.compute.read_timeout_s
    context.execution_no_progress_timeout_s = 2 * hang_s + 1800
    # Actors that hold networks are large from the start, which is no news and no leak.
    memory = context.issue_detectors_config.high_memory_detector_config
    memory.detection_time_interval_s = -1
    return context


@dataclass(frozen=True, kw_only=True)
class Work:
    """What :func:`segment_cohort` does with all slides, or with one alone."""

    run: RunDirectory
    config: RunConfig
    share: Share
    listener: RunListener
    tally: Tally
    patience: Patience
    alone: bool = False

    def for_one(self) -> "Work":
        """With one slide alone: a single reader and actor, in fresh processes."""
        one = {"more_actors": False, "more_readers": False}
        share = replace(self.share, actors=1, readers=1, **one)
        return replace(self, share=share, alone=True)

    @property
    def tries(self) -> RunConfig:
        """The config, with the tries that end before or with the one alone."""
        compute = self.config.compute
        attempts = 1 if self.alone else max(1, compute.attempts - 1)
        return replace(self.config, compute=replace(compute, attempts=attempts))


def segment_cohort(
    run: RunDirectory,
    slides: Sequence[SlideRecord],
    config: RunConfig,
    share: Share,
    listener: RunListener,
    *,
    tally: Tally | None = None,
    patience: Patience | None = None,
) -> Tally:
    """Predict and finish prepared slides, each written the moment it is complete.

    A slide whose process ended, or that something around it ended, is tried again when
    all others are done: alone, in fresh processes.

    Args:
        run: where to.
        slides: not finished yet.
        config: what to do.
        share: what of the cluster to use.
        listener: called as slides progress, finish and fail.
        tally: what other parts of the run have done; this one is added.
        patience: waits for what is no slide's fault.

    Raises:
        RunStopped: what ended the plan was no slide's fault. What was finished stays.
    """
    work = Work(
        run=run,
        config=config,
        share=share,
        listener=listener,
        tally=tally or Tally(),
        patience=patience or Patience(),
    )
    suspects = segment_together(work, slides)
    by_id = {slide.slide_id: slide for slide in slides}
    todo = deque((by_id[i], failure) for i, failure in suspects.items())
    while todo:
        slide, failure = todo.popleft()
        cause = failure.cause or SLIDE
        if cause in OUTSIDE and not work.patience.wait(cause, failure.error):
            listener.failed(failure)
            work.tally.failed += 1
            continue
        again = segment_together(work.for_one(), [slide], before=failure.attempt)
        todo.extend((slide, f) for f in again.values())
    return work.tally


def segment_together(
    work: Work, slides: Sequence[SlideRecord], *, before: int = 0
) -> dict[str, Failure]:
    """Segment slides in plans, until one ends of itself: slide_id -> what to try again.

    Raises:
        RunStopped: what ended a plan was no slide's fault, and does not pass.
    """
    left, suspects = list(slides), dict[str, Failure]()
    while left:
        shards = shard_table(left, readers=work.share.readers)
        chunks = sum(shards["chunks"].to_pylist())
        ledger = share_ledger(gpus_wanted(work.share, work.config, chunks))
        collector = Collector(
            work.run,
            left,
            work.config,
            work.share,
            work.listener,
            work.tally,
            ledger,
            work.patience,
            alone=work.alone,
            before=before,
        )
        ended = run_plan(work, shards, collector, ledger)
        suspects |= collector.suspects
        if ended is None:
            collector.give_up_rest("Ray lost the others", "run again")
            break
        cause = cause_of_error(ended)
        if cause not in OUTSIDE or not work.patience.wait(cause, cause_of(ended)):
            why = f"the run ended early: {cause_of(ended)}"
            collector.give_up_rest(why, "mend what ended it and run again")
            raise RunStopped(
                f"{why}\n{work.tally.slides} of {len(slides)} slides were finished "
                "and stay; mend the cause and run again"
            ) from ended
        left = list(collector.waiting.values())
    return suspects


def run_plan(
    work: Work, shards: pa.Table, collector: Collector, ledger: SharedLedger
) -> Exception | None:
    """Collect all that a plan makes; what ended it early, if anything did."""
    try:
        plan = lay_plan(
            work.run, shards, work.tries, work.share, ledger, alone=work.alone
        )
        with fair(ledger, collector.note_standing):
            for batch in plan.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=1
            ):
                collector.collect(batch)
    except PLAN_ERRORS as e:
        return e
    finally:
        collector.drain()
        work.patience.met.update(ledger.met())
    return None
