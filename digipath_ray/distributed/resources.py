"""What the cluster has, and how a run divides it."""

import logging
import math
from dataclasses import dataclass, replace

import ray
import ray.data

from digipath_ray.config.run import RunConfig
from digipath_ray.distributed.nodes import has_several_nodes
from digipath_ray.networks.notes import is_demo
from digipath_ray.patches import cell_bytes
from digipath_ray.words import count, format_duration

log = logging.getLogger(__name__)

ACTOR_GB, PATCH_GB = 2.5, 0.35
"""Memory of a CPU actor, and of each patch of 1024 px in its batch. Measured: the
paper's members in float32 peak at 2.8 GB with one patch and at 3.2 GB with two."""
PATCH_CORE_S = 10.0
"""Seconds of a core for one network, one transform and a patch of 1024 px. Measured:
the paper's three members do 0.07 patches/s on two cores."""
CHUNK_S = 60.0
"""A CPU actor reports about this often, so that a slow run is seen to go on."""
FIRST_CPUS = 8.0
"""What a cluster is taken for whose head does no work and whose nodes are to come."""
ROOM_CPUS = 0.01
"""What a reader leaves of its CPU where nodes come and go, and all that a finish task
asks for there: so one always fits beside the readers, on whatever node."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many actors and tasks a run starts, and what each asks of Ray.

    Attributes:
        actors: of each pool, at the start.
        readers: at the start.
        more_actors: nodes that join get more of them.
        more_readers: likewise.
    """

    actors: int
    actor_cpus: float
    actor_gpus: float
    actor_threads: int
    readers: int
    reader_cpus: float
    finish_cpus: float
    more_actors: bool = False
    more_readers: bool = False


def divide(config: RunConfig) -> Share:
    """How a run divides the cluster: a pool of actors, and readers on what is left.

    With GPUs an actor takes a whole one (a pool per member: its share of one). Without,
    networks and readers share the CPUs.

    Where nodes may come and go, a pool whose size is not given starts with what is
    there and grows. Ray cannot tell of nodes that are still to come: a cluster whose
    GPUs are needs ``gpus_per_actor``.
    """
    have = ray.cluster_resources()
    several = has_several_nodes(have)
    # A head that does no work reports no CPU until its first node has joined.
    cpus = have.get("CPU", FIRST_CPUS if several else 1.0)
    compute = config.compute
    pools = config.pools
    actor_gpus = _gpu_share(config, pools, several=several)
    grows = several and actor_gpus > 0
    actors = compute.actors or _actors(config, pools, actor_gpus)
    if compute.actors is not None or not grows:
        _check_places(actors * pools, actor_gpus)
    if grows:
        _check_free(actor_gpus)
    # Never ask for more CPUs than there are: a finish task waiting for the CPU of a
    # reader, which waits for the driver, which waits for the finish task, is a
    # deadlock. One CPU stays free, as Ray Data's own tasks ask for a whole one.
    spare = max(0.0, cpus - 1)
    # Half of it for actors, a quarter for finish tasks, what is left for readers.
    actor_cpus = floor_cpus(min(1.0, spare / (2 * actors * pools)))
    room = ROOM_CPUS if several else 0.25
    finish_cpus = floor_cpus(min(room, spare / (4 * compute.finishers)))
    left = cpus - actors * pools * actor_cpus - compute.finishers * finish_cpus
    readers = compute.readers or int(left)
    # A hundredth below one, so that a finish task fits beside a reader on any node.
    whole = 1 - ROOM_CPUS if several else 1.0
    reader_cpus = floor_cpus(min(whole, left / readers))
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
        more_actors=grows and compute.actors is None,
        more_readers=grows and compute.readers is None,
    )


def _gpu_share(config: RunConfig, pools: int, *, several: bool) -> float:
    """GPUs per actor: as given, else one or its fraction if there is any GPU."""
    if config.compute.gpus_per_actor is not None:
        return config.compute.gpus_per_actor
    if ray.cluster_resources().get("GPU", 0.0) >= 1:
        return 1 / pools
    if several:
        log.warning(
            "no node of the cluster has a GPU, so the networks run on CPUs: if nodes "
            "with GPUs will join, give --gpus-per-actor 1"
        )
    return 0.0


