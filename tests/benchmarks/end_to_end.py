"""End-to-end patches/s against the bare networks' rate in the same set-up.

    python -m tests.benchmarks.end_to_end [--slides 3] [--pools shared] [--paper]

Draws demo slides and runs them through Ray; the bare rate is the same members with the
same threads on blocks that lie in memory already, measured right before and right after
on the same machine. Prints the ratio, the batch fill and how long the start took. With
``--paper`` the paper's three networks with random weights (a GPU is advised).
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import torch

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import demo_slides, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.distributed.connect import connect
from digipath_ray.distributed.resources import Share, divide
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.resolve import resolve
from digipath_ray.patches import share_blocks
from digipath_ray.run.directory import RunDirectory


@ray.remote
def bare_rate(config: RunConfig, share: Share, seconds: float) -> float:
    """Patches/s of the members alone, in a process like an actor's."""
    ensemble = EnsemblePredictor(
        config.members,
        config,
        device="cuda" if share.actor_gpus > 0 else "cpu",
        threads=share.actor_threads,
    )
    side = int(config.compute.chunk_cells**0.5)
    cells = np.argwhere(np.ones((side, side), bool)).astype(np.int32)
    blocks, index = share_blocks(cells, config.grid.blocks_per_side)
    stride = config.grid.stride_px
    shape = (len(blocks), stride, stride, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ensemble.predict(pixels, index)
    started, patches = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        ensemble.predict(pixels, index)
        patches += len(cells)
    return patches / (time.perf_counter() - started)


def bare(config: RunConfig, share: Share, *, seconds: float = 15.0) -> float:
    """Patches/s of as many processes as the run has actors, all at once."""
    task = bare_rate.options(num_cpus=share.actor_cpus, num_gpus=share.actor_gpus)
    rates = [task.remote(config, share, seconds) for _ in range(share.actors)]
    return float(sum(ray.get(rates)))


def config_of(arguments: argparse.Namespace) -> RunConfig:
    if arguments.paper:
        over = {"grid": {"mpp": 1.0}, "compute": {"batch_size": arguments.batch_size}}
        tree = load_config(preset="camelyon16", overrides=over)
        config = resolve(tree, weights="random")
    else:
        config = resolve(load_config(preset="demo"))
    return replace(config, compute=replace(config.compute, pools=arguments.pools))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=3)
    parser.add_argument("--pools", default="shared")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    config = config_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        slides = Path(folder) / "slides"
        slides.mkdir()
        pixels, _ = draw_slide(demo_slides()[0])
        for i in range(arguments.slides):
            write_pyramid(slides / f"s{i}.tif", pixels)
        connect()
        share = divide(config)
        before = bare(config, share)
        run = RunDirectory(Path(folder) / "run")
        metrics = run_cohort(run, read_cohort([slides]), config).metrics
        after = bare(config, share)
    mean = statistics.mean([before, after])
    device = torch.cuda.get_device_name() if share.actor_gpus else "CPU"
    print(f"{device}, {share.actors} actor(s) per pool, {arguments.pools}")
    print(f"bare: {before:.1f} and {after:.1f} patches/s")
    print(f"end to end: {metrics['patches_per_s']:.1f} patches/s")
    print(f"ratio: {metrics['patches_per_s'] / mean:.3f}")
    print(f"batch fill: {metrics['batch_fill']:.3f}; start: {metrics['start_s']:.1f} s")
    print(f"patches: {metrics['patches']}; bottleneck: {metrics['bottleneck']}")


if __name__ == "__main__":
    main()
