"""Layers that count and pad as TensorFlow does, where torch does otherwise."""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - the name torch's users know
from torch import Tensor, nn

KERAS_EPS = 1e-3
"""Keras's epsilon of a normalization, where a definition gives none."""
KERAS_MOMENTUM = 0.01
"""Keras's momentum 0.99, in torch's sense."""


def batch_norm(channels: int, *, eps: float = KERAS_EPS) -> nn.BatchNorm2d:
    """Batch normalization as Keras has it."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=KERAS_MOMENTUM)


def check_sides(x: Tensor, divisor: int) -> None:
    """Refuse sides that the network cannot halve and double back.

    Raises:
        RuntimeError: height or width is no multiple of ``divisor``.
    """
    height, width = x.shape[-2:]
    if height % divisor or width % divisor:
        raise RuntimeError(
            f"patches of {width} x {height} px: both sides must be divisible "
            f"by {divisor}"
        )


def pad_same(
    x: Tensor, *, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0
) -> Tensor:
    """Pad [B, C, H, W] as TensorFlow's "same", which answers ceil(size / stride).

    What does not split evenly goes right and below: a kernel of 3 at stride 2 on an
    even size pads nothing left and above, where torch's ``padding=1`` pads one each.
    """
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


class SameConv2d(nn.Conv2d):
    """A convolution with stride, padded as TensorFlow's "same"."""

    def forward(self, input: Tensor) -> Tensor:
        """Of [B, C, H, W], [B, out, ceil(H / stride), ceil(W / stride)]."""
        padded = pad_same(input, kernel=self.kernel_size, stride=self.stride)
        return super().forward(padded)


class SameMaxPool2d(nn.Module):
    """The greatest of 3 x 3 at stride 2, padded as TensorFlow's "same"."""

    def forward(self, x: Tensor) -> Tensor:
        """Of [B, C, H, W], [B, C, ceil(H / 2), ceil(W / 2)]."""
        padded = pad_same(x, kernel=(3, 3), stride=(2, 2), value=-float("inf"))
        return F.max_pool2d(padded, kernel_size=3, stride=2)
