"""A heatmap against the patch table that it was made from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.classes import CLASS, WHOLE, kept_classes
from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.canvas import Canvas, sum_patches, window_of
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.networks.adaptive import cover
from digipath_ray.patches import Cells, Grid, share_blocks
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.patch_table import read_chunks
from digipath_ray.run.record import DoneRecord

ROUNDING = 1e-4
"""Relative difference of two float32 sums of the same weights in another order."""
OVER_ONE = 1e-5
"""How far a mean of float32 probabilities may lie beyond 0 or 1."""
OFF_ONE = 0.015
"""How far the sum of the probabilities of classes may be off: a network's own rounding,
of which 0.01 is let pass, and that of float32."""


def chunks_of(run: RunDirectory, record: DoneRecord, config: RunConfig) -> list[Cells]:
    """The chunks [n, 2] that a finished slide was predicted in."""
    made_with = record.made_with or {}
    cells = made_with.get("chunk_cells", config.compute.chunk_cells)
    compute = replace(config.compute, chunk_cells=cells)
    return read_chunks(run, record.slide.slide_id, replace(config, compute=compute))


def coverage(
    grid: Grid, chunks: Sequence[Cells], config: RunConfig, *, first: bool = False
) -> Map:
    """Summed blending weight [H, W] of patches at heatmap scale.

    Args:
        grid: of the slide.
        chunks: cells [n, 2] each.
        config: its grid and blending.
        first: only of the patches that adaptive overlap predicts in any case.
    """
    canvas = Canvas.empty((), width=grid.hm_width, height=grid.hm_height)
    window = window_of(config)
    for cells in chunks:
        blocks, index = share_blocks(cells, config.grid.blocks_per_side)
        if first:
            index = index[cover(index, len(blocks))]
        sums, weight = sum_patches(
            {}, index, len(blocks), window=window, hm_stride=config.grid.hm_stride
        )
        canvas.add(blocks, sums, weight)
    return canvas.weight


def check_heatmap(
    run: RunDirectory, record: DoneRecord, config: RunConfig
) -> Iterator[str]:
    """Yield what is wrong with a finished slide's heatmap.

    Its weight must be that of the patch table's patches, each counted once; every
    channel must be a number where there is weight and 0 elsewhere.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    heatmap = read_heatmap(run.heatmap(record.slide.slide_id))
    grid = record.slide.grid(config.grid)
    if heatmap.weight.shape != (grid.hm_height, grid.hm_width):
        yield (
            f"{heatmap.width} x {heatmap.height} px, where the slide's grid has "
            f"{grid.hm_width} x {grid.hm_height}"
        )
        return
    chunks = chunks_of(run, record, config)
    patches = sum(map(len, chunks))
    if patches != record.slide.patches:
        yield f"{record.slide.patches} patches recorded, {patches} in the patch table"
        return
    most = coverage(grid, chunks, config)
    least = most
    if config.grid.overlap == "adaptive":
        least = coverage(grid, chunks, config, first=True)
    yield from check_weight(heatmap.weight, least=least, most=most)
    yield from check_values(heatmap, cascade=config.ensemble.cascade)
    yield from check_class_maps(heatmap, config)


def check_weight(weight: Map, *, least: Map, most: Map) -> Iterator[str]:
    """Yield where a heatmap's weight is not that of its patches.

    Args:
        weight: [H, W], of the heatmap.
        least: [H, W], of the patches that must have been predicted.
        most: [H, W], of all patches.
    """
    for what, wrong in (
        ("patches are missing", weight < least * (1 - ROUNDING)),
        ("patches are counted more than once", weight > most * (1 + ROUNDING)),
        ("the weight is no number", ~np.isfinite(weight)),
    ):
        if wrong.any():
            yield f"{what}, at {_some_pixel(wrong)}"


def check_values(heatmap: Heatmap, *, cascade: bool) -> Iterator[str]:
    """Yield channels that hold what no prediction can be."""
    covered = heatmap.covered
    for name, values in zip(heatmap.channels, heatmap.data, strict=True):
        wrong = ~np.isfinite(values)
        if cascade and name == "epistemic":
            wrong &= ~np.isnan(values)  # one member alone has seen the pixel
        is_share = name in ("probability", WHOLE) or name.startswith(CLASS)
        upper = 1.0 if is_share else np.inf
        wrong |= (values < -OVER_ONE) | (values > upper + OVER_ONE)
        wrong |= ~covered & (values != 0)
        if wrong.any():
            yield f"{name} holds {values[wrong][0]} at {_some_pixel(wrong)}"


def check_class_maps(heatmap: Heatmap, config: RunConfig) -> Iterator[str]:
    """Yield channels of classes that are missing, or do not add up."""
    found = [n for n in heatmap.channels if n == WHOLE or n.startswith(CLASS)]
    if found != list(config.class_channels):
        yield (
            f"has the classes' channels {', '.join(found) or 'none'}, not "
            f"{', '.join(config.class_channels) or 'none'}"
        )
        return
    kept = kept_classes(found)
    sums = [("all classes", kept, heatmap.covered.astype(np.float32))]
    tumor = {m.tumor_classes for m in config.members}
    if len(tumor) == 1:  # else the probability is of other classes in each member
        sums.append(("the tumor classes", tumor.pop(), heatmap.probability))
    for what, names, want in sums if kept else []:
        where = [heatmap.channels.index(f"{CLASS}{name}") for name in names]
        total = heatmap.data[where].sum(axis=0)
        wrong = ~(np.abs(total - want) <= OFF_ONE)
        if wrong.any():
            yield (
                f"the probabilities of {what} add up to {total[wrong][0]:g}, not "
                f"{want[wrong][0]:g}, at {_some_pixel(wrong)}"
            )


def _some_pixel(wrong: NDArray[np.bool_]) -> str:
    """How many pixels, and where the first of them is."""
    row, col = np.argwhere(wrong)[0]
    return f"{np.count_nonzero(wrong)} px, the first in row {row}, column {col}"
