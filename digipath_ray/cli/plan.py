"""``digipath plan``: what a cohort costs, before a night is spent."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from digipath_ray.cohort import SlideRow, read_cohort
from digipath_ray.config import RunConfig, Tree, from_tree
from digipath_ray.distributed.cluster import connect
from digipath_ray.distributed.prepare import prepare_cohort
from digipath_ray.networks import resolve
from digipath_ray.predict import load_ensemble
from digipath_ray.prepared import PreparedSlide
from digipath_ray.progress import RunProgress
from digipath_ray.rundir import Failure, RunDirectory, free_disk_bytes

COMPRESSED = 0.35
"""Heatmap file bytes per raw byte at most: background compresses to nothing."""
PYRAMID = 4 / 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a cohort asks for; bytes and patches."""

    slides: int
    patches: int
    tissue_mm2: float
    disk_bytes: float
    largest_heatmap_bytes: int
    chunk_bytes: float


def plan_cohort(
    console: Console,
    slides: Sequence[str],
    tree: Tree,
    *,
    weights: str | None,
    rate: float | None,
    gpus: int,
    measure: bool,
) -> int:
    """Print the cohort's cost; 1 if a slide cannot be used."""
    rows = read_cohort(slides)
    config = resolve(tree, weights=weights) if weights or measure else from_tree(tree)
    prepared, failures = count_patches(console, rows, config)
    cost = add_up(prepared, config)
    if measure:
        rate = measure_rate(config)
        console.print(f"measured here: {rate:.2f} patches/s with {_what(config)}")
    print_cost(console, cost, failures, rate=rate, gpus=gpus)
    return 1 if failures else 0


def _what(config: RunConfig) -> str:
    names = ", ".join(m.name for m in config.members)
    return f"{names}, {len(config.ensemble.tta)} transform(s)"


def count_patches(
    console: Console, rows: Sequence[SlideRow], config: RunConfig
) -> tuple[list[PreparedSlide], list[Failure]]:
    """Place every slide's patches from its real mask, in a folder soon removed."""
    connect()
    with tempfile.TemporaryDirectory() as folder, RunProgress(console) as progress:
        run = RunDirectory(folder)
        run.create()
        return prepare_cohort(
            run, rows, config, report=lambda n: progress.prepared(n, len(rows))
        )


def add_up(slides: Sequence[PreparedSlide], config: RunConfig) -> Cost:
    """The cohort's cost from its prepared slides."""
    channels = len(config.channels) + 1
    sizes = [
        grid.hm_width * grid.hm_height * 4 * channels
        for grid in (s.grid(config.grid) for s in slides)
    ]
    block = config.grid.stride_px**2 * 3
    return Cost(
        slides=len(slides),
        patches=sum(s.row["patches"] for s in slides),
        tissue_mm2=sum(s.row["tissue_mm2"] for s in slides),
        disk_bytes=sum(sizes) * PYRAMID * COMPRESSED + 3e6 * len(slides),
        largest_heatmap_bytes=max(sizes, default=0),
        chunk_bytes=config.compute.chunk_cells * block * 1.3,
    )


def measure_rate(config: RunConfig, *, seconds: float = 20.0) -> float:
    """Patches per second of this machine's first GPU, or of its CPUs."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predict = load_ensemble(config, device=device)
    spec, batch = config.grid, config.compute.batch_size
    k = spec.blocks_per_side
    noise = np.random.default_rng(0)
    shape = (k * k, spec.stride_px, spec.stride_px, 3)
    blocks = noise.integers(0, 256, shape, np.uint8)
    index = np.broadcast_to(np.arange(k * k).reshape(k, k), (batch, k, k))
    predict(blocks, index)  # the first batch pays for memory and kernels
    started, patches = time.perf_counter(), 0
    while patches == 0 or time.perf_counter() - started < seconds:
        predict(blocks, index)
        patches += batch
    return patches / (time.perf_counter() - started)


def print_cost(
    console: Console,
    cost: Cost,
    failures: Sequence[Failure],
    *,
    rate: float | None,
    gpus: int,
) -> None:
    """Say what the night will take."""
    for failure in failures:
        console.print(f"[red]cannot be used[/] {failure.slide_id}: {failure.error}")
        console.print(f"       fix: {failure.hint}")
    console.print(
        f"{cost.slides} slides, {cost.tissue_mm2:.1f} mm2 of tissue, "
        f"{cost.patches} patches"
    )
    if rate is None:
        console.print(
            "GPU hours: give --rate (patches/s of one GPU with the whole ensemble and "
            "all its transforms), or --measure it here"
        )
    else:
        hours = cost.patches / rate / 3600
        console.print(
            f"time: {hours:.2f} GPU hours at {rate:g} patches/s, {hours / gpus:.2f} h "
            f"on {gpus} GPU(s)"
        )
    console.print(f"disk: about {cost.disk_bytes / 2**30:.2f} GB for the results")
    free = free_disk_bytes(Path.cwd())
    if free < cost.disk_bytes:
        console.print(f"[red]only {free / 2**30:.2f} GB are free here[/]")
    memory = psutil.virtual_memory().total
    console.print(
        f"memory: {3 * cost.largest_heatmap_bytes / 2**30:.2f} GB to stitch the "
        f"largest slide, {cost.chunk_bytes / 2**20:.0f} MB per chunk in flight; this machine "
        f"has {memory / 2**30:.0f} GB"
    )
