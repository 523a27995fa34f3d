"""Inception-ResNet-V2 of Keras as an encoder, padded so that sides halve exactly.

Keras names few of its layers and numbers the others; :meth:`counted_layers` lists these
in file order.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from digipath_ray.networks.original.layers import (
    KERAS_EPS,
    KERAS_MOMENTUM,
    SameConv2d,
    SameMaxPool2d,
)

Kernel = int | tuple[int, int]


class CenteredNorm(nn.BatchNorm2d):
    """Batch normalization with a learned shift but no scale, as in the original.

    The scale is fixed to 1; set ``requires_grad`` to train it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=KERAS_EPS, momentum=KERAS_MOMENTUM)
        self.weight.requires_grad_(False)


class _Unit(nn.Module):
    """Convolution without bias, normalization, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, *, stride: int = 1
    ) -> None:
        super().__init__()
        if stride == 1:
            self.conv = nn.Conv2d(inputs, outputs, kernel, padding="same", bias=False)
        else:
            self.conv = SameConv2d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = CenteredNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class _Branches(nn.ModuleList):
    """Parallel paths from one input, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self], dim=1)


class _Residual(nn.Module):
    """Adds the scaled output of branches to its input."""

    def __init__(
        self, branches: _Branches, channels: int, *, scale: float, relu: bool = True
    ) -> None:
        super().__init__()
        self.branches = branches
        found = sum(_units(branch)[-1].bn.num_features for branch in branches)
        self.conv = nn.Conv2d(found, channels, 1)
        self.scale = scale
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        total = x + self.scale * self.conv(self.branches(x))
        return total.relu_() if self.relu else total


def _units(branch: nn.Module) -> list[_Unit]:
    return [module for module in branch.modules() if isinstance(module, _Unit)]


def _path(inputs: int, *steps: tuple[int, Kernel], stride: int = 1) -> nn.Sequential:
    """Sequence of units (outputs, kernel); the last one has the stride."""
    units = []
    for i, (outputs, kernel) in enumerate(steps):
        last = i == len(steps) - 1
        units.append(_Unit(inputs, outputs, kernel, stride=stride if last else 1))
        inputs = outputs
    return nn.Sequential(*units)


def _block35() -> _Residual:
    branches = _Branches(
        [
            _path(320, (32, 1)),
            _path(320, (32, 1), (32, 3)),
            _path(320, (32, 1), (48, 3), (64, 3)),
        ]
    )
    return _Residual(branches, 320, scale=0.17)


def _block17() -> _Residual:
    long = _path(1088, (128, 1), (160, (1, 7)), (192, (7, 1)))
    return _Residual(_Branches([_path(1088, (192, 1)), long]), 1088, scale=0.1)


def _block8(*, scale: float = 0.2, relu: bool = True) -> _Residual:
    long = _path(2080, (192, 1), (224, (1, 3)), (256, (3, 1)))
    branches = _Branches([_path(2080, (192, 1)), long])
    return _Residual(branches, 2080, scale=scale, relu=relu)


def _mixed_5b() -> _Branches:
    # Keras excludes padding from the average.
    average = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _Branches(
        [
            _path(192, (96, 1)),
            _path(192, (48, 1), (64, 5)),
            _path(192, (64, 1), (96, 3), (96, 3)),
            nn.Sequential(average, *_path(192, (64, 1))),
        ]
    )


def _mixed_6a() -> _Branches:
    return _Branches(
        [
            _path(320, (384, 3), stride=2),
            _path(320, (256, 1), (256, 3), (384, 3), stride=2),
            SameMaxPool2d(),
        ]
    )


def _mixed_7a() -> _Branches:
    return _Branches(
        [
            _path(1088, (256, 1), (384, 3), stride=2),
            _path(1088, (256, 1), (288, 3), stride=2),
            _path(1088, (256, 1), (288, 3), (320, 3), stride=2),
            SameMaxPool2d(),
        ]
    )


class InceptionResNetV2(nn.Module):
    """Inception-ResNet-V2 up to its last convolution; all layers padded "same"."""

    channels = (64, 192, 320, 1088, 1536)

    def __init__(self) -> None:
        super().__init__()
        self.stem1 = nn.Sequential(
            _Unit(3, 32, 3, stride=2), *_path(32, (32, 3), (64, 3))
        )
        self.pool1 = SameMaxPool2d()
        self.stem2 = _path(64, (80, 1), (192, 3))
        self.pool2 = SameMaxPool2d()
        self.mixed_5b = _mixed_5b()
        for i in range(1, 11):
            self.add_module(f"block35_{i}", _block35())
        self.mixed_6a = _mixed_6a()
        for i in range(1, 21):
            self.add_module(f"block17_{i}", _block17())
        self.mixed_7a = _mixed_7a()
        for i in range(1, 10):
            self.add_module(f"block8_{i}", _block8())
        self.block8_10 = _block8(scale=1.0, relu=False)
        self.conv_7b = nn.Conv2d(2080, 1536, 1, bias=False)
        self.conv_7b_bn = CenteredNorm(1536)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of [B, 3, H, W] at 1/2, 1/4, 1/8, 1/16 and 1/32 of its sides."""
        half = self.stem1(x)
        fourth = self.stem2(self.pool1(half))
        eighth = self._blocks("block35", self.mixed_5b(self.pool2(fourth)))
        sixteenth = self._blocks("block17", self.mixed_6a(eighth))
        x = self._blocks("block8", self.mixed_7a(sixteenth))
        last = self.conv_7b_bn(self.conv_7b(x)).relu_()
        return [half, fourth, eighth, sixteenth, last]

    def _blocks(self, kind: str, x: Tensor) -> Tensor:
        for name, block in self.named_children():
            if name.startswith(f"{kind}_"):
                x = block(x)
        return x

    def counted_layers(self) -> list[nn.Module]:
        """Layers with numbered Keras names, in file order."""
        units = _in_file_order(self)
        return [layer for unit in units for layer in (unit.conv, unit.bn)]


def _in_file_order(module: nn.Module) -> Iterator[_Unit]:
    """Units in Keras order: by distance from the output, farthest first.

    At equal distance, the unit of the earlier branch comes first.
    """
    if isinstance(module, _Unit):
        yield module
    elif isinstance(module, _Branches):
        paths = [_units(branch) for branch in module]
        for distance in range(max(map(len, paths)), 0, -1):
            yield from (path[-distance] for path in paths if len(path) >= distance)
    else:
        for child in module.children():
            yield from _in_file_order(child)
