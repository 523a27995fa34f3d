"""Encoders that are vision transformers of timm: sizes, options, position embeddings.

A transformer sees a patch as a grid of tokens and adds to each an embedding of its
position, of which its weights hold a grid for one size. Networks are built to take
other sizes, and their weights always hold the grid of that one size: a file does not
depend on the patch that it was fitted or predicts on.
"""

import inspect
import math
import sys
from typing import Any, cast

import torch
from torch import Tensor, nn

SET_HERE = {"in_chans", "num_classes", "global_pool", "depth", "output_stride"}
SET_HERE |= {"args", "kwargs"}
"""Arguments of timm's encoders that a segmentation network decides itself."""


def takes_any_size(encoder: str | None) -> bool:
    """Whether timm can build an encoder (``tu-NAME``) for patches of any size.

    Others take the size alone that they were made for, or are convolutions.
    """
    import timm

    if encoder is None or not encoder.startswith("tu-"):
        return False
    module = timm.models.model_entrypoint(encoder[3:]).__module__
    return any(
        "dynamic_img_size" in inspect.signature(base).parameters
        for found in vars(sys.modules[module]).values()
        if isinstance(found, type) and found.__module__ == module
        for base in found.__mro__
        if issubclass(base, nn.Module) and base is not nn.Module
    )


def encoder_options(encoder: str | None) -> set[str]:
    """Names of the options of an encoder of timm (``tu-NAME``); none of others."""
    import timm

    if encoder is None or not encoder.startswith("tu-"):
        return set()
    with torch.device("meta"):
        network = timm.create_model(encoder[3:])
    bases = (c for c in type(network).__mro__ if issubclass(c, nn.Module))
    names = {name for c in bases for name in inspect.signature(c).parameters}
    return names - SET_HERE


def encoder_arguments(encoder: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Arguments of timm's encoder: the options, and that it is to take any size.

    A layer is named by its class in ``timm.layers`` (``mlp_layer = "SwiGLUPacked"``).

    Raises:
        ValueError: there is no such layer; or a gated one without its activation, for
            which timm takes GELU whatever the layer's name says
            (findings/timm_swiglu_gates_by_gelu.sh).
    """
    import timm

    found = dict(options)
    gated = str(options.get("mlp_layer", "")).startswith("SwiGLU")
    if gated and "act_layer" not in options:
        raise ValueError(
            f"option mlp_layer = {options['mlp_layer']!r} without act_layer: timm "
            'would gate by GELU: add act_layer = "silu", as DINOv2, UNI 2 and Virchow '
            'were fitted, or "gelu"'
        )
    for name, value in options.items():
        if name in ("mlp_layer", "embed_layer") and isinstance(value, str):
            if not hasattr(timm.layers, value):
                raise ValueError(f"option {name}: timm.layers has no {value}")
            found[name] = getattr(timm.layers, value)
    if takes_any_size(encoder):
        found.setdefault("dynamic_img_size", True)
    return found


def align_decoder(network: nn.Module, channels: dict[str, Any]) -> None:
    """Give a DPT whose tokens are no power of two of px a decoder that fits its grid.

    smp's own doubles its maps to 1/32, 1/16, 1/8 and 1/4 of the patch, which tokens of
    14 px have none of: it can take no patch (findings/smp_dpt_tokens_of_14_px.sh).
    Here the decoder is that for tokens of the nearest power of two, 16 px, and the
    answer is enlarged by 14/16 as much, as in DINOv2 and Depth Anything.

    Args:
        network: a DPT, built; others and those that fit are left alone.
        channels: the options that it was built with.
    """
    import segmentation_models_pytorch as smp
    from segmentation_models_pytorch.base.initialization import initialize_decoder
    from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder

    if not isinstance(network, smp.DPT):
        return
    strides = network.encoder.output_strides
    near = [2 ** round(math.log2(stride)) for stride in strides]
    if near == list(strides):
        return
    keys = (
        "decoder_readout",
        "decoder_intermediate_channels",
        "decoder_fusion_channels",
    )
    given = {k.removeprefix("decoder_"): channels[k] for k in keys if k in channels}
    network.decoder = DPTDecoder(
        encoder_out_channels=network.encoder.out_channels,
        encoder_output_strides=near,
        encoder_has_prefix_tokens=network.encoder.has_prefix_tokens,
        **{"readout": "cat", **given},
    )
    initialize_decoder(network.decoder)
    network.segmentation_head.upsampling_factor *= strides[0] / near[0]


def fix_positions(network: nn.Module, patch_px: int) -> None:
    """Interpolate a transformer's position embeddings for patches of one size, once.

    Otherwise timm does so in every forward pass, by the same function. Weights are
    loaded before: afterwards its state_dict has another grid.

    Args:
        network: built here, with its weights; others are left alone.
        patch_px: side of the patches that it is going to see; others are still taken,
            interpolated from this grid.
    """
    for module in network.modules():
        dynamic = getattr(module, "dynamic_img_size", False) is True
        if dynamic and isinstance(getattr(module, "pos_embed", None), Tensor):
            cast(Any, module).set_input_size(img_size=(patch_px, patch_px))


def unit_of(network: nn.Module) -> int:
    """Px that sides of patches are multiples of, as far as the encoder says it."""
    unit = getattr(getattr(network, "encoder", None), "output_stride", None)
    return unit if isinstance(unit, int) and unit > 0 else 32


def size_made_for(network: nn.Module) -> int | None:
    """Side of the patches that a transformer was made for, px; None of others."""
    encoder = getattr(getattr(network, "encoder", None), "model", None)
    size = getattr(getattr(encoder, "patch_embed", None), "img_size", None)
    if isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]:
        return int(size[0])
    return None
