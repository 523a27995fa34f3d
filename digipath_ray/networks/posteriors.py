"""A member's patches of uint8 pixels into posteriors at heatmap scale.

Test-time augmentations are each applied to the ORIGINAL patch and undone on its
posterior, then averaged down to heatmap px on the member's device, so that little
travels. Batches have one shape: the last one is padded and its padding dropped.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from digipath_ray.config.run import Transform
from digipath_ray.networks.build import Member
from digipath_ray.networks.chunk_pixels import to_device
from digipath_ray.networks.ensemble import PatchMaps

Turn = Callable[[Tensor], Tensor]
Pixels = NDArray[np.uint8]
Index = NDArray[np.int64]
Groups = Sequence[tuple[int, ...]]
"""Numbers of classes that are added up, for each map of them that is asked for."""


def _rotation(quarters: int) -> Turn:
    return lambda x: torch.rot90(x, quarters, (-2, -1))


def _flip(axis: int) -> Turn:
    return lambda x: torch.flip(x, (axis,))


TRANSFORM_PAIRS: dict[Transform, tuple[Turn, Turn]] = {
    "identity": (lambda x: x, lambda x: x),
    "rot90": (_rotation(1), _rotation(-1)),
    "rot180": (_rotation(2), _rotation(-2)),
    "rot270": (_rotation(3), _rotation(-3)),
    "hflip": (_flip(-1), _flip(-1)),
    "vflip": (_flip(-2), _flip(-2)),
}
"""Each transform of the last two axes and its exact inverse; rotations go
counterclockwise."""


def gather_patches(blocks: Tensor, index: Tensor, patch_px: int) -> Tensor:
    """Patches uint8 [n, 3, patch_px, patch_px] put together from shared blocks.

    Args:
        blocks: uint8 [nb, S, S, 3], stride-sized squares of pixels.
        index: long [n, k, k], the blocks of each patch, k * S >= patch_px.
        patch_px: side of a patch; what the blocks hold beyond it, right and below,
            is cut off.
    """
    n, k, _ = index.shape
    side = k * blocks.shape[1]
    if side < patch_px:
        raise ValueError(f"patch_px = {patch_px}: {k} blocks reach only {side} px")
    tiled = blocks[index].permute(0, 5, 1, 3, 2, 4)
    return tiled.reshape(n, 3, side, side)[:, :, :patch_px, :patch_px]


@torch.inference_mode()
def predict_patches(
    member: Member,
    patches: Tensor,
    *,
    contexts: Tensor | None = None,
    tta: Sequence[Transform],
    downsample: int,
    batch_size: int,
    pad: bool = False,
    groups: Groups = (),
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A member's posterior of patches uint8 [n, 3, P, P] at heatmap scale.

    Args:
        member: the member.
        patches: as above.
        contexts: the same around them, for a member that sees one.
        tta: transforms to average over.
        downsample: model px per heatmap px.
        batch_size: patches that it sees at once.
        pad: fill up the last batch, so that all have one shape.
        groups: of classes whose probability is wanted, too.

    Returns:
        On the member's device, float32 [n, P / downsample, P / downsample]: the mean
        over the transforms; its population variance over them (eq. 4), the member's
        aleatoric uncertainty, None for a single transform; and the groups' means
        [groups, n, ...], None without groups.
    """
    n, side = len(patches), patches.shape[-1]
    if side % downsample or patches.shape[-2] != side:
        raise ValueError(
            f"patches of shape {tuple(patches.shape)}: must be squares whose side is "
            f"a multiple of downsample ({downsample})"
        )
    shape = (n, side // downsample, side // downsample)
    mean = torch.empty(shape, device=member.device)
    variance = torch.empty_like(mean) if len(tta) > 1 else None
    classes = mean.new_empty((len(groups), *shape)) if groups else None
    for start in range(0, n, batch_size):
        batch = tuple(
            view[start : start + batch_size].to(member.device)
            for view in (patches, contexts)
            if view is not None
        )
        stop = start + len(batch[0])
        if pad:
            batch = tuple(_filled_up(view, batch_size) for view in batch)
        found, sums = _augmented(member, batch, tta, downsample, groups)
        posteriors = found[:, : stop - start]
        mean[start:stop] = posteriors.mean(0)
        if variance is not None:
            # Two passes: E[p^2] - E[p]^2 in float32 can come out below zero.
            variance[start:stop] = (posteriors - mean[start:stop]).square().mean(0)
        if classes is not None and sums is not None:
            classes[:, start:stop] = sums[:, : stop - start]
    return mean, variance, classes


def _filled_up(batch: Tensor, size: int) -> Tensor:
    """The batch, its last patch repeated until there are ``size``."""
    more = batch[-1:].expand(size - len(batch), -1, -1, -1)
    return torch.cat([batch, more])


def _augmented(
    member: Member,
    batch: tuple[Tensor, ...],
    tta: Sequence[Transform],
    downsample: int,
    groups: Groups,
) -> tuple[Tensor, Tensor | None]:
    """Posteriors [t, b, h, w] at heatmap scale under each transform, undone.

    And the mean over these of each group of classes, [groups, b, h, w]; None without.
    """
    posteriors, total = [], None
    for name in tta:
        apply, undo = TRANSFORM_PAIRS[name]
        views = map(apply, batch)
        if not groups:
            posterior = undo(member(*views))
        else:
            tumor, sums = member.with_sums(*views, groups=groups)
            posterior = undo(tumor)
            sums = undo(sums)
            # One group at a time, as the tumor's own: equal sums are equal to the bit.
            each = [_average_down(sums[:, g], downsample) for g in range(len(groups))]
            total = torch.stack(each) if total is None else total + torch.stack(each)
        posteriors.append(_average_down(posterior, downsample))
    return torch.stack(posteriors), None if total is None else total / len(tta)


def _average_down(posterior: Tensor, downsample: int) -> Tensor:
    """The exact mean of each heatmap px's square of ``downsample`` model px."""
    b, height, width = posterior.shape
    d = downsample
    return posterior.reshape(b, height // d, d, width // d, d).mean((2, 4))


@torch.inference_mode()
def predict_blocks(
    member: Member,
    blocks: Pixels | Tensor,
    index: Index,
    *,
    patch_px: int,
    tta: Sequence[Transform],
    downsample: int,
    batch_size: int,
    pad: bool = False,
    context: tuple[Tensor, Index] | None = None,
    groups: Groups = (),
) -> PatchMaps:
    """As :func:`predict_patches`, for the blocks of a chunk, in numpy.

    The blocks are copied to the member's device once (not at all if they are a tensor
    on it) and the results back once. Patches are gathered on the device batch by
    batch: all at once would take several times the memory.
    """
    if not isinstance(blocks, Tensor):
        blocks = to_device(blocks, member.device)
    views = [(blocks, index)] if context is None else [(blocks, index), context]
    on_device = [
        (pixels, torch.from_numpy(np.array(numbers, np.int64)).to(member.device))
        for pixels, numbers in views
    ]
    posteriors = []
    for start in range(0, max(1, len(index)), batch_size):  # no patch: one empty batch
        patches, *around = (
            gather_patches(pixels, numbers[start : start + batch_size], patch_px)
            for pixels, numbers in on_device
        )
        mean, variance, classes = predict_patches(
            member,
            patches,
            contexts=around[0] if around else None,
            tta=tta,
            downsample=downsample,
            batch_size=batch_size,
            pad=pad,
            groups=groups,
        )
        planes = [mean[None]]
        planes += [] if variance is None else [variance[None]]
        planes += [] if classes is None else [classes]
        posteriors.append(torch.cat(planes))
    home = torch.cat(posteriors, dim=1).cpu().numpy()
    first = 2 if len(tta) > 1 else 1
    return PatchMaps(
        mean=home[0],
        variance=home[1] if first == 2 else None,
        classes=home[first:] if groups else None,
    )