def _check_places(actors: int, actor_gpus: float) -> None:
    """Warn of more actors than the GPUs hold."""
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if actors > _places(actor_gpus, gpus):
        log.warning(
            "%d actors of %g GPUs each do not fit on the cluster's %g GPUs: unless it "
            "grows, lower --actors or --gpus-per-actor, or take --pools shared",
            actors,
            actor_gpus,
            gpus,
        )


def _check_free(actor_gpus: float) -> None:
    """Warn if every GPU is taken; only runs give way, a fit keeps its GPUs."""
    if ray.cluster_resources().get("GPU", 0.0) < actor_gpus:
        return
    if ray.available_resources().get("GPU", 0.0) < actor_gpus:
        log.warning(
            "all GPUs of the cluster are taken: other runs give way within seconds, "
            "anything else (such as a fit) frees them when it ends"
        )


def _actors(config: RunConfig, pools: int, actor_gpus: float) -> int:
    """Actors per pool if not given: one per GPU, or one per core.

    On a CPU an actor has one thread, since threads that share a batch wait for each
    other: beside other work two of them were 7 times slower than one.
    """
    have = ray.cluster_resources()
    if actor_gpus > 0:
        gpus = have.get("GPU", 0.0)
        return max(1, int(_places(actor_gpus, gpus) / pools))
    patches = config.cpu_batch_size * (config.grid.patch_px / 1024) ** 2
    need = (ACTOR_GB + PATCH_GB * patches) * 2**30
    fit = have.get("memory", math.inf) / need
    return max(1, int(min(have.get("CPU", 1.0), fit) / pools))


def _places(actor_gpus: float, gpus: float) -> float:
    """How many actors the GPUs hold; a fraction of a GPU is on one GPU."""
    if actor_gpus == 0:
        return math.inf
    if actor_gpus < 1:
        return int(gpus) * int(1 / actor_gpus + 1e-9)
    return int(gpus / actor_gpus)


def floor_cpus(cpus: float) -> float:
    """Rounded down to whole hundredths."""
    return math.floor(cpus * 100) / 100


def fit_chunks(config: RunConfig, share: Share) -> RunConfig:
    """The config with chunks small enough for the object store and for a slow CPU.

    Those in flight half fill the store; one keeps a core no longer than CHUNK_S, unless
    a single batch does.
    """
    store = ray.cluster_resources().get("object_store_memory", 1 << 30)
    in_flight = share.readers + 2 * share.actors * config.pools + 4
    fit = int(store / 2 / in_flight / cell_bytes(config))
    core_s = patch_core_seconds(config)
    if share.actor_gpus == 0 and core_s > 0:
        fit = min(fit, int(CHUNK_S / core_s))
    batch = config.compute.batch_size
    cells = min(config.compute.chunk_cells, max(batch, fit // batch * batch))
    return replace(config, compute=replace(config.compute, chunk_cells=cells))


def patch_core_seconds(config: RunConfig) -> float:
    """Seconds of a core that a patch takes if its networks are like the paper's.

    0 where they are the demo's, which are a hundred times as fast.
    """
    networks = sum(not is_demo(m) for m in config.members)
    size = (config.grid.patch_px / 1024) ** 2
    return PATCH_CORE_S * networks * len(config.ensemble.tta) * size


def describe_work(config: RunConfig, share: Share, *, patches: int) -> str:
    """What computes what, and about how long so many patches take where that is long.

    ``3 networks x 6 transforms on 2 CPU cores: expect about 90 s per patch, ...``
    """
    networks, transforms = len(config.members), len(config.ensemble.tta)
    pools = config.pools
    work = f"{count(networks, 'network')} x {count(transforms, 'transform')}"
    if share.actor_gpus > 0:
        gpus = share.actors * pools * share.actor_gpus
        return f"{work} on {count(math.ceil(gpus - 1e-9), 'GPU')}"
    cores = share.actors * pools * share.actor_threads
    text = f"{work} on {count(cores, 'CPU core')}"
    seconds = patch_core_seconds(config) / cores
    if seconds < 1:
        return text
    return (
        f"{text}: expect about {format_duration(seconds)} per patch, "
        f"{format_duration(patches * seconds)} in all, "
        "if they are as large as the paper's"
    )
