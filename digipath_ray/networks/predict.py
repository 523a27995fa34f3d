"""Members on one device, and what they say of a run's chunks."""

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from digipath_ray.config.classes import summed_classes
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.context import Contexts
from digipath_ray.machine import processor_name
from digipath_ray.networks.adaptive import (
    Bools,
    cover,
    predict_where_in_doubt,
    wanted,
)
from digipath_ray.networks.chunk_pixels import (
    ChunkViews,
    Views,
)
from digipath_ray.networks.ensemble import (
    MemberMaps,
    PatchMaps,
    check_probabilities,
    combine_members,
)
from digipath_ray.networks.posteriors import predict_blocks
from digipath_ray.networks.references import reference_of
from digipath_ray.networks.weights import load_member
from digipath_ray.stain.estimate import StainEstimate

log = logging.getLogger(__name__)

Channels = dict[str, NDArray[np.float32]]
"""Name -> one number per heatmap px of n patches, [n, h, w]."""


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
        self.groups = {
            spec.name: [summed_classes(name, spec) for name in config.class_channels]
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
            found = self._predict_member(name, views, seen)
            maps = found if maps is None else maps.followed_by(found)
        assert maps is not None
        return maps

    def _predict_member(
        self, name: str, views: Views | None, seen: Bools
    ) -> MemberMaps:
        """A member's map of the patches to be ``seen``, 0 of the others.

        Raises:
            MemberError: what it says of its classes is no probability.
        """
        side, channels = self.config.grid.hm_patch, self.config.class_channels
        means = np.zeros((1, len(seen), side, side), np.float32)
        variances = np.zeros_like(means) if len(self.config.ensemble.tta) > 1 else None
        classes = None
        if channels:
            classes = np.zeros((len(channels), *means.shape[1:]), np.float32)
        predicted = np.zeros((1, len(seen)), np.bool_)
        if views is not None:
            maps, by_itself = self._predict_seen(name, views.take(seen))
            means[0, seen], predicted[0, seen] = maps.mean, by_itself
            if variances is not None:
                variances[0, seen] = maps.variance
            if classes is not None and maps.classes is not None:
                # Here: their sum over members would not say whose they are.
                for channel, values in zip(channels, maps.classes, strict=True):
                    check_probabilities(name, channel, values)
                classes[:, seen] = maps.classes
        return MemberMaps(
            means=means,
            variances=variances,
            predicted=predicted,
            seen=seen[None],
            classes=classes,
        )

    def _predict_seen(self, name: str, views: Views) -> tuple[PatchMaps, Bools]:
        """A member's map of patches, of which it predicts those that it must."""
        config, index = self.config, views.index
        adaptive = config.grid.overlap == "adaptive"
        every = np.ones(len(index), np.bool_)
        first = cover(index, len(views.blocks)) if adaptive else every

        return predict_where_in_doubt(
            lambda which: self._predict_patches(name, views.take(which)),
            index,
            first,
            config,
        )

    def _predict_patches(self, name: str, views: Views) -> PatchMaps:
        """A member's map of patches, in smaller batches if memory is short."""
        config = self.config
        while True:
            try:
                return predict_blocks(
                    self.members[name],
                    views.blocks,
                    views.index,
                    context=views.context,
                    patch_px=config.grid.patch_px,
                    tta=config.ensemble.tta,
                    downsample=config.grid.downsample,
                    batch_size=self.batch_size,
                    pad=self.pad,
                    groups=self.groups[name],
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
