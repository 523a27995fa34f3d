"""DeepLabV3+ on Xception-65, as in the authors' source keras-deeplab-v3-plus.

All Keras layers have explicit names, which the modules reuse.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - conventional alias
from torch import Tensor, nn

from digipath_ray.networks.original.layers import (
    KERAS_EPS,
    SameConv2d,
    batch_norm,
    check_sides,
)
from digipath_ray.networks.original.network import OriginalNetwork

HEAD_EPS = 1e-5
"""Epsilon of all normalizations after the encoder."""
MIDDLE_UNITS = 16


@dataclass(frozen=True, kw_only=True)
class _Dilation:
    """Stride of the third entry block and the dilation rates after it."""

    stride: int
    middle: int
    exit: tuple[int, int]
    pyramid: tuple[int, int, int]


_DILATIONS = {
    16: _Dilation(stride=2, middle=1, exit=(1, 2), pyramid=(6, 12, 18)),
    8: _Dilation(stride=1, middle=2, exit=(2, 4), pyramid=(12, 24, 36)),
}


def _point(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


class _Separable(nn.Module):
    """Depthwise, then pointwise convolution, each normalized.

    ReLU is applied before the first (``pre_relu``), or after each.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        rate: int = 1,
        eps: float = KERAS_EPS,
        pre_relu: bool = False,
    ) -> None:
        super().__init__()
        # Symmetric padding also at stride 2, as in the original definition.
        self.depthwise = nn.Conv2d(
            inputs,
            inputs,
            3,
            stride=stride,
            padding=rate,
            dilation=rate,
            groups=inputs,
            bias=False,
        )
        self.depthwise_BN = batch_norm(inputs, eps=eps)
        self.pointwise = _point(inputs, outputs)
        self.pointwise_BN = batch_norm(outputs, eps=eps)
        self.pre_relu = pre_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise_BN(self.depthwise(x.relu() if self.pre_relu else x))
        if self.pre_relu:
            return self.pointwise_BN(self.pointwise(x))
        return self.pointwise_BN(self.pointwise(x.relu_())).relu_()


class _Block(nn.Module):
    """Three separable convolutions with a shortcut.

    The shortcut is a convolution if the number of channels changes, else the identity.
    """

    def __init__(
        self, inputs: int, outputs: tuple[int, int, int], *, stride: int, rate: int = 1
    ) -> None:
        super().__init__()
        a, b, c = outputs
        self.separable_conv1 = _Separable(inputs, a, rate=rate, pre_relu=True)
        self.separable_conv2 = _Separable(a, b, rate=rate, pre_relu=True)
        self.separable_conv3 = _Separable(b, c, stride=stride, rate=rate, pre_relu=True)
        self.shortcut: nn.Conv2d | None = None
        if inputs != c:
            self.shortcut = _point(inputs, c, stride=stride)
            self.shortcut_BN = batch_norm(c)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the block, and of its second convolution."""
        second = self.separable_conv2(self.separable_conv1(x))
        short = x if self.shortcut is None else self.shortcut_BN(self.shortcut(x))
        return self.separable_conv3(second) + short, second


class _EntryFlow(nn.Module):
    def __init__(self, *, last_stride: int) -> None:
        super().__init__()
        # The only TensorFlow "same" padding in this network; see layers.
        self.conv1_1 = SameConv2d(3, 32, 3, stride=2, bias=False)
        self.conv1_1_BN = batch_norm(32)
        self.conv1_2 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.conv1_2_BN = batch_norm(64)
        self.block1 = _Block(64, (128, 128, 128), stride=2)
        self.block2 = _Block(128, (256, 256, 256), stride=2)
        self.block3 = _Block(256, (728, 728, 728), stride=last_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the flow, and features at 1/4 of the sides."""
        x = self.conv1_1_BN(self.conv1_1(x)).relu_()
        x = self.conv1_2_BN(self.conv1_2(x)).relu_()
        x, _ = self.block1(x)
        x, fourth = self.block2(x)
        x, _ = self.block3(x)
        return x, fourth


class _MiddleFlow(nn.Module):
    def __init__(self, *, rate: int) -> None:
        super().__init__()
        for i in range(1, MIDDLE_UNITS + 1):
            unit = _Block(728, (728, 728, 728), stride=1, rate=rate)
            self.add_module(f"unit_{i}", unit)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.children():
            x, _ = unit(x)
        return x


