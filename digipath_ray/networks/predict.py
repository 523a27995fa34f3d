"""Patches of uint8 pixels into tumor posteriors at heatmap scale.

Test-time augmentations are each applied to the ORIGINAL patch and undone on its
posterior, then averaged down to heatmap px on the member's device, so that little
travels. Batches have one shape: the last one is padded and its padding dropped.
"""

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from digipath_ray.config.run import MemberSpec, RunConfig, Transform
from digipath_ray.context import Contexts
from digipath_ray.machine import processor_name
from digipath_ray.networks.adaptive import (
    Bools,
    cover,
    predict_where_in_doubt,
    wanted,
)
from digipath_ray.networks.build import Member
from digipath_ray.networks.chunk_pixels import (
    ChunkViews,
    Views,
    to_device,
)
from digipath_ray.networks.ensemble import MemberMaps, combine_members
from digipath_ray.networks.references import reference_of
from digipath_ray.networks.weights import load_member
from digipath_ray.stain.estimate import StainEstimate

log = logging.getLogger(__name__)

Channels = dict[str, NDArray[np.float32]]
"""Name -> one number per heatmap px of n patches, [n, h, w]."""
Turn = Callable[[Tensor], Tensor]


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
) -> tuple[Tensor, Tensor | None]:
    """A member's posterior of patches uint8 [n, 3, P, P] at heatmap scale.

    Args:
        member: the member.
        patches: as above.
        contexts: the same around them, for a member that sees one.
        tta: transforms to average over.
        downsample: model px per heatmap px.
        batch_size: patches that it sees at once.
        pad: fill up the last batch, so that all have one shape.

    Returns:
        On the member's device, float32 [n, P / downsample, P / downsample]: the mean
        over the transforms, and its population variance over them (eq. 4), the
        member's aleatoric uncertainty; None for a single transform.
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
    for start in range(0, n, batch_size):
        batch = tuple(
            view[start : start + batch_size].to(member.device)
            for view in (patches, contexts)
            if view is not None
        )
        stop = start + len(batch[0])
        if pad:
            batch = tuple(_filled_up(view, batch_size) for view in batch)
        posteriors = _augmented(member, batch, tta, downsample)[:, : stop - start]
        mean[start:stop] = posteriors.mean(0)
        if variance is not None:
            # Two passes: E[p^2] - E[p]^2 in float32 can come out below zero.
            variance[start:stop] = (posteriors - mean[start:stop]).square().mean(0)
    return mean, variance


def _filled_up(batch: Tensor, size: int) -> Tensor:
    """The batch, its last patch repeated until there are ``size``."""
    more = batch[-1:].expand(size - len(batch), -1, -1, -1)
    return torch.cat([batch, more])


def _augmented(
    member: Member, batch: tuple[Tensor, ...], tta: Sequence[Transform], downsample: int
) -> Tensor:
    """Posteriors [t, b, h, w] at heatmap scale under each transform, undone."""
    posteriors = []
    for name in tta:
        apply, undo = TRANSFORM_PAIRS[name]
        posterior = undo(member(*map(apply, batch)))
        posteriors.append(_average_down(posterior, downsample))
    return torch.stack(posteriors)


def _average_down(posterior: Tensor, downsample: int) -> Tensor:
    """The exact mean of each heatmap px's square of ``downsample`` model px."""
    b, height, width = posterior.shape
    d = downsample
    return posterior.reshape(b, height // d, d, width // d, d).mean((2, 4))


@torch.inference_mode()
def predict_blocks(
    member: Member,
    blocks: NDArray[np.uint8] | Tensor,
    index: NDArray[np.int64],
    *,
    patch_px: int,
    tta: Sequence[Transform],
    downsample: int,
    batch_size: int,
    pad: bool = False,
    context: tuple[Tensor, NDArray[np.int64]] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
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
        mean, variance = predict_patches(
            member,
            patches,
            contexts=around[0] if around else None,
            tta=tta,
            downsample=downsample,
            batch_size=batch_size,
            pad=pad,
        )
        posteriors.append(
            mean[None] if variance is None else torch.stack([mean, variance])
        )
    home = torch.cat(posteriors, dim=1).cpu().numpy()
    return home[0], home[1] if len(home) > 1 else None


class EnsemblePredictor:
    """Members on one device, and their prediction of a run's chunks."""

    def __init__(
        self,
        members: Sequence[MemberSpec],
        config: RunConfig,
        *,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        """Load the members.

        Args:
            members: those of ``config.members`` to hold here.
            config: patch, downsample, transforms, batch size and precision.
            device: where the members run.
            threads: CPU threads of this process's torch; None leaves them as they are.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.config = config
        on_gpu = torch.device(device).type == "cuda"
        self.pad = config.fills_batches(on_gpu=on_gpu)
        self.batch_size = (
            config.compute.batch_size if self.pad else config.cpu_batch_size
        )
        self.members = {
            spec.name: load_member(
                spec,
                device=device,
                precision=config.compute.precision,
                compile_networks=config.compute.compile_networks,
                patch_px=config.grid.patch_px,
            )
            for spec in members
        }
        method = config.slide.stain
        self.references = {
            spec.name: None if method == "none" else reference_of(spec, method)
            for spec in members
        }
        self.reduced_to: int | None = None
        """Patches of a batch, if memory was too short for what was asked."""
        self.device_name = (
            torch.cuda.get_device_name(device) if on_gpu else processor_name()
        )

    def predict(
        self,
        blocks: NDArray[np.uint8],
        index: NDArray[np.int64],
        before: MemberMaps | None = None,
        stain: StainEstimate | None = None,
        contexts: Contexts | None = None,
    ) -> MemberMaps:
        """The members' maps of a chunk's pixels, not yet combined.

        Args:
            blocks: [nb, S, S, 3], the pixels of a chunk.
            index: [n, k, k], the blocks of each patch.
            before: maps of the members before these, if any.
            stain: of the slide; its pixels are brought to each member's reference.
            contexts: of the patches, those that members ask for.

        Returns:
            The maps of the members before and of these.
        """
        chunk: ChunkViews | None = None
        maps = before
        for name, member in self.members.items():
            seen = wanted(maps, len(index), self.config)
            views: Views | None = None
            if seen.any():
                chunk = chunk or ChunkViews(
                    blocks, index, contexts or {}, device=member.device, stain=stain
                )
                views = chunk.of(member.context_mpp_factor, self.references[name])
            found = self._predict_member(member, views, seen)
            maps = found if maps is None else maps.followed_by(found)
        assert maps is not None
        return maps

    def _predict_member(
        self,
        member: Member,
        views: Views | None,
        seen: Bools,
    ) -> MemberMaps:
        """A member's map of the patches to be ``seen``, 0 of the others."""
        side = self.config.grid.hm_patch
        means = np.zeros((1, len(seen), side, side), np.float32)
        variances = np.zeros_like(means) if len(self.config.ensemble.tta) > 1 else None
        predicted = np.zeros((1, len(seen)), np.bool_)
        if views is not None:
            mean, variance, by_itself = self._predict_seen(member, views.take(seen))
            means[0, seen], predicted[0, seen] = mean, by_itself
            if variances is not None:
                variances[0, seen] = variance
        return MemberMaps(
            means=means, variances=variances, predicted=predicted, seen=seen[None]
        )

    def _predict_seen(
        self, member: Member, views: Views
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, Bools]:
        """A member's map of patches, of which it predicts those that it must."""
        config, index = self.config, views.index
        adaptive = config.grid.overlap == "adaptive"
        every = np.ones(len(index), np.bool_)
        first = cover(index, len(views.blocks)) if adaptive else every

        return predict_where_in_doubt(
            lambda which: self._predict_patches(member, views.take(which)),
            index,
            first,
            config,
        )

    def _predict_patches(
        self, member: Member, views: Views
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """A member's map of patches, in smaller batches if memory is short."""
        config = self.config
        while True:
            try:
                return predict_blocks(
                    member,
                    views.blocks,
                    views.index,
                    context=views.context,
                    patch_px=config.grid.patch_px,
                    tta=config.ensemble.tta,
                    downsample=config.grid.downsample,
                    batch_size=self.batch_size,
                    pad=self.pad,
                )
            except torch.OutOfMemoryError as e:
                said = str(e).splitlines()[0]
            # Out of the handler: the error holds on to what was allocated.
            self._take_smaller_batches(said)

    def _take_smaller_batches(self, said: str) -> None:
        """Halve the batch from now on, as the device has no memory for it.

        Raises:
            MemoryError: it is one patch already.
        """
        if self.batch_size == 1:
            raise MemoryError(
                f"the device has no memory for one patch ({said}): free some, or "
                "take --precision float16 or fewer members at once (--pools per-member)"
            )
        self.batch_size = self.reduced_to = self.batch_size // 2
        torch.cuda.empty_cache()
        log.warning("batches of %d patches from now on: %s", self.batch_size, said)

    def predict_combined(
        self,
        blocks: NDArray[np.uint8],
        index: NDArray[np.int64],
        stain: StainEstimate | None = None,
        contexts: Contexts | None = None,
    ) -> Channels:
        """The heatmap's channels of a chunk's pixels, all members being here.

        Raises:
            MemberError: a member's map is no probability, or the member is not here.
        """
        maps = self.predict(blocks, index, stain=stain, contexts=contexts)
        return combine_members(maps, self.config)

    @staticmethod
    def end_process_if_device_is_lost(error: Exception) -> None:
        """End this process, at once, if the error means that its GPU context is lost.

        Every later call would fail too: only a new process helps. Running out of memory
        does not destroy the context.
        """
        if isinstance(error, RuntimeError) and "CUDA error" in str(error):
            log.error("the GPU is lost to this process, which ends: %s", error)
            os._exit(1)


def load_ensemble(
    config: RunConfig, *, device: str | torch.device = "cpu"
) -> Callable[..., Channels]:
    """All members of a run: blocks and index of a chunk -> its heatmap channels.

    Of a slide that is normalized ``stain`` may be given, and ``contexts`` must be
    where members see them.

    Raises:
        ValueError: the device is a GPU that torch does not see, or weights are wrong.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device = {str(device)!r}: torch sees no GPU here: give 'cpu', or see "
            "digipath doctor"
        )
    return EnsemblePredictor(config.members, config, device=device).predict_combined
