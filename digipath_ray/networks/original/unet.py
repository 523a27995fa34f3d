"""U-Net decoder and the two U-Nets of the authors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - conventional alias
from torch import Tensor, nn

from digipath_ray.networks.original.densenet import DenseNet121
from digipath_ray.networks.original.inception import InceptionResNetV2
from digipath_ray.networks.original.layers import batch_norm, check_sides
from digipath_ray.networks.original.network import OriginalNetwork

WIDTHS = (320, 256, 128, 96, 64)
"""Channels of the decoder's steps, coarsest first."""


class _ConvNorm(nn.Module):
    """Convolution with bias, normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding="same")
        self.bn = batch_norm(outputs)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class _Step(nn.Module):
    """Doubles the sides and concatenates the encoder's features of that size."""

    def __init__(self, inputs: int, skipped: int, outputs: int) -> None:
        super().__init__()
        self.before = _ConvNorm(inputs, outputs)
        self.after = _ConvNorm(outputs + skipped, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        # Nearest, as in the released code; the paper's text says bilinear.
        x = self.before(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.after(x if skip is None else torch.cat([x, skip], dim=1))


class _Decoder(nn.Module):
    """Five steps up from the encoder's last features, the last one without a skip."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        skipped = [*channels[-2::-1], 0]
        inputs = [channels[-1], *WIDTHS]
        self.steps = nn.ModuleList(
            _Step(i, s, o) for i, s, o in zip(inputs, skipped, WIDTHS, strict=False)
        )
        self.logits = nn.Conv2d(WIDTHS[-1], 2, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for step, skip in zip(self.steps, [*features[-2::-1], None], strict=True):
            x = step(x, skip)
        return self.logits(x)


class OriginalUnet(OriginalNetwork):
    """Encoder with the authors' decoder."""

    encoder: DenseNet121 | InceptionResNetV2

    def __init__(self, encoder: DenseNet121 | InceptionResNetV2) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = _Decoder(encoder.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 2, H, W] from [B, 3, H, W]; sides are multiples of 32."""
        check_sides(x, 32)
        return self.decoder(self.encoder(x))

    def counted_layers(self) -> list[nn.Module]:
        """Layers with numbered Keras names, in file order."""
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        decoder = [m for m in self.decoder.modules() if isinstance(m, kinds)]
        return [*self.encoder.counted_layers(), *decoder]


def unet_densenet121() -> OriginalUnet:
    """U-Net on DenseNet-121 of the authors."""
    return OriginalUnet(DenseNet121())


def unet_inception_resnet_v2() -> OriginalUnet:
    """U-Net on Inception-ResNet-V2 of the authors."""
    return OriginalUnet(InceptionResNetV2())
