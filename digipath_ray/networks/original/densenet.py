"""DenseNet-121 of Keras as an encoder; modules have the Keras layer names."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from digipath_ray.networks.original.layers import batch_norm

GROWTH = 32
DENSE_EPS = 1.001e-5


def _norm(channels: int) -> nn.BatchNorm2d:
    return batch_norm(channels, eps=DENSE_EPS)


def _conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding="same", bias=False)


class _DenseLayer(nn.Sequential):
    """Concatenates 32 channels to its input."""

    def __init__(self, channels: int) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("0_bn", _norm(channels)),
            ("0_relu", nn.ReLU(inplace=True)),
            ("1_conv", _conv(channels, 4 * GROWTH, 1)),
            ("1_bn", _norm(4 * GROWTH)),
            ("1_relu", nn.ReLU(inplace=True)),
            ("2_conv", _conv(4 * GROWTH, GROWTH, 3)),
        ]
        super().__init__(OrderedDict(layers))

    def forward(self, input: Tensor) -> Tensor:
        added = input
        for layer in self:
            added = layer(added)
        return torch.cat([input, added], dim=1)


def _block(channels: int, depth: int) -> nn.Sequential:
    layers = nn.Sequential()
    for i in range(depth):
        layers.add_module(f"block{i + 1}", _DenseLayer(channels + i * GROWTH))
    return layers


def _transition(channels: int) -> nn.Sequential:
    layers: list[tuple[str, nn.Module]] = [
        ("bn", _norm(channels)),
        ("relu", nn.ReLU(inplace=True)),
        ("conv", _conv(channels, channels // 2, 1)),
        ("pool", nn.AvgPool2d(2)),
    ]
    return nn.Sequential(OrderedDict(layers))


class DenseNet121(nn.Module):
    """DenseNet-121 up to its last normalization, without the final ReLU."""

    channels = (64, 256, 512, 1024, 1024)

    def __init__(self) -> None:
        super().__init__()
        first: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)),
            ("bn", _norm(64)),
            ("relu", nn.ReLU(inplace=True)),
        ]
        self.conv1 = nn.Sequential(OrderedDict(first))
        # Zero padding never wins the max, because inputs come from a ReLU.
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _block(64, 6)
        self.pool2 = _transition(256)
        self.conv3 = _block(128, 12)
        self.pool3 = _transition(512)
        self.conv4 = _block(256, 24)
        self.pool4 = _transition(1024)
        self.conv5 = _block(512, 16)
        self.bn = _norm(1024)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of [B, 3, H, W] at 1/2, 1/4, 1/8, 1/16 and 1/32 of its sides."""
        half = self.conv1(x)
        fourth = self.conv2(self.pool1(half))
        eighth = self.conv3(self.pool2(fourth))
        sixteenth = self.conv4(self.pool3(eighth))
        last = self.bn(self.conv5(self.pool4(sixteenth)))
        return [half, fourth, eighth, sixteenth, last]

    def counted_layers(self) -> list[nn.Module]:
        """Empty: all layers have explicit names."""
        return []
