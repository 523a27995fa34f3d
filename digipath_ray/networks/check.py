"""Checks of a member before anything is predicted: its weights, and how it maps.

A network is laid on torch's device "meta", where shapes are propagated and nothing is
computed.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from digipath_ray.config.member import FROM_FILE
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.run import MemberSpec
from digipath_ray.context import check_multiple
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.build import build_network, views_of
from digipath_ray.networks.from_file import load_network
from digipath_ray.networks.trial import try_member
from digipath_ray.networks.weight_files import weights_file
from digipath_ray.networks.weights import check_file_finite, check_fit


def check_member(spec: MemberSpec, *, patch_px: int) -> None:
    """Build the member and check its weights before anything is predicted.

    Raises:
        ValueError: as :func:`load_member`; a weight is NaN or infinite; or the network
            cannot take patches of ``patch_px``.
    """
    path = weights_file(spec.weights)
    if path is not None and spec.architecture in FROM_FILE:
        try_member(spec, patch_px=patch_px)
        return
    if path is not None and path.suffix in FROM_FILE.values():
        kind = next(k for k, suffix in FROM_FILE.items() if suffix == path.suffix)
        raise ValueError(
            f"member {spec.name}: weights {path} hold the network too: architecture = "
            f'"{kind}" in its card, not "{spec.architecture}"'
        )
    network = build_network(spec)
    if path is not None:
        check_fit(network, path, spec)
        check_file_finite(path)
    shape = shape_of_maps(network.to("meta").eval(), spec, patch_px=patch_px)
    try:
        Answer.of(spec).cut_of(shape, (patch_px, patch_px))
    except ValueError as e:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} maps "
            f"patches of {patch_px} px in shape {shape}: {e}"
        ) from e
    check_maps(network, spec, patch_px=patch_px)


def shape_of_maps(
    network: nn.Module, spec: MemberSpec, *, patch_px: int
) -> tuple[int, ...]:
    """Shape of what a network on the device "meta" says of one patch."""
    views = torch.empty((views_of(spec), 1, 3, patch_px, patch_px), device="meta")
    try:
        # On the device "meta" shapes are propagated and nothing is computed.
        return tuple(network(*views).shape)
    except (AssertionError, RuntimeError, ValueError) as e:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} cannot take "
            f"patches of {patch_px} px: {e}"
        ) from e


def check_maps(network: nn.Module, spec: MemberSpec, *, patch_px: int) -> None:
    """Refuse an encoder whose maps are smaller than the patch over their reduction.

    It does not pad. A decoder stretches its maps to the size of others, so that what
    they show moves outward: by 20 px at the edge of a patch of 256 px.

    Args:
        network: of segmentation_models_pytorch, on the device "meta"; others pass.
        spec: the member.
        patch_px: side of the patches.

    Raises:
        ValueError: the encoder, the size of a map and what it should be.
    """
    encoder = getattr(network, "encoder", None)
    if encoder is None or spec.encoder is None:
        return
    found = encoder(torch.empty((1, 3, patch_px, patch_px), device="meta"))
    for image in found if isinstance(found, (list, tuple)) else ():
        if not isinstance(image, Tensor) or image.ndim != 4 or 0 in image.shape:
            continue
        side = image.shape[-1]
        # Reductions are powers of two; an odd side is rounded, either way.
        whole = patch_px / 2 ** round(math.log2(patch_px / side))
        if 1 <= abs(whole - side) < 0.1 * whole:
            raise ValueError(
                f"member {spec.name}: the encoder {spec.encoder} does not pad: its map "
                f"of {whole:g} px has {side}, so {spec.architecture} would move what "
                "it finds outward; take one that pads (of the same kind: xception, "
                "inceptionresnetv2, inceptionv4, tu-xception65)"
            )


def check_fit_patch(network: nn.Module, spec: MemberSpec, recipe: Recipe) -> None:
    """Refuse patches to fit on that a network with a context cannot take."""
    factor, side = spec.context_mpp_factor, recipe.sampling.fit_patch_px
    if factor is None:
        return
    check_multiple("sampling.fit_patch_px", side, 2 * factor, factor)
    shape_of_maps(network, spec, patch_px=side)


def count_operations(spec: MemberSpec, *, patch_px: int) -> int:
    """Floating-point operations of a member's convolutions and products for a patch."""
    path = weights_file(spec.weights)
    if path is not None and spec.architecture in FROM_FILE:
        network: nn.Module = load_network(spec, path, torch.device("meta"))
    else:
        network = build_network(spec).to("meta").eval()
    with FlopCounterMode(display=False) as counted:
        network(*torch.empty((views_of(spec), 1, 3, patch_px, patch_px), device="meta"))
    return int(counted.get_total_flops())
