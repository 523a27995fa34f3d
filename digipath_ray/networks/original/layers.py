"""Layers with TensorFlow's padding and defaults where torch differs."""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812 - conventional alias
from torch import Tensor, nn

KERAS_EPS = 1e-3
"""Keras's default epsilon of batch normalization."""
KERAS_MOMENTUM = 0.01
"""Keras's momentum 0.99 in torch's convention."""


def batch_norm(channels: int, *, eps: float = KERAS_EPS) -> nn.BatchNorm2d:
    """Batch normalization with Keras's defaults."""
    return nn.BatchNorm2d(channels, eps=eps, momentum=KERAS_MOMENTUM)


def check_sides(x: Tensor, divisor: int) -> None:
    """Raise on sides that do not survive halving and doubling.

    Raises:
        RuntimeError: height or width is not a multiple of ``divisor``.
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
    """Pad [B, C, H, W] as TensorFlow "same", for an output of ceil(size / stride).

    Odd padding goes to the right and bottom: a kernel of 3 at stride 2 on an even size
    pads nothing left and top, where torch's ``padding=1`` pads one each.
    """
    pads: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


class SameConv2d(nn.Conv2d):
    """Strided convolution with TensorFlow "same" padding."""

    def forward(self, input: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, out, ceil(H / stride), ceil(W / stride)]."""
        padded = pad_same(input, kernel=self.kernel_size, stride=self.stride)
        return super().forward(padded)


class SameMaxPool2d(nn.Module):
    """3 x 3 max pooling at stride 2 with TensorFlow "same" padding."""

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, ceil(H / 2), ceil(W / 2)]."""
        padded = pad_same(x, kernel=(3, 3), stride=(2, 2), value=-float("inf"))
        return F.max_pool2d(padded, kernel_size=3, stride=2)
