"""Blends overlapping patches into a heatmap.

``sum_patches`` turns the patches of a chunk into partial sums of stride-sized blocks,
a :class:`Canvas` adds blocks up in any order, and ``Canvas.heatmap`` divides by the
weight, in place. Everything here is in heatmap px (hm), one px = downsample model px;
nothing is smoothed, clipped or colored, so a value in a file is the value that was
predicted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.run import ESTIMATED, Blend, GridSpec, RunConfig
from digipath_ray.heatmap.heatmap import Heatmap, Map


def blend_window(spec: GridSpec, blend: Blend, *, border: int = 0) -> Map:
    """Weight [hm_patch, hm_patch] of a patch's pixels where patches overlap.

    Positive but for the ``border``, heatmap px along each edge, where it is 0: a pixel
    that only one patch's corner covers keeps its value. ``mean`` weighs all alike (the
    paper), ``linear`` is a tent, ``gaussian`` has a sigma of an eighth of the
    patch (nnU-Net's and MONAI's choice).
    """
    size = spec.hm_patch
    # Distance from the patch's center; half a pixel off for an even number of pixels.
    offset = np.abs(np.arange(size) - (size - 1) / 2)
    match blend:
        case "mean":
            profile = np.ones(size)
        case "linear":
            profile = 1 - offset / (size / 2)
        case "gaussian":
            profile = np.exp(-0.5 * (offset / (size / 8)) ** 2)
    profile[:border] = profile[size - border :] = 0
    return np.outer(profile, profile).astype(np.float32)


def window_of(config: RunConfig) -> Map:
    """The blending weight of a run's patches [hm_patch, hm_patch]."""
    return blend_window(config.grid, config.ensemble.blend, border=config.hm_border)


def sum_patches(
    values: Mapping[str, Map],
    index: NDArray[np.integer],
    blocks: int,
    *,
    window: Map,
    hm_stride: int,
) -> tuple[Map, Map]:
    """Partial sums of one chunk: [channels, blocks, s, s] and weight [blocks, s, s].

    Args:
        values: channel -> patches [n, p, p]; channels keep this order.
        index: [n, k, k], the chunk's number (0..blocks-1) of each patch's blocks;
            k * hm_stride may exceed p, then the last blocks are covered in part.
        blocks: how many blocks the chunk has.
        window: blending weight [p, p].
        hm_stride: side s of a block.

    Raises:
        ValueError: shapes do not fit, or two patches have the same cell.
    """
    side = _check_patches(values, index, blocks, window=window, hm_stride=hm_stride)
    sums = np.zeros((len(values), blocks, hm_stride, hm_stride), np.float32)
    weight = np.zeros((blocks, hm_stride, hm_stride), np.float32)
    for row in range(side):
        for col in range(side):
            rows = slice(row * hm_stride, (row + 1) * hm_stride)
            cols = slice(col * hm_stride, (col + 1) * hm_stride)
            part = window[rows, cols]
            height, width = part.shape
            # No block comes twice in `where` (checked), so += loses nothing.
            where = index[:, row, col]
            weight[where, :height, :width] += part
            for channel, patches in zip(sums, values.values(), strict=True):
                channel[where, :height, :width] += patches[:, rows, cols] * part
    return sums, weight


def _check_patches(
    values: Mapping[str, Map],
    index: NDArray[np.integer],
    blocks: int,
    *,
    window: Map,
    hm_stride: int,
) -> int:
    """The checked number of blocks per side."""
    n, side = index.shape[0], -(-int(window.shape[0]) // hm_stride)
    if index.shape != (n, side, side):
        raise ValueError(
            f"index has shape {index.shape}: a patch of {window.shape[0]} px with "
            f"stride {hm_stride} has {side} x {side} blocks"
        )
    for channel, patches in values.items():
        if patches.shape != (n, *window.shape):
            raise ValueError(
                f"{channel}: patches have shape {patches.shape}, not "
                f"{(n, *window.shape)}"
            )
    if n and not 0 <= index.min() <= index.max() < blocks:
        raise ValueError(f"index goes beyond the chunk's {blocks} blocks")
    if (np.diff(np.sort(index.reshape(n, -1), axis=0), axis=0) == 0).any():
        raise ValueError("two patches of a chunk have the same cell")
    return side


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """Sums of a slide's blocks so far; blocks may come in any order.

    Attributes:
        channels: names in the order of ``sums``.
        sums: weighted sums [channels, height, width].
        weight: [height, width].
    """

    channels: tuple[str, ...]
    sums: Map
    weight: Map

    @classmethod
    def empty(cls, channels: Sequence[str], *, width: int, height: int) -> Self:
        """A canvas of heatmap px with nothing on it."""
        return cls(
            channels=tuple(channels),
            sums=np.zeros((len(channels), height, width), np.float32),
            weight=np.zeros((height, width), np.float32),
        )

    def add(self, blocks: NDArray[np.integer], sums: Map, weight: Map) -> None:
        """Add blocks, cutting off what overhangs the far edge.

        Args:
            blocks: [n, 2], (row, col) of each block, in blocks from the top left.
            sums: [channels, n, s, s] of :func:`sum_patches`.
            weight: [n, s, s].

        Raises:
            ValueError: shapes do not fit, or a block starts before the grid.
        """
        n, side = weight.shape[:2]
        if sums.shape != (len(self.channels), *weight.shape) or blocks.shape != (n, 2):
            raise ValueError(
                f"blocks {blocks.shape}, sums {sums.shape} and weight {weight.shape} "
                f"do not fit {len(self.channels)} channels"
            )
        if n and blocks.min() < 0:
            raise ValueError(f"block {blocks.min(axis=0)}: the grid starts at (0, 0)")
        for i, (row, col) in enumerate(blocks.tolist()):
            # Blocks of the last row and column may reach beyond the slide: cut off.
            target = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
            height, width = self.weight[target].shape
            self.weight[target] += weight[i, :height, :width]
            self.sums[:, *target] += sums[:, i, :height, :width]

    def heatmap(self, *, mpp_x: float, mpp_y: float) -> Heatmap:
        """The weighted mean at each pixel, 0 where there is no patch.

        In a cascade epistemic uncertainty is the mean over the patches that two members
        have seen, and NaN where there is none. The canvas is used up: its sums become
        the means, so that a slide's maps are in memory once.

        Args:
            mpp_x: um per HEATMAP px, i.e. the effective mpp times downsample.
            mpp_y: the same, from top to bottom.
        """
        # Where no patch lies weight and sums are 0: the 0 stays, without a warning.
        data = self.sums
        np.divide(data, self.weight, out=data, where=self.weight > 0)
        channels = self.channels
        if channels[-1] == ESTIMATED:
            channels, data, share = channels[:-1], data[:-1], data[-1]
            values = data[channels.index("epistemic")]
            # The mean over all patches, 0 of the others, by the weight of these.
            np.divide(values, share, out=values, where=share > 0)
            values[(share == 0) & (self.weight > 0)] = np.nan
        return Heatmap(
            channels=channels,
            data=data,
            weight=self.weight,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
        )
