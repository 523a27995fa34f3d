"""Cost of a cohort: patches, disk, memory and network time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from digipath_ray.config.run import RunConfig
from digipath_ray.context import blocks_across
from digipath_ray.machine import memory_bytes
from digipath_ray.patches import Grid, cell_bytes, share_blocks
from digipath_ray.pipeline.prepare import STITCH_COPIES
from digipath_ray.planning.prices import DEADLINE_H
from digipath_ray.planning.speed import Calibration
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import read_chunks
from digipath_ray.run.record import SlideRecord
from digipath_ray.words import count, format_duration, size

FILE_BYTES_PER_BYTE = 0.88
"""Bytes of a heatmap file, including pyramid and weight channel, per float32 byte of
the predicted pixels' value channels and their pyramid (4/3 of the finest level).

Measured on real runs' files: 0.87 on CMU-1-Small-Region at downsample 1 and 2, 0.83 at
4, 0.66 to 0.83 on GlaS images, 0.71 to 0.77 on the demo's slides. Unpredicted pixels
and the weight compress to nearly nothing.
"""


PYRAMID = 4 / 3


SLIDE_BYTES = 3 << 20
"""Overlay, masks, thumbnail and tables per slide: measured 0.9 to 2 MB."""


DOWNSAMPLES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Speed and prices of a run, as given by the user.

    Attributes:
        rate: patches/s of one device.
        gpus: number of GPUs of the run.
        measure: measure the rate on this machine.
        device: device that the rate applies to.
        calibration: calibration file of ``digipath calibrate``.
        prices: file of node types and prices.
        by_hours: time limit of a priced run, hours.
    """

    rate: float | None = None
    gpus: int = 1
    measure: bool = False
    device: str = "GPU"
    calibration: Path | None = None
    prices: Path | None = None
    by_hours: float = DEADLINE_H


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a cohort.

    Attributes:
        slides: usable slides.
        patches: over all slides.
        tissue_mm2: over all slides.
        heatmap_bytes: size of all heatmap files.
        largest_bytes: largest heatmap in memory.
        chunk_bytes: maximum pixel bytes of a chunk.
        read_px: network px to read.
    """

    slides: int
    patches: int
    tissue_mm2: float
    heatmap_bytes: float
    largest_bytes: int
    chunk_bytes: float
    read_px: float = 0.0

    @property
    def disk_bytes(self) -> float:
        """Bytes written by a run."""
        return self.heatmap_bytes + self.slides * SLIDE_BYTES

    @property
    def stitch_bytes(self) -> float:
        """Memory to stitch the largest slide, bytes."""
        return STITCH_COPIES * self.largest_bytes


def check_pace(pace: Pace) -> None:
    """Raise if a rate is given twice, or prices are given without one.

    Raises:
        ValueError: the options conflict, or prices need a calibration.
    """
    if pace.measure and pace.rate is not None:
        raise ValueError(
            "--rate and --measure are mutually exclusive: give one of them"
        )
    if pace.calibration is not None and (pace.measure or pace.rate is not None):
        raise ValueError("--calibration sets the rate: omit --rate and --measure")
    if pace.prices is not None and pace.calibration is None:
        raise ValueError(
            "--prices needs the speed of your machines: run digipath calibrate "
            "--out node.json on one of them, then give --calibration node.json"
        )


def calibrated(pace: Pace, measured: Calibration) -> Pace:
    """Pace with the measured rate."""
    machine = measured.predictor
    device = "CPU" if machine.gpu is None else "GPU"
    return replace(pace, rate=machine.patches_per_s, device=device)


def covered_px(run: RunDirectory, slide: SlideRecord, config: RunConfig) -> int:
    """Heatmap px covered by at least one patch of a prepared slide."""
    cells = np.concatenate(read_chunks(run, slide.slide_id, config))
    blocks, _ = share_blocks(cells, config.grid.blocks_per_side)
    grid: Grid = slide.grid(config.grid)
    side = config.grid.hm_stride
    heights = np.clip(grid.hm_height - blocks[:, 0] * side, 0, side)
    widths = np.clip(grid.hm_width - blocks[:, 1] * side, 0, side)
    return int((heights.astype(np.int64) * widths).sum())


def read_px(run: RunDirectory, slide: SlideRecord, config: RunConfig) -> int:
    """Network px read for a slide; every chunk reads each of its blocks once."""
    side = config.grid.blocks_per_side
    chunks = read_chunks(run, slide.slide_id, config)
    blocks = sum(len(share_blocks(cells, side)[0]) for cells in chunks)
    px = blocks * config.grid.stride_px**2
    for factor in config.contexts:
        side = blocks_across(config.grid, factor)
        blocks = sum(len(share_blocks(cells, side)[0]) for cells in chunks)
        px += blocks * (config.grid.stride_px // factor) ** 2
    return px


def add_up(
    slides: Sequence[SlideRecord], covered: Sequence[int], config: RunConfig
) -> Cost:
    """Sum the cohort's cost over its prepared slides and their covered heatmap px."""
    channels = len(config.channels)
    grids = [slide.grid(config.grid) for slide in slides]
    in_memory = [g.hm_width * g.hm_height * 4 * (channels + 1) for g in grids]
    values = sum(covered) * 4 * channels
    return Cost(
        slides=len(slides),
        patches=sum(s.patches for s in slides),
        tissue_mm2=sum(s.tissue_mm2 for s in slides),
        heatmap_bytes=values * PYRAMID * FILE_BYTES_PER_BYTE,
        largest_bytes=max(in_memory, default=0),
        chunk_bytes=config.compute.chunk_cells * cell_bytes(config),
    )


