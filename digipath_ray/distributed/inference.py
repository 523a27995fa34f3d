"""The streaming plan: shards of slides -> chunks of pixels -> members -> heatmaps.

    shards -> read (CPU tasks) -> predict (actor pools) -> the driver
    collects a slide's rows -> one finish task per complete slide

Every stage is stateless and deterministic, so Ray may run any of it again; what must be
remembered is remembered by the driver.
"""

from collections.abc import Sequence

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.cause import cause_of
from digipath_ray.distributed.collector import Collector
from digipath_ray.distributed.fairness import fair
from digipath_ray.distributed.ledger import Ledger, share_ledger
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.read import read_shard, shard_table
from digipath_ray.distributed.resources import Share
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunStopped
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
    run: RunDirectory, shards: pa.Table, config: RunConfig, share: Share, ledger: Ledger
) -> Dataset:
    """The lazy Ray Data plan from a SHARDS table to summed chunks."""
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


def segment_cohort(
    run: RunDirectory,
    slides: Sequence[SlideRecord],
    config: RunConfig,
    share: Share,
    listener: RunListener,
    *,
    tally: Tally | None = None,
) -> Tally:
    """Predict and finish prepared slides, each written the moment it is complete.

    Args:
        run: where to.
        slides: not finished yet.
        config: what to do.
        share: what of the cluster to use.
        listener: called as slides progress, finish and fail.
        tally: what other parts of the run have done; this one is added.

    Raises:
        RunStopped: what ended the plan was no slide's fault. What was finished stays.
    """
    shards = shard_table(slides, readers=share.readers)
    ledger = share_ledger(gpus_wanted(share, config, sum(shards["chunks"].to_pylist())))
    collector = Collector(
        run, slides, config, share, listener, tally or Tally(), ledger
    )
    try:
        plan = lay_plan(run, shards, config, share, ledger)
        with fair(ledger, collector.note_standing):
            for batch in plan.iter_batches(
                batch_size=None, batch_format="numpy", prefetch_batches=1
            ):
                collector.collect(batch)
    except PLAN_ERRORS as e:
        collector.drain()
        why = f"the run ended early: {cause_of(e)}"
        collector.give_up_rest(why, "mend what ended it and run again")
        raise RunStopped(
            f"{why}\n{collector.tally.slides} of {len(slides)} slides were finished "
            "and stay; mend the cause and run again"
        ) from e
    finally:
        collector.drain()
    collector.give_up_rest("Ray lost the others", "run again")
    return collector.tally
