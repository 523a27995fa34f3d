"""Adaptive overlap and cascade: a sure "nothing here" is not predicted once more.

With adaptive overlap the patches of a chunk are predicted in two passes. The first
covers every pixel of the chunk, where possible once. Of the others, those are predicted
over which the first pass is in doubt: they then overlap as in the paper. Over the rest
a member's first pass stands for what it would have said. Each member decides for
itself, so that it does not matter whether the members share a process.

In a cascade the members take turns, the cheapest first, and a patch of which none of
those before was in doubt is not seen by the later ones.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.canvas import sum_patches, window_of
from digipath_ray.heatmap.heatmap import Map
from digipath_ray.networks.ensemble import MemberMaps, PatchMaps

Bools = NDArray[np.bool_]
Index = NDArray[np.int64]
"""[n, k, k], the blocks of each patch of a chunk."""
Predict = Callable[[Bools], PatchMaps]
"""Which patches [n] -> what a member says of them."""


def predict_where_in_doubt(
    predict: Predict, index: Index, first: Bools, config: RunConfig
) -> tuple[PatchMaps, Bools]:
    """A member's maps of a chunk's patches, and which of these it predicted.

    Args:
        predict: the member.
        index: [n, k, k], the blocks of each patch.
        first: [n], the patches of the first pass.
        config: ``grid`` and ``ensemble.blend``.

    Returns:
        The maps of all, and [n]. Of a patch that was not predicted the maps are what
        the first pass says there.
    """
    found = predict(first)
    if first.all():
        return found, first
    mean = _spread(found.mean, index, first, config)
    variance, classes = found.variance, found.classes
    if variance is not None:
        variance = _spread(variance, index, first, config)
    if classes is not None:
        classes = np.stack([_spread(c, index, first, config) for c in classes])
    again = _in_doubt(mean, variance, config) & ~first
    more = predict(again)
    mean[again] = more.mean
    if variance is not None and more.variance is not None:
        variance[again] = more.variance
    if classes is not None and more.classes is not None:
        classes[:, again] = more.classes
    return PatchMaps(mean, variance, classes), first | again


def wanted(before: MemberMaps | None, patches: int, config: RunConfig) -> Bools:
    """The patches [n] that the next member is to see.

    Args:
        before: maps of the members before it; None of the first.
        patches: how many there are.
        config: ``grid`` and ``ensemble.cascade``.
    """
    if before is None or not config.ensemble.cascade:
        return np.ones(patches, np.bool_)
    doubt = np.zeros(patches, np.bool_)
    for i, mean in enumerate(before.means):
        variance = None if before.variances is None else before.variances[i]
        # A map is 0 over patches that its member has not seen: no doubt of its own.
        doubt |= _in_doubt(mean, variance, config)
    return doubt


def _in_doubt(mean: Map, variance: Map | None, config: RunConfig) -> Bools:
    """Patches [n] somewhere in which there may be something, by the run's settings."""
    grid = config.grid
    width_px = grid.doubt_um / (grid.mpp * grid.downsample)
    return in_doubt(mean, variance, width_px=width_px, bound=grid.doubt)


def _spread(values: Map, index: Index, first: Bools, config: RunConfig) -> Map:
    """The maps of the first pass, and what they say of the others, [n, p, p]."""
    window = window_of(config)
    step = config.grid.hm_stride
    spread = expected(values, index, first, window=window, step=step)
    # Where patches of the first pass overlap, each keeps what it said itself.
    spread[first] = values
    return spread


def cover(index: Index, blocks: int) -> Bools:
    """Patches [n] that together cover all that the chunk's patches do, mostly once.

    Args:
        index: [n, k, k], the blocks of each patch.
        blocks: how many blocks the chunk has.
    """
    chosen = np.zeros(len(index), np.bool_)
    bare = np.zeros(blocks, np.bool_)
    bare[index.ravel()] = True
    while bare.any():
        # The patch with most that is still bare; the first of several, in raster order.
        best = int(bare[index].sum(axis=(1, 2)).argmax())
        chosen[best] = True
        bare[index[best].ravel()] = False
    return chosen


def expected(values: Map, index: Index, first: Bools, *, window: Map, step: int) -> Map:
    """What the first pass says over every patch, [n, p, p].

    Args:
        values: [f, p, p], the maps of the patches of the first pass.
        index: [n, k, k], the blocks of each patch.
        first: [n], the f patches of the first pass; together they cover all blocks.
        window: blending weight [p, p].
        step: side of a block, heatmap px.
    """
    blocks = int(index.max()) + 1
    sums, weight = sum_patches(
        {"": values}, index[first], blocks, window=window, hm_stride=step
    )
    # Of a patch that is no multiple of the stride, the last blocks are covered in part.
    mean = np.divide(sums[0], weight, out=np.zeros_like(weight), where=weight > 0)
    n, k, _ = index.shape
    side = k * step
    tiled = mean[index].transpose(0, 1, 3, 2, 4).reshape(n, side, side)
    return tiled[:, : window.shape[0], : window.shape[1]]


def in_doubt(
    mean: Map, variance: Map | None, *, width_px: float, bound: float
) -> Bools:
    """Patches [n] somewhere in which there may be something.

    That is where the probability plus its standard deviation between the test-time
    augmentations, averaged over a square of the smallest lesion, reaches the bound.

    Args:
        mean: [n, p, p], posterior.
        variance: [n, p, p], its variance over the augmentations; None without.
        width_px: of the smallest lesion, heatmap px.
        bound: 0: always in doubt; 1: never.
    """
    most = mean if variance is None else mean + np.sqrt(variance)
    size = min(max(1, round(width_px)), mean.shape[-1])
    smooth = uniform_filter(most, size=(0, size, size), mode="nearest")
    return np.asarray(smooth.max(axis=(1, 2)) >= bound)
