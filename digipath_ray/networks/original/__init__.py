"""The original authors' networks in torch, to load their Keras weights.

They follow the published definitions in every detail that affects the output:
TensorFlow padding, each normalization's epsilon, the kind of upsampling. A network maps
pixels normalized by (x - 128) / 128, [B, 3, H, W], to logits [B, 2, H, W] of (other,
tumor). For new members use ``networks``.

The authors' viewer feeds transposed patches, [x, y]. Here patches are oriented as on
the slide; the networks were trained with all flips and rotations, so both are valid.
"""

from collections.abc import Callable, Mapping

from digipath_ray.networks.original.deeplab import DeepLabV3Plus
from digipath_ray.networks.original.network import OriginalNetwork
from digipath_ray.networks.original.unet import (
    unet_densenet121,
    unet_inception_resnet_v2,
)

ORIGINAL_ARCHITECTURES: Mapping[str, Callable[..., OriginalNetwork]] = {
    "OriginalUnetDenseNet121": unet_densenet121,
    "OriginalUnetInceptionResNetV2": unet_inception_resnet_v2,
    "OriginalDeepLabV3Plus": DeepLabV3Plus,
}
"""Architecture name -> builder; its arguments are a member's options."""

__all__ = ["ORIGINAL_ARCHITECTURES", "OriginalNetwork"]
