"""What the cluster has, and how a run divides it."""

import contextlib
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import ray
import ray.data

from digipath_ray.config import RunConfig
from digipath_ray.rundir import RunError

log = logging.getLogger(__name__)

ACTOR_GB, PATCH_GB = 2.5, 0.35
"""Memory of a CPU actor, and of each patch of 1024 px in its batch. Measured: the
paper's members in float32 peak at 2.8 GB with one patch and at 3.2 GB with two."""
RAY_ALONE = ("ray.data.exceptions", "ray.data._internal.progress")
SHARED_BLOCKS = 0.6
"""Of a patch's blocks those that no other patch of its chunk has, on scattered tissue;
0.32 on whole tissue at 50 % overlap."""


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
    """Join the cluster that RAY_ADDRESS, a job or this machine has, else start one.

    Raises:
        RunError: nobody answers there, or Ray does not start.
    """
    _mute_ray_data()
    if ray.is_initialized():
        return
    _check_answers(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's C++ part reports an error of Ray's own for every pool (ray issue 57733), and
    # when told to be quiet it says so.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _mute_stderr():
            ray.init(
                log_to_driver=False, include_dashboard=False, logging_level="ERROR"
            )
    except Exception as e:  # Ray raises just that when its node is slow to start
        raise RunError(f"Ray does not start: {e}") from e


def _check_answers(address: str) -> None:
    """Refuse an address host:port where nobody listens: Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as e:
        raise RunError(
            f"no Ray head answers at RAY_ADDRESS={address} ({e}): start it, or unset "
            "RAY_ADDRESS to run on this machine alone"
        ) from e


def _mute_ray_data() -> None:
    """Keep off the terminal what is news to Ray's developers; its log file has it."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
            handler.addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Not so: that Ray's bars are off, and that errors should be reported to Ray."""
    return not record.name.startswith(RAY_ALONE)


@contextlib.contextmanager
def _mute_stderr() -> Iterator[None]:
    """Drop what C++ writes to this process's standard error; exceptions still come."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


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
        actor_gpus = 1 / pools if gpus >= 1 else 0.0
    actors = compute.actors or _actors(config, pools, actor_gpus)
    if actors * pools > _places(actor_gpus, gpus):
        log.warning(
            "%d actors of %g GPUs each do not fit on the cluster's %g GPUs: unless it "
            "grows, lower --actors or --gpus-per-actor, or take --pools shared",
            actors * pools,
            actor_gpus,
            gpus,
        )
    # Together never more than there is: a finish task that waits for the CPU of a
    # reader that waits for the driver that waits for the finish task waits for ever.
    # And one whole CPU is left to the plan: Ray Data's own tasks ask for no less.
    spare = max(0.0, cpus - 1)
    actor_cpus = _floor(min(1.0, spare / (2 * actors * pools)))
    finish_cpus = _floor(min(0.25, spare / (4 * compute.finishers)))
    left = cpus - actors * pools * actor_cpus - compute.finishers * finish_cpus
    readers = compute.readers or int(left)
    reader_cpus = _floor(min(1.0, left / readers))
    if reader_cpus == actor_cpus:  # Ray Data would fuse the stages: actors would read
        reader_cpus -= 0.01
    return Share(
        actors=actors,
        actor_cpus=actor_cpus,
        actor_gpus=actor_gpus,
        actor_threads=max(1, int(cpus / (actors * pools))),
        readers=readers,
        reader_cpus=reader_cpus,
        finish_cpus=finish_cpus,
    )


def _actors(config: RunConfig, pools: int, actor_gpus: float) -> int:
    """Actors per pool where nobody says how many: one per GPU, or one per core.

    On a CPU an actor has one thread, since threads that share a batch wait for each
    other: beside other work two of them were 7 times slower than one.
    """
    have = ray.cluster_resources()
    if actor_gpus > 0:
        gpus = have.get("GPU", 0.0)
        return max(1, int(_places(actor_gpus, gpus) / pools))
    patches = config.compute.batch_size * (config.grid.patch_px / 1024) ** 2
    need = (ACTOR_GB + PATCH_GB * patches) * 2**30
    fit = have.get("memory", math.inf) / need
    return max(1, int(min(have.get("CPU", 1.0), fit) / pools))


def _places(actor_gpus: float, gpus: float) -> float:
    """How many actors the GPUs hold; a share of a GPU lies on one GPU."""
    if actor_gpus == 0:
        return math.inf
    if actor_gpus < 1:
        return int(gpus) * int(1 / actor_gpus + 1e-9)
    return int(gpus / actor_gpus)


def _floor(cpus: float) -> float:
    """Whole hundredths."""
    return math.floor(cpus * 100) / 100


def cell_bytes(config: RunConfig) -> float:
    """Bytes of a chunk's pixels per patch in it, at most."""
    blocks = max(1.0, SHARED_BLOCKS * config.grid.blocks_per_side**2)
    return blocks * config.grid.stride_px**2 * 3


def fit_chunks(config: RunConfig, share: Share) -> RunConfig:
    """The config with chunks small enough that those in flight half fill the store."""
    store = ray.cluster_resources().get("object_store_memory", 1 << 30)
    pools = len(config.members) if config.compute.pools == "per-member" else 1
    in_flight = share.readers + 2 * share.actors * pools + 4
    fit = int(store / 2 / in_flight / cell_bytes(config))
    batch = config.compute.batch_size
    cells = min(config.compute.chunk_cells, max(batch, fit // batch * batch))
    return replace(config, compute=replace(config.compute, chunk_cells=cells))
