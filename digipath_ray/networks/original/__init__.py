"""The original authors' networks in torch, to take their Keras weights as they are.

They follow the published definitions in every detail that changes a number: how
TensorFlow pads, each normalization's epsilon, the kind of upsampling. A network maps
pixels normalized by (x - 128) / 128, [B, 3, H, W], to logits [B, 2, H, W] of (other,
tumor). Not meant for new members: those are ``networks``'.

The authors' viewer feeds patches transposed, [x, y]. Here they lie as on the slide: the
networks were fitted under all flips and rotations, so either way is theirs.
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
"""Name of an architecture -> what builds it; arguments are a member's options."""

__all__ = ["ORIGINAL_ARCHITECTURES", "OriginalNetwork"]
