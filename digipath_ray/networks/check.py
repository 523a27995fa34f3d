"""Checks of a member before anything is predicted: its weights, and how it maps.

A network is laid on torch's device "meta", where shapes are propagated and nothing is
computed.
"""

import math

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from digipath_ray.config.member import FROM_FILE
from digipath_ray.config.recipe import FIT_STEP_PX, Recipe
from digipath_ray.config.run import MemberSpec
from digipath_ray.context import check_multiple
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.build import build_network, views_of
from digipath_ray.networks.from_file import load_network
from digipath_ray.networks.transformers import size_made_for, unit_of
from digipath_ray.networks.trial import try_member
from digipath_ray.networks.weight_files import weights_file
from digipath_ray.networks.weights import check_file_finite, check_fit

MAX_TRIES = 8
"""Sides of patches that are tried in search of one that a network takes."""


def check_member(spec: MemberSpec, *, patch_px: int, step: int = 1) -> None:
    """Build the member and check its weights before anything is predicted.

    Args:
        spec: the member.
        patch_px: side of its patches.
        step: what other sides must be multiples of, to be named.

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
    network = network.to("meta").eval()
    shape = shape_of_maps(network, spec, patch_px=patch_px, step=step)
    try:
        Answer.of(spec).cut_of(shape, (patch_px, patch_px))
    except ValueError as e:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} maps "
            f"patches of {patch_px} px in shape {shape}: {e}"
        ) from e
    check_maps(network, spec, patch_px=patch_px)


def shape_of_maps(
    network: nn.Module, spec: MemberSpec, *, patch_px: int, step: int = 1
) -> tuple[int, ...]:
    """Shape of what a network on the device "meta" says of one patch.

    Raises:
        ValueError: it takes no patches of this side; names the next ones that it takes
            and that are multiples of ``step``.
    """
    try:
        return _shape(network, spec, patch_px)
    except (AssertionError, RuntimeError, ValueError) as e:
        near = " or ".join(map(str, next_sides(network, spec, patch_px, step)))
        fix = f"; the next sizes that it takes: {near} px" if near else ""
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} cannot take "
            f"patches of {patch_px} px: {_reason(e)}{fix}"
        ) from e


def _reason(error: Exception) -> str:
    """What a library says, without its advice: it knows one of several conditions."""
    text = str(error).partition(". Consider")[0]
    return "its maps do not fit each other" if "broadcast" in text else text


def _shape(network: nn.Module, spec: MemberSpec, side: int) -> tuple[int, ...]:
    # On the device "meta" shapes are propagated and nothing is computed.
    views = torch.empty((views_of(spec), 1, 3, side, side), device="meta")
    with torch.no_grad():
        return tuple(network(*views).shape)


def next_sides(
    network: nn.Module, spec: MemberSpec, patch_px: int, step: int
) -> list[int]:
    """The next smaller and larger side of a patch that a network takes, by trying.

    Of one that takes a single size that one; empty where none is found.
    """
    unit = math.lcm(unit_of(network), step)
    start = patch_px // unit * unit
    below = range(start - (start == patch_px) * unit, 0, -unit)
    above = range(start + unit, start + (MAX_TRIES + 1) * unit, unit)
    found = []
    for sides in (below[:MAX_TRIES], above):
        fits = (side for side in sides if _takes(network, spec, side))
        found += [side for side in [next(fits, None)] if side is not None]
    made_for = size_made_for(network)
    if not found and made_for is not None and _takes(network, spec, made_for):
        return [made_for]
    return found


def _takes(network: nn.Module, spec: MemberSpec, side: int) -> bool:
    try:
        return _shape(network, spec, side)[-2:] == (side, side)
    except (AssertionError, RuntimeError, ValueError):
        return False


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
    """Refuse patches, to fit or to predict on, that a network cannot take.

    Args:
        network: on the device "meta", in evaluation.
        spec: the member.
        recipe: says both sizes.

    Raises:
        ValueError: the size, and the next ones that it takes.
    """
    factor, side = spec.context_mpp_factor, recipe.sampling.fit_patch_px
    if factor is not None:
        check_multiple("sampling.fit_patch_px", side, 2 * factor, factor)
    if factor is None and not str(spec.encoder).startswith("tu-"):
        return  # convolutions of smp take all that FIT_STEP_PX allows
    sides = ((side, FIT_STEP_PX), (recipe.grid.patch_px, 2 * recipe.grid.downsample))
    for patch_px, step in sides:
        shape_of_maps(network, spec, patch_px=patch_px, step=step)


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
