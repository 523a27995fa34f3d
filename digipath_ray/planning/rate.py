"""Measures the patch rate of bare networks, for ``plan`` and ``calibrate``."""

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.run import RunConfig
from digipath_ray.context import Contexts, blocks_across
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.patches import Cells, share_blocks
from digipath_ray.slide.info import Pixels

MEASURE_S = 20.0


def for_cpu(config: RunConfig) -> RunConfig:
    """Config with a single batch a chunk: of large networks it takes seconds."""
    batch = config.cpu_batch_size
    compute = replace(config.compute, batch_size=batch, chunk_cells=batch)
    return replace(config, compute=compute)


def measure_rate(
    config: RunConfig, *, device: str, seconds: float = MEASURE_S
) -> float:
    """Patches per second of the bare networks: whole ensemble, all transforms."""
    predict = load_ensemble(config, device=device)
    batch = config.compute.batch_size
    blocks, index, contexts = noise_chunk(np.zeros((batch, 2), np.int32), config)
    # Warm up: the first batch allocates memory and compiles kernels.
    predict(blocks, index, contexts=contexts)
    started, patches = time.perf_counter(), 0
    while patches == 0 or time.perf_counter() - started < seconds:
        predict(blocks, index, contexts=contexts)
        patches += batch
    return patches / (time.perf_counter() - started)


def noise_chunk(
    cells: Cells, config: RunConfig
) -> tuple[Pixels, NDArray[np.int64], Contexts]:
    """Random pixels of the cells' patches, their index, and the contexts asked for."""
    noise = np.random.default_rng(0)

    def draw(across: int, side: int) -> tuple[Pixels, NDArray[np.int64]]:
        blocks, index = share_blocks(cells, across)
        return noise.integers(0, 256, (len(blocks), side, side, 3), np.uint8), index

    grid = config.grid
    pixels, index = draw(grid.blocks_per_side, grid.stride_px)
    contexts = {
        factor: draw(blocks_across(grid, factor), grid.stride_px // factor)
        for factor in config.contexts
    }
    return pixels, index, contexts
