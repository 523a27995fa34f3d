"""How fast each kind of node of a cluster reads slides and runs the networks."""

import contextlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digipath_ray import __version__
from digipath_ray.config.run import RunConfig
from digipath_ray.demo.cohort import DEMO_MPP, demo_slides, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.patches import cut_chunks, keep_cells, lay_grid
from digipath_ray.pipeline.chunk import read_chunk, read_contexts
from digipath_ray.pipeline.prepare import find_slide_tissue, grid_of, open_cohort_slide
from digipath_ray.planning.rate import MEASURE_S, for_cpu, measure_rate
from digipath_ray.planning.speed import Machine

READ_S = 10.0
TASK_CPUS = 0.5
"""A GPU node may offer Ray a single CPU."""


def cluster_nodes() -> list[dict[str, Any]]:
    """What Ray knows of each node of the cluster."""
    return list(ray.nodes())


def kinds_of(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A node of each kind: as many CPUs, the same GPUs; heads without work left out.

    Raises:
        ValueError: no node has a CPU.
    """
    kinds: dict[Any, Mapping[str, Any]] = {}
    for node in nodes:
        have = node["Resources"]
        if node["Alive"] and have.get("CPU", 0) >= TASK_CPUS:
            type_of_gpu = sorted(r for r in have if r.startswith("accelerator_type:"))
            key = (have.get("CPU"), have.get("GPU", 0), *type_of_gpu)
            kinds.setdefault(key, node)
    if not kinds:
        raise ValueError("no node of the cluster has CPUs: wait for one, or start one")
    return list(kinds.values())


def measure_nodes(
    kinds: Sequence[Mapping[str, Any]], config: RunConfig, slide: str | None
) -> list[Machine]:
    """The kinds of nodes as measured, all at once."""
    any_gpu = any(gpus_of(kind) >= 1 for kind in kinds)
    refs = []
    for kind in kinds:
        predict = gpus_of(kind) > 0 or not any_gpu
        refs.append(
            _on_node(measure_machine, kind).remote(config, slide, predict, kind)
        )
    return list(ray.get(refs))


def _on_node(work: Callable[..., Machine], node: Mapping[str, Any]) -> Any:
    """A task of Ray that runs on this node, with one of its GPUs if it has any."""
    return ray.remote(
        num_cpus=TASK_CPUS,
        num_gpus=min(gpus_of(node), 1),
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    )(work)


def gpus_of(node: Mapping[str, Any]) -> int:
    """How many GPUs Ray knows of on a node."""
    return int(node["Resources"].get("GPU", 0))


def describe_machine(node: Mapping[str, Any]) -> Machine:
    """A node and its versions, nothing measured."""
    return cast(Machine, ray.get(_on_node(_describe, node).remote(node)))


def _describe(node: Mapping[str, Any]) -> Machine:
    """This node as Ray and torch see it."""
    import torch

    have, gpus = node["Resources"], gpus_of(node)
    return Machine(
        node=platform.node(),
        gpu=torch.cuda.get_device_name() if gpus else None,
        gpus=gpus,
        cpus=int(have["CPU"]),
        memory_gb=round(have.get("memory", 0.0) / 2**30, 1),
        patches_per_s=None,
        read_mpx_per_s=0.0,
        versions={
            "digipath_ray": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("ray", "torch")},
        },
    )


def measure_machine(
    config: RunConfig, slide: str | None, predict: bool, node: Mapping[str, Any]
) -> Machine:
    """This node as measured: one process on one CPU, and on one GPU if it has any.

    Args:
        config: networks, transforms and patches.
        slide: what to read.
        predict: whether to run the networks.
        node: what Ray knows of the node.
    """
    import torch

    torch.set_num_threads(1)
    machine = _describe(node)
    rate = None
    if predict:
        rate = measure_ensemble(config, on_gpu=machine.gpu is not None)
    return replace(
        machine, patches_per_s=rate, read_mpx_per_s=measure_reading(slide, config)
    )


def measure_ensemble(
    config: RunConfig, *, on_gpu: bool, seconds: float = MEASURE_S
) -> float:
    """Patches per second of one GPU, or of one CPU.

    A CPU takes minutes for a patch of large networks in all transforms: it is given one
    transform, each of which takes as long.
    """
    if on_gpu:
        return measure_rate(config, device="cuda", seconds=seconds)
    once = replace(config.ensemble, tta=config.ensemble.tta[:1])
    rate = measure_rate(
        for_cpu(replace(config, ensemble=once)), device="cpu", seconds=seconds
    )
    return rate / len(config.ensemble.tta)


def measure_reading(
    slide: str | None, config: RunConfig, *, seconds: float = READ_S
) -> float:
    """Network px, in millions, that a second of one CPU reads, chunk by chunk.

    A slide that is drawn is read at its own mpp, whatever the config's.
    """
    if slide is None:
        config = replace(config, grid=replace(config.grid, mpp=DEMO_MPP))
    with _slide_to_read(slide) as path:
        pixels = spent = 0.0
        until = time.monotonic() + 3 * seconds
        while spent < seconds and time.monotonic() < until:
            for px, cpu_seconds in _read_once(path, config):
                pixels, spent = pixels + px, spent + cpu_seconds
                if spent >= seconds:
                    break
    return pixels / 1e6 / spent


@contextlib.contextmanager
def _slide_to_read(slide: str | None) -> Iterator[str]:
    if slide is not None:
        yield slide
        return
    with tempfile.TemporaryDirectory(prefix="digipath-") as folder:
        path = Path(folder) / "slide.tif"
        write_pyramid(path, draw_slide(demo_slides()[0])[0])
        yield str(path)


def _read_once(path: str, config: RunConfig) -> Iterator[tuple[float, float]]:
    """Network px and CPU seconds of each chunk of a slide, newly opened."""
    with open_cohort_slide(path, None, config) as slide:
        grid = grid_of(slide, config)
        _, tissue = find_slide_tissue(slide, config)
        cells = keep_cells(lay_grid(slide.info, grid.frame, config.grid), tissue.mask)
        for chunk in cut_chunks(cells, chunk_cells=config.compute.chunk_cells):
            started = time.process_time()
            _, pixels, _ = read_chunk(slide, grid, chunk, config)
            contexts = read_contexts(slide, grid, chunk, config)
            size = pixels.size + sum(around.size for around, _ in contexts.values())
            yield size / 3, time.process_time() - started