class _ExitFlow(nn.Module):
    def __init__(self, *, rates: tuple[int, int]) -> None:
        super().__init__()
        self.block1 = _Block(728, (728, 1024, 1024), stride=1, rate=rates[0])
        last: list[tuple[str, nn.Module]] = [
            ("separable_conv1", _Separable(1024, 1536, rate=rates[1])),
            ("separable_conv2", _Separable(1536, 1536, rate=rates[1])),
            ("separable_conv3", _Separable(1536, 2048, rate=rates[1])),
        ]
        self.block2 = nn.Sequential(OrderedDict(last))

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.block1(x)
        return self.block2(x)


class _Xception65(nn.Module):
    def __init__(self, dilation: _Dilation) -> None:
        super().__init__()
        self.entry_flow = _EntryFlow(last_stride=dilation.stride)
        self.middle_flow = _MiddleFlow(rate=dilation.middle)
        self.exit_flow = _ExitFlow(rates=dilation.exit)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the encoder, and features at 1/4 of the sides."""
        x, fourth = self.entry_flow(x)
        return self.exit_flow(self.middle_flow(x)), fourth


class _Head(nn.Module):
    """Atrous spatial pyramid pooling and the decoder."""

    def __init__(self, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_pooling = _point(2048, 256)
        self.image_pooling_BN = batch_norm(256, eps=HEAD_EPS)
        self.aspp0 = _point(2048, 256)
        self.aspp0_BN = batch_norm(256, eps=HEAD_EPS)
        self.aspp1 = _Separable(2048, 256, rate=rates[0], eps=HEAD_EPS)
        self.aspp2 = _Separable(2048, 256, rate=rates[1], eps=HEAD_EPS)
        self.aspp3 = _Separable(2048, 256, rate=rates[2], eps=HEAD_EPS)
        self.concat_projection = _point(5 * 256, 256)
        self.concat_projection_BN = batch_norm(256, eps=HEAD_EPS)
        self.dropout = nn.Dropout(0.1)
        self.feature_projection0 = _point(256, 48)
        self.feature_projection0_BN = batch_norm(48, eps=HEAD_EPS)
        self.decoder_conv0 = _Separable(256 + 48, 256, eps=HEAD_EPS)
        self.decoder_conv1 = _Separable(256, 256, eps=HEAD_EPS)
        self.custom_logits_semantic = nn.Conv2d(256, 2, 1)

    def forward(self, x: Tensor, fourth: Tensor) -> Tensor:
        """Logits at 1/4 of the sides."""
        x = self.dropout(self._pyramid(x))
        skip = self.feature_projection0_BN(self.feature_projection0(fourth)).relu_()
        x = torch.cat([resize(x, fourth.shape[-2:]), skip], dim=1)
        x = self.decoder_conv1(self.decoder_conv0(x))
        return self.custom_logits_semantic(x)

    def _pyramid(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        pooled = self.image_pooling_BN(self.image_pooling(mean)).relu_()
        found = [
            pooled.expand(-1, -1, *x.shape[-2:]),
            self.aspp0_BN(self.aspp0(x)).relu_(),
            self.aspp1(x),
            self.aspp2(x),
            self.aspp3(x),
        ]
        x = self.concat_projection(torch.cat(found, dim=1))
        return self.concat_projection_BN(x).relu_()


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Bilinear resize with aligned corners."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)


class DeepLabV3Plus(OriginalNetwork):
    """DeepLabV3+ of the authors.

    Args:
        output_stride: 16, as trained, or 8, as the authors also ran it: the same
            weights with higher dilation on features twice as fine.
    """

    def __init__(self, *, output_stride: int = 16) -> None:
        super().__init__()
        if output_stride not in _DILATIONS:
            raise ValueError(f"output_stride = {output_stride!r}: choose 16 or 8")
        self.output_stride = output_stride
        dilation = _DILATIONS[output_stride]
        self.encoder = _Xception65(dilation)
        self.decoder = _Head(dilation.pyramid)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2, H, W] from [B, 3, H, W]; sides are multiples of the stride."""
        check_sides(x, self.output_stride)
        return resize(self.decoder(*self.encoder(x)), x.shape[-2:])
