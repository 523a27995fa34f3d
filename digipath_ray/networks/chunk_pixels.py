"""The pixels of a chunk on a member's device, in the stains that the member expects."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from digipath_ray.context import Contexts
from digipath_ray.networks.stains import normalize_on_device
from digipath_ray.stain.estimate import StainEstimate
from digipath_ray.stain.normalize import map_stains


def to_device(blocks: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The blocks on a device, by way of pinned memory where it is a GPU.

    Always copied: arrays that Ray hands out are read-only.
    """
    host = torch.empty(
        blocks.shape, dtype=torch.uint8, pin_memory=device.type == "cuda"
    )
    host.numpy()[...] = blocks
    return host.to(device, non_blocking=True)


Index = NDArray[np.int64]
"""[n, k, k], the blocks of each of n patches."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """What a member sees of patches: their blocks, and those of their contexts.

    Attributes:
        blocks: uint8 [nb, S, S, 3] on the member's device.
        index: the blocks of each patch.
        context: the same of the contexts, if the member has one.
    """

    blocks: Tensor
    index: Index
    context: tuple[Tensor, Index] | None = None

    def take(self, which: NDArray[np.bool_]) -> "Views":
        """The same of the patches ``which`` [n]."""
        context = self.context
        if context is not None:
            context = context[0], context[1][which]
        return replace(self, index=self.index[which], context=context)


class ChunkPixels:
    """A chunk's blocks, copied to a device when they are first asked for.

    Members of one reference share the normalized pixels.
    """

    def __init__(
        self,
        blocks: NDArray[np.uint8],
        device: torch.device,
        stain: StainEstimate | None,
    ) -> None:
        """Remember the blocks [nb, S, S, 3] and the stains of their slide."""
        self.blocks = blocks
        self.device = device
        self.stain = stain
        self._stored: Tensor | None = None
        self._normalized: tuple[StainEstimate, Tensor] | None = None

    def towards(self, reference: StainEstimate | None) -> Tensor:
        """The blocks, in the stains of the reference if the slide is normalized."""
        if self._stored is None:
            self._stored = to_device(self.blocks, self.device)
        if self.stain is None or reference is None:
            return self._stored
        if self._normalized is None or self._normalized[0] != reference:
            self._normalized = None  # its memory, before as much is taken again
            by = map_stains(self.stain, reference)
            self._normalized = reference, normalize_on_device(self._stored, by)
        return self._normalized[1]


class ChunkViews:
    """The pixels of a chunk and of its contexts, as its members see them."""

    def __init__(
        self,
        blocks: NDArray[np.uint8],
        index: Index,
        contexts: Contexts,
        *,
        device: torch.device,
        stain: StainEstimate | None,
    ) -> None:
        """Remember them; nothing is copied yet."""
        self._index = index
        self._own = ChunkPixels(blocks, device, stain)
        self._contexts = {
            factor: (ChunkPixels(around, device, stain), numbers)
            for factor, (around, numbers) in contexts.items()
        }

    def of(self, factor: int | None, reference: StainEstimate | None) -> Views:
        """What a member sees.

        Args:
            factor: how many times coarser its context is; None without.
            reference: the stains that it expects.

        Raises:
            ValueError: the chunk was read without that context.
        """
        views = Views(blocks=self._own.towards(reference), index=self._index)
        if factor is None:
            return views
        if factor not in self._contexts:
            raise ValueError(
                f"a member sees a context {factor} times as wide, which was not read: "
                "give contexts (digipath_ray.pipeline.chunk.read_contexts)"
            )
        around, numbers = self._contexts[factor]
        return replace(views, context=(around.towards(reference), numbers))
