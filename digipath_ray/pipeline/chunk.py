"""A chunk of patches: first the pixels of its blocks, then its weighted sums."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.run import RunConfig
from digipath_ray.context import lay_context, read_context
from digipath_ray.heatmap.canvas import sum_patches, window_of
from digipath_ray.patches import Cells, Grid, read_blocks, share_blocks
from digipath_ray.slide.open import Pixels, Slide

Arrays = Mapping[str, NDArray[np.float32]]
"""Channel -> values [n, p, p] of a chunk's patches at heatmap scale; a patch that was
not predicted (adaptive overlap) is NaN."""


@dataclass(frozen=True, kw_only=True)
class ChunkSums:
    """A chunk's share of the canvas: weighted sums per block."""

    chunk: int
    blocks: Cells
    sums: NDArray[np.float32]
    weight: NDArray[np.float32]


def read_chunk(
    slide: Slide, grid: Grid, cells: Cells, config: RunConfig
) -> tuple[Cells, Pixels, NDArray[np.int64]]:
    """A chunk's blocks: positions [nb, 2], pixels, and index [n, k, k]."""
    blocks, index = share_blocks(cells, grid.spec.blocks_per_side)
    pixels = read_blocks(slide, grid, blocks, edge=config.slide.edge)
    return blocks, pixels, index


def read_contexts(
    slide: Slide, grid: Grid, cells: Cells, config: RunConfig
) -> dict[int, tuple[Pixels, NDArray[np.int64]]]:
    """The contexts of a chunk's patches that members ask for: blocks and index."""
    edge = config.slide.edge
    return {
        factor: read_context(
            slide, lay_context(slide.info, grid, factor), cells, edge=edge
        )
        for factor in config.contexts
    }


def sum_chunk(
    values: Arrays,
    blocks: Cells,
    index: NDArray[np.int64],
    chunk: int,
    config: RunConfig,
) -> ChunkSums:
    """A chunk's weighted sums per block from its patches' channels."""
    window = window_of(config)
    predicted = ~np.isnan(values[config.channels[0]][:, 0, 0])
    sums, weight = sum_patches(
        {name: values[name][predicted] for name in config.summed},
        index[predicted],
        len(blocks),
        window=window,
        hm_stride=config.grid.hm_stride,
    )
    return ChunkSums(chunk=chunk, blocks=blocks, sums=sums, weight=weight)
