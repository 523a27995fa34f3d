"""An encoder's tensors by timm's names, from those of Hugging Face and DINOv2."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from digipath_ray.networks.checkpoint import PREFIXES, Tensors

ENCODER_PREFIXES = (
    *PREFIXES,
    "backbone.",
    "encoder.",
    "trunk.",
    "visual.",
    "features.",
)
DERIVED = (
    *("num_batches_tracked", "relative_position_index", "relative_coords_table"),
    "attn_mask",
)
POSITIONS = "pos_embed"
HF_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", POSITIONS),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.query."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.key."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.value."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""Names of ViT and DINOv2 in Hugging Face's transformers -> timm's.

Since release 5 a model's own names (``q_proj``) are others than those of its files.
"""
JOINED = (
    (".attn.qkv.", (".attn.query.", ".attn.key.", ".attn.value.")),
    (".mlp.fc1.", (".mlp.gate_proj.", ".mlp.up_proj.")),
)
"""What is one tensor in timm -> its parts in transformers, in order."""
HF_MODEL = r"^\w+\.(?=(embeddings|encoder\.layer|layers|layernorm|pooler)\.)"
"""Before them the name of the model, ``vit.`` or ``dinov2.``."""
META_NAMES = ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
"""Of DINOv2's own files."""


def is_derived(name: str) -> bool:
    """Of a tensor that counts, or follows from the size of a patch."""
    return name.endswith(DERIVED)


def bare_name(name: str) -> str:
    """An encoder's tensor without what smp and timm put before it."""
    for prefix in ("model.", "features."):
        name = name.removeprefix(prefix)
    return name


def plain_name(name: str) -> str:
    """``layers.0`` for timm's ``layers_0`` of encoders of several scales."""
    first, dot, rest = name.partition(".")
    return re.sub(r"^([a-z]+)_(\d+)$", r"\1.\2", first) + dot + rest


def short_name(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name in the encoder, without prefixes before it."""
    short = name
    while short not in names:
        prefix = next((p for p in ENCODER_PREFIXES if short.startswith(p)), None)
        if prefix is None:
            return plain_name(short)
        short = short.removeprefix(prefix)
        if plain_name(short) in names:
            return plain_name(short)
    return short


def in_timms_names(given: Tensors, names: Mapping[str, str], source: Path) -> Tensors:
    """A transformer's tensors by timm's names, if they have those of others."""
    theirs = (".attention.attention.query.", ".attention.q_proj.")
    hugging = any(part in name for name in given for part in theirs)
    renamed = {}
    for name, tensor in given.items():
        new = re.sub(HF_MODEL, "", name) if hugging else name
        for pattern, to in HF_NAMES if hugging else META_NAMES:
            new = re.sub(pattern, to, new)
        renamed[new] = tensor
    for whole, parts in JOINED:
        for name in [n for n in renamed if parts[0] in n]:
            every = [name.replace(parts[0], part) for part in parts]
            if missing := [part for part in every if part not in renamed]:
                raise ValueError(f"weights {source}: {missing[0]} is missing")
            joined = torch.cat([renamed.pop(part) for part in every])
            renamed[name.replace(parts[0], whole)] = joined
    return _joined_registers(renamed, names)


def _joined_registers(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """DINOv2's registers as timm has them, whose positions are of patches alone."""
    found = {short_name(k, names): k for k in tensors}
    registers = next((k for k in tensors if k.endswith("register_tokens")), None)
    keys = [found.get("cls_token"), found.get(POSITIONS)]
    if registers is None or None in keys or "reg_token" not in names:
        return tensors
    classed, placed = (tensors[str(key)] for key in keys)
    rest = {k: v for k, v in tensors.items() if k not in (registers, *keys)}
    rest["reg_token"] = tensors[registers]
    rest["cls_token"] = classed + placed[:, :1]
    rest[POSITIONS] = placed[:, 1:]
    return rest