def describe(
    cost: Cost, config: RunConfig, pace: Pace, *, free_bytes: int | None
) -> list[tuple[str, str]]:
    """Describe the cost of a run, line by line; free bytes are None for a bucket."""
    endless = "stored in a bucket"
    room = endless if free_bytes is None else f"{size(free_bytes)} are free"
    spec = config.grid
    memory = memory_bytes()
    return [
        ("slides", f"{cost.slides:,} with {cost.tissue_mm2:,.1f} mm2 of tissue"),
        (
            "patches",
            f"{cost.patches:,} of {spec.patch_px} px every {spec.stride_px} px at "
            f"{spec.mpp:g} um/px",
        ),
        ("time", format_time(cost.patches, pace)),
        ("disk", f"about {size(cost.disk_bytes)} of results; {room}"),
        (
            "memory",
            f"{size(cost.stitch_bytes)} to stitch the largest slide, "
            f"up to {size(cost.chunk_bytes)} per chunk in flight; this machine has "
            f"{size(memory)}",
        ),
    ]


def format_time(patches: int, pace: Pace) -> str:
    """Network time, with reading and stitching in parallel."""
    if pace.rate is None:
        return (
            "give --rate, the patches/s of one GPU with the whole ensemble and all "
            "transforms, or --measure to measure it here"
        )
    seconds = patches / pace.rate
    machines = pace.gpus if pace.device == "GPU" else 1
    return (
        f"{_device_time(seconds, pace.device)} at {pace.rate:.3g} patches/s: "
        f"{_at_least_a_second(seconds / machines)} on {count(machines, pace.device)}"
    )


def _device_time(seconds: float, device: str) -> str:
    """``6.7 GPU hours``, ``5 GPU minutes``; rounded up to at least a minute."""
    hours = seconds / 3600
    if hours >= 1:
        return f"{format(hours, '.3g' if hours < 100 else ',.0f')} {device} hours"
    return count(max(1, math.ceil(seconds / 60)), f"{device} minute")


def _at_least_a_second(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 1 else "under a second"


def refuse_disk(cost: Cost, config: RunConfig, *, free_bytes: int | None) -> str | None:
    """Error if the results do not fit on the disk, with the fix; None if they fit."""
    if free_bytes is None or cost.disk_bytes <= free_bytes:
        return None
    fix = "free some space, or choose another disk with --out"
    for smaller, downsample in _coarser(cost, config):
        if smaller.disk_bytes <= free_bytes:
            fix = (
                f"--downsample {downsample} takes {size(smaller.disk_bytes)}; or {fix}"
            )
            break
    return (
        f"the results need about {size(cost.disk_bytes)} and {size(free_bytes)} are "
        f"free: {fix}"
    )


def _coarser(cost: Cost, config: RunConfig) -> Iterator[tuple[Cost, int]]:
    """Cost at each higher downsample that the grid allows."""
    spec = config.grid
    for downsample in DOWNSAMPLES:
        divides = math.gcd(spec.patch_px, spec.stride_px) % downsample == 0
        if downsample > spec.downsample and divides:
            share = (spec.downsample / downsample) ** 2
            yield replace(cost, heatmap_bytes=cost.heatmap_bytes * share), downsample
