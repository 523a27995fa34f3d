"""Mean and standard deviation of colors that a network expects."""

import logging
from dataclasses import replace

from torch import Tensor

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.encoder_file import stated_beside
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES
from digipath_ray.networks.transformers import takes_any_size
from digipath_ray.networks.weight_files import encoder_file, fetch_encoder
from digipath_ray.storage.files import is_url

log = logging.getLogger(__name__)

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per RGB channel, on the 0..1 scale of a pixel."""

_IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: Normalization = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_MID: Normalization = ((128 / 255,) * 3, (128 / 255,) * 3)

# smp keeps these on its hub only, out of reach offline. As in smp 0.3's sources, for
# the weights it calls "imagenet"; every encoder not named here has ImageNet's.
_ENCODER_NORMALIZATION = {
    "dpn": _DPN,
    "inceptionresnetv2": _HALF,
    "inceptionv4": _HALF,
    "timm-tf_efficientnet_lite": _HALF,
    "xception": _HALF,
}


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What a network takes of uint8 pixels [B, 3, H, W], float32."""
    return (pixels.float() / 255 - mean) / std


def default_normalization(spec: MemberSpec) -> Normalization:
    """Mean and std where neither config nor card says them, on the 0..1 scale.

    The encoder's own; (x - 128) / 128 for random weights and the original authors'
    networks, their preprocessing.
    """
    random = spec.weights == "random" and spec.encoder_weights is None
    if random or spec.architecture in ORIGINAL_ARCHITECTURES:
        return _MID
    encoder = str(spec.encoder)
    if encoder.startswith("tu-"):
        import segmentation_models_pytorch as smp

        try:
            own = smp.encoders.get_preprocessing_params(encoder)
        except ValueError as e:
            raise ValueError(
                f"member {spec.name}: {encoder} has no normalization of its own, "
                "give mean and std"
            ) from e
        return tuple(own["mean"]), tuple(own["std"])
    named = (v for k, v in _ENCODER_NORMALIZATION.items() if encoder.startswith(k))
    return next(named, _IMAGENET)


def normalization_of(spec: MemberSpec) -> Normalization:
    """The member's mean and std: as it says, else the default."""
    if spec.mean is not None and spec.std is not None:
        return spec.mean, spec.std
    mean, std = default_normalization(spec)
    return spec.mean or mean, spec.std or std


def with_encoders_colors(spec: MemberSpec) -> MemberSpec:
    """A member with mean and std.

    As given, else as stated beside its encoder's file, else the encoder's own.

    Raises:
        ValueError: the file is in a bucket and not there, or what lies beside is no
            JSON, or the encoder has no normalization of its own.
    """
    assert spec.encoder_weights is not None
    if is_url(spec.encoder_weights):
        fetch_encoder(spec.encoder_weights)  # refused now, not by a worker
    if spec.mean is not None and spec.std is not None:
        return spec
    try:
        path = encoder_file(spec.encoder_weights)
    except ValueError:  # of a package that the workers may have
        stated = {}
    else:
        stated = stated_beside(path)
    spec = replace(
        spec,
        mean=spec.mean or stated.get("mean"),
        std=spec.std or stated.get("std"),
    )
    if spec.mean is not None and spec.std is not None:
        return spec
    mean, std = normalization_of(replace(spec, weights="imagenet"))
    if takes_any_size(spec.encoder):
        log.warning(
            "member %s: mean %s and std %s are of timm's %s: if %s was fitted with "
            "others, give mean and std, or put its config.json beside it",
            *(spec.name, mean, std, spec.encoder, spec.encoder_weights),
        )
    return replace(spec, mean=mean, std=std)


def normalized(spec: MemberSpec) -> MemberSpec:
    """The member with mean and std: as it says, else the default."""
    mean, std = normalization_of(spec)
    return replace(spec, mean=mean, std=std)
