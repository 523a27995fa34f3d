"""Measures the patch rate of bare networks, for ``plan`` and ``calibrate``."""

import time
from dataclasses import replace

import numpy as np

from digipath_ray.config.run import RunConfig
from digipath_ray.networks.predict import load_ensemble

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
    spec, batch = config.grid, config.compute.batch_size
    k = spec.blocks_per_side
    noise = np.random.default_rng(0)
    shape = (k * k, spec.stride_px, spec.stride_px, 3)
    blocks = noise.integers(0, 256, shape, np.uint8)
    index = np.tile(np.arange(k * k).reshape(1, k, k), (batch, 1, 1))
    predict(
        blocks, index
    )  # warm up: the first batch allocates memory and compiles kernels
    started, patches = time.perf_counter(), 0
    while patches == 0 or time.perf_counter() - started < seconds:
        predict(blocks, index)
        patches += batch
    return patches / (time.perf_counter() - started)
