"""A U-Net that also sees its patch's surroundings, at a coarser resolution.

In the manner of HookNet (van Rijthoven et al. 2021, doi 10.1016/j.media.2020.101890):
two U-Nets that share no weights. The context branch sees as many px as the target
branch, concentric, each as wide as ``context_mpp_factor`` of its px. Where its decoder
has come to px as large as those of the target's deepest features, the middle, which
shows the patch itself, is joined to these. Other than in the paper, convolutions are
padded, and only the target branch is fitted to a truth (their lambda is 1).
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """The encoders of both branches; called, it is the target's."""

    def __init__(self, target: nn.Module, context: nn.Module) -> None:
        super().__init__()
        self.target = target
        self.context = context

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Features of the target branch, the finest first."""
        return cast(list[Tensor], self.target(pixels))


class HookUnet(nn.Module):
    """Two U-Nets, of which the context's joins the target's deepest features.

    Maps a patch and its context, both [B, 3, P, P], to logits [B, classes, P, P].
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        *,
        context_mpp_factor: int,
        encoder_weights: str | bool | None = None,
        encoder_depth: int = 5,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        decoder_use_norm: str | bool | dict[str, Any] = "batchnorm",
        decoder_attention_type: str | None = None,
        decoder_interpolation: str = "nearest",
        in_channels: int = 3,
        classes: int = 2,
    ) -> None:
        """Build both branches; arguments as of smp's Unet.

        Raises:
            ValueError: the factor is no power of 2, or larger than the encoder's
                reduction.
        """
        # A second of every process's start, and few processes build.
        import segmentation_models_pytorch as smp
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.base.initialization import (
            initialize_decoder,
            initialize_head,
        )
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__()
        levels = context_mpp_factor.bit_length() - 1
        if context_mpp_factor != 1 << levels or not 1 <= levels <= encoder_depth:
            allowed = ", ".join(str(1 << k) for k in range(1, encoder_depth + 1))
            raise ValueError(
                f"context_mpp_factor = {context_mpp_factor}: HookUnet of depth "
                f"{encoder_depth} joins its branches at one of {allowed}"
            )
        self.context_mpp_factor = context_mpp_factor
        self.reduction = 1 << encoder_depth
        target, context = (
            smp.encoders.get_encoder(
                encoder_name,
                in_channels=in_channels,
                depth=encoder_depth,
                weights=encoder_weights,
            )
            for _ in range(2)
        )
        self.encoder = Branches(target, context)
        channels = list(context.out_channels)
        decoder: dict[str, Any] = {
            "decoder_channels": decoder_channels,
            "n_blocks": encoder_depth,
            "use_norm": decoder_use_norm,
            "attention_type": decoder_attention_type,
            "interpolation_mode": decoder_interpolation,
            "add_center_block": encoder_name.startswith("vgg"),
        }
        self.context_decoder = UnetDecoder(channels, **decoder)
        # Finer maps of the context than the one that is joined are of no use.
        self.context_decoder.blocks = self.context_decoder.blocks[:levels]
        channels[-1] += decoder_channels[levels - 1]
        self.decoder = UnetDecoder(channels, **decoder)
        self.segmentation_head = SegmentationHead(
            decoder_channels[-1], classes, kernel_size=3
        )
        initialize_decoder(self.context_decoder)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, pixels: Tensor, context: Tensor) -> Tensor:
        """Logits of a patch [B, 3, P, P], given its concentric context of one shape.

        Raises:
            ValueError: P is no multiple of twice the encoder's reduction, so that the
                middle of the context would lie between px.
        """
        side = pixels.shape[-1]
        if side % (2 * self.reduction):
            raise ValueError(
                f"patches of {side} px: HookUnet needs a multiple of "
                f"{2 * self.reduction}"
            )
        features = list(self.encoder.target(pixels))
        surroundings = self.context_decoder(self.encoder.context(context))
        features[-1] = hook(features[-1], surroundings, self.context_mpp_factor)
        return cast(Tensor, self.segmentation_head(self.decoder(features)))


def hook(deepest: Tensor, surroundings: Tensor, factor: int) -> Tensor:
    """The target's deepest features [B, c, n, n] with the middle of the context's.

    Args:
        deepest: of the target branch.
        surroundings: [B, d, n * factor, n * factor], of the context branch, px of the
            same size in um.
        factor: as above.

    Returns:
        [B, c + d, n, n].

    Raises:
        ValueError: the sizes do not match, as with an encoder of other reductions.
    """
    n = deepest.shape[-1]
    if surroundings.shape[-1] != n * factor or n * (factor - 1) % 2:
        raise ValueError(
            f"the context's map of {surroundings.shape[-1]} px should be {factor} "
            f"times the target's {n}: HookUnet needs an encoder whose features halve"
        )
    start = n * (factor - 1) // 2
    middle = surroundings[..., start : start + n, start : start + n]
    return torch.cat([deepest, middle], dim=1)
