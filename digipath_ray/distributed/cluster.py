"""What the cluster has, and how a run divides it."""

import logging
import math
import os
from dataclasses import dataclass, replace

import ray

from digipath_ray.config import RunConfig

BLOCKS_PER_CELL = 2.5
"""Blocks a chunk holds per cell at most; 1.3 on whole tissue, 2.4 on scattered."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many actors and tasks a run starts, and what each asks of Ray."""

    actors: int
    actor_cpus: float
    actor_gpus: float
    actor_threads: int
    readers: int
    reader_cpus: float
    finish_cpus: float


def connect() -> None:
    """Join the cluster that RAY_ADDRESS or a job names, else start Ray here."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def divide(config: RunConfig) -> Share:
    """How a run divides the cluster: a pool of actors, and readers on what is left.

    With GPUs an actor takes a whole one (a pool per member: its share of one). Without,
    networks and readers share the CPUs.
    """
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
    compute = config.compute
    pools = len(config.members) if compute.pools == "per-member" else 1
    actor_gpus = compute.gpus_per_actor
    if actor_gpus is None:
        actor_gpus = 1.0 / pools if gpus >= 1 else 0.0
    if compute.actors is not None:
        actors = compute.actors
    elif actor_gpus > 0:
        actors = max(1, int(gpus / (actor_gpus * pools)))
    else:
        actors = max(1, int(cpus // 4))
    # Together never more than there is: a finish task that waits for the CPU of a
    # reader that waits for the driver that waits for the finish task waits for ever.
    finish_cpus = _whole_cents(min(0.25, cpus / 8))
    actor_cpus = _whole_cents(min(1.0, cpus / (4 * actors * pools)))
    left = cpus - actors * pools * actor_cpus - compute.finishers * finish_cpus
    readers = compute.readers or max(1, int(left))
    reader_cpus = _whole_cents(min(1.0, left / readers))
    threads = max(1, int(cpus / (actors * pools)))
    return Share(
        actors=actors,
        actor_cpus=actor_cpus,
        actor_gpus=actor_gpus,
        actor_threads=threads,
        readers=readers,
        reader_cpus=reader_cpus,
        finish_cpus=finish_cpus,
    )


def _whole_cents(cpus: float) -> float:
    return math.floor(max(cpus, 0.01) * 100) / 100


def fit_chunks(config: RunConfig, share: Share) -> RunConfig:
    """The config with chunks small enough that those in flight half fill the store."""
    store = ray.cluster_resources().get("object_store_memory", 1 << 30)
    in_flight = share.readers + 2 * share.actors + 4
    cell_bytes = BLOCKS_PER_CELL * config.grid.stride_px**2 * 3
    fit = int(store / 2 / in_flight / cell_bytes)
    batch = config.compute.batch_size
    cells = min(config.compute.chunk_cells, max(batch, fit // batch * batch))
    return replace(config, compute=replace(config.compute, chunk_cells=cells))
