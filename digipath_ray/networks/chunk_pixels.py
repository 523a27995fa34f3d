"""The pixels of a chunk on a member's device, in the stains that the member expects."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
