"""A network that a test builds in no time: four convolutions, no library but torch."""

import time

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """Half the resolution and back, with the parts that a fit expects of a network.

    Args:
        width: channels between its convolutions.
        norm: normalize batches.
        seconds: that an answer takes at least, for tests that end a run in the middle.
        spare: so many more weights that change nothing, for large checkpoints.
        most: patches that there is memory for at once; 0: for any number.
        classes: that it answers with.
    """

    def __init__(
        self,
        width: int = 8,
        norm: bool = True,
        seconds: float = 0.0,
        spare: int = 0,
        most: int = 0,
        classes: int = 2,
    ) -> None:
        super().__init__()
        self.most = most
        self.seconds = seconds
        self.spare = nn.Parameter(torch.zeros(spare)) if spare else None
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.segmentation_head = nn.Conv2d(width, classes, 3, padding=1)
        with torch.no_grad():  # else random weights answer 0.5 wherever they are asked
            self.segmentation_head.weight.mul_(10)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.seconds and not pixels.is_meta:
            time.sleep(self.seconds)
        if self.most and len(pixels) > self.most and not pixels.is_meta:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        answer: Tensor = self.segmentation_head(self.decoder(self.encoder(pixels)))
        return answer if self.spare is None else answer + 0 * self.spare.sum()


class Around(nn.Module):
    """A network with a context, whose answer is the context's green in its middle.

    The context's px that show the patch are enlarged to the patch's, so that the answer
    lies where the context does; the patch's green has a tenth of the weight.

    Args:
        factor: how many times coarser the context is.
        classes: that it answers with; of the third and further ones it knows as little
            as of the first.
    """

    def __init__(self, factor: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes
        self.factor = factor
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor, context: Tensor) -> Tensor:
        side = pixels.shape[-1]
        inner = side // self.factor
        start = (side - inner) // 2
        middle = context[:, 1:2, start : start + inner, start : start + inner]
        around = middle.repeat_interleave(self.factor, 2).repeat_interleave(
            self.factor, 3
        )
        green = (0.9 * around + 0.1 * pixels[:, 1:2]) * self.scale
        others = [torch.zeros_like(green)] * (self.classes - 2)
        return torch.cat([torch.zeros_like(green), green, *others], dim=1)
