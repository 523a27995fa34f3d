"""An encoder's weights from a file: timm's names, Hugging Face's, or a trainer's.

Every tensor of the file is accounted for: it is the encoder's, it belongs to a head on
top of it, or the file is refused.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from digipath_ray.config.member import MemberSpec
from digipath_ray.networks.build import normalization_of
from digipath_ray.networks.checkpoint import PREFIXES, Tensors, merged
from digipath_ray.networks.hook import Branches
from digipath_ray.networks.transformers import takes_any_size
from digipath_ray.networks.weight_files import encoder_file, fetch_encoder
from digipath_ray.storage.files import is_url

log = logging.getLogger(__name__)

ENCODER_PREFIXES = (
    *PREFIXES,
    "backbone.",
    "encoder.",
    "trunk.",
    "visual.",
    "features.",
)
HEADS = {"head", "head_dist", "heads", "fc", "fc_norm", "classifier", "last_linear"}
HEADS |= {"pooler", "mask_token", "dino_head", "ibot_head", "projection_head"}
"""First parts of the names of what is on top of an encoder."""
UNUSED = {"head", "head_dist", "norm", "fc_norm"}
"""Of a transformer, what its decoder does not see: its maps come from before."""
DERIVED = (
    *("num_batches_tracked", "relative_position_index", "relative_coords_table"),
    "attn_mask",
)
HEAD_TENSORS = 12
"""Maximum number of leftover tensors of other names on top of a convolutional one."""
POSITIONS = "pos_embed"
HF_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", POSITIONS),
    (r"^embeddings\.register_tokens$", "register_tokens"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""Names of ViT and DINOv2 in Hugging Face's transformers -> timm's."""
HF_MODEL = r"^\w+\.(?=(embeddings|encoder\.layer|layernorm|pooler)\.)"
"""Before them the name of the model, ``vit.`` or ``dinov2.``."""
META_NAMES = ((r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."))
"""Of DINOv2's own files."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of a file's tensors.

    Attributes:
        used: how many are the encoder's now.
        left_over: names of those of a head.
        notes: what was changed, a phrase each.
    """

    used: int
    left_over: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """The changes and what is left over; empty if there is nothing to say."""
        said = list(self.notes)
        if self.left_over:
            said.append(f"left over: {', '.join(self.left_over)}")
        return "; ".join(said)


def load_encoder(
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: Path,
    by_order: bool = False,
) -> Account:
    """Load the network's encoder, by tensor names or, if asked, by order.

    Libraries name the same ImageNet weights differently, but list them in layer order.
    By order the file's tensors must have the encoder's shapes in sequence; this is
    noted. Transformers are loaded by name alone.

    Args:
        network: its ``encoder`` is filled; both branches of one with a context.
        tensors: of the file.
        source: the file, for messages.
        by_order: fill a convolutional encoder by order where names do not match.

    Raises:
        ValueError: a tensor is missing, of another shape, or left over and no head's;
            or its names are others.
    """
    encoder = network.get_submodule("encoder")
    branches = encoder.children() if isinstance(encoder, Branches) else [encoder]
    accounts = [_load_into(branch, tensors, source, by_order) for branch in branches]
    return accounts[0]


def _load_into(
    encoder: nn.Module, tensors: Mapping[str, Tensor], source: Path, by_order: bool
) -> Account:
    own = {k: v for k, v in encoder.state_dict().items() if not _is_derived(k)}
    given = {k: v.float() for k, v in tensors.items() if not _is_derived(k)}
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise ValueError(f"weights {source}: {name} holds NaN or infinite numbers")
    names = {_plain(_bare(name)): name for name in own}
    transformer = POSITIONS in names or any(".attn." in name for name in names)
    named = _in_timms_names(given, names, source) if transformer else given
    short = merged({k: _short(k, names) for k in named}, named, source)
    matched = short.keys() & names.keys()
    if not transformer and 2 * len(matched) < len(names):
        if by_order:
            return _load_in_order(encoder, own, given, source)
        missing = sorted(names.keys() - matched)
        hint = (
            f"; the file names {next(iter(given), 'none')}: if it is the same "
            "encoder under other names, encoder_by_order = true in its [[members]]"
        )
        raise ValueError(
            f"weights {source}: {len(missing)} of the encoder's {len(names)} tensors "
            f"are missing, e.g. {missing[0]}{'' if matched else hint}"
        )
    notes = []
    if POSITIONS in matched:
        model = encoder.get_submodule("model")
        short, note = _with_positions(short, own[names[POSITIONS]], model, source)
        notes += [note] if note else []
    mine = {k: own[v] for k, v in names.items()}
    used = _complete(short, mine, source, transformer)
    left = tuple(sorted(short.keys() - used.keys()))
    _check_left_over(left, names, source, transformer)
    encoder.load_state_dict({names[k]: v for k, v in used.items()}, strict=False)
    return Account(used=len(used), left_over=left, notes=tuple(notes))


def _is_derived(name: str) -> bool:
    """Of a tensor that counts, or follows from the size of a patch."""
    return name.endswith(DERIVED)


def _bare(name: str) -> str:
    """An encoder's tensor without what smp and timm put before it."""
    for prefix in ("model.", "features."):
        name = name.removeprefix(prefix)
    return name


def _plain(name: str) -> str:
    """``layers.0`` for timm's ``layers_0`` of encoders of several scales."""
    first, dot, rest = name.partition(".")
    return re.sub(r"^([a-z]+)_(\d+)$", r"\1.\2", first) + dot + rest


def _short(name: str, names: Mapping[str, str]) -> str:
    """A tensor's name in the encoder, without prefixes before it."""
    short = name
    while short not in names:
        prefix = next((p for p in ENCODER_PREFIXES if short.startswith(p)), None)
        if prefix is None:
            return _plain(short)
        short = short.removeprefix(prefix)
        if _plain(short) in names:
            return _plain(short)
    return short


def _in_timms_names(given: Tensors, names: Mapping[str, str], source: Path) -> Tensors:
    """A transformer's tensors by timm's names, if they have those of others."""
    hugging = any(".attention.attention.query." in name for name in given)
    renamed = {}
    for name, tensor in given.items():
        new = re.sub(HF_MODEL, "", name) if hugging else name
        for pattern, to in HF_NAMES if hugging else META_NAMES:
            new = re.sub(pattern, to, new)
        renamed[new] = tensor
    for name in [n for n in renamed if ".attn.query." in n]:
        parts = [name.replace(".query.", f".{k}.") for k in ("query", "key", "value")]
        if missing := [p for p in parts if p not in renamed]:
            raise ValueError(f"weights {source}: {missing[0]} is missing")
        joined = torch.cat([renamed.pop(part) for part in parts])
        renamed[name.replace(".query.", ".qkv.")] = joined
    return _joined_registers(renamed, names)


def _joined_registers(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    """DINOv2's registers as timm has them, whose positions are of patches alone."""
    found = {_short(k, names): k for k in tensors}
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


def _with_positions(
    tensors: Tensors, own: Tensor, model: Any, source: Path
) -> tuple[Tensors, str]:
    """The tensors with position embeddings for the encoder's own grid, and a note.

    Raises:
        ValueError: those of the file are of no square grid.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed

    theirs = tensors[POSITIONS]
    if theirs.shape == own.shape:
        return tensors, ""
    bare = bool(getattr(model, "no_embed_class", False))
    prefix = 0 if bare else int(getattr(model, "num_prefix_tokens", 0))
    count = theirs.shape[1] - prefix if theirs.ndim == 3 else 0
    side, to = round(max(count, 0) ** 0.5), round((own.shape[1] - prefix) ** 0.5)
    if side**2 != count or count == 0 or theirs.shape[-1] != own.shape[-1]:
        raise ValueError(
            f"weights {source}: {POSITIONS} {list(theirs.shape)} is no square grid "
            f"beside {prefix} tokens, for {list(own.shape)} of the encoder: of another"
        )
    resampled = resample_abs_pos_embed(
        theirs, [to, to], [side, side], num_prefix_tokens=prefix
    )
    note = f"position embeddings of {side} x {side} interpolated to {to} x {to}"
    return {**tensors, POSITIONS: resampled}, note


def _complete(given: Tensors, own: Tensors, source: Path, transformer: bool) -> Tensors:
    """The tensors that are the encoder's; a file is refused that lacks any it needs."""
    used = {}
    for name, mine in own.items():
        fits = name in given and given[name].shape == mine.shape
        if fits:
            used[name] = given[name]
        elif transformer and name.partition(".")[0] in UNUSED:
            continue
        elif name not in given:
            raise ValueError(f"weights {source}: the encoder's {name} is missing")
        else:
            raise ValueError(
                f"weights {source}: of another encoder: {name} has shape "
                f"{list(mine.shape)} here, but {list(given[name].shape)} in the file"
            )
    return used


def _check_left_over(
    left: tuple[str, ...], names: Mapping[str, str], source: Path, transformer: bool
) -> None:
    """Refuse tensors that are no head's: without them the encoder is another."""
    tops = {name: name.partition(".")[0] for name in left}
    own = {name.partition(".")[0] for name in names} - HEADS - UNUSED
    others = [name for name, top in tops.items() if top not in HEADS | UNUSED]
    most = 0 if transformer else HEAD_TENSORS
    bad = [name for name, top in tops.items() if top in own]
    bad = bad or (others if len(others) > most else [])
    if not bad:
        return
    hint = ""
    if any(re.search(r"\.ls[12]\.", name) for name in bad):
        hint = ": options = { init_values = 1e-5 } in its [[members]]"
    elif any(name in ("reg_token", "register_tokens") for name in bad):
        hint = ": an encoder with registers, such as tu-..._reg4_..."
    listed = ", ".join(bad[:3]) + ", ..." * (len(bad) > 3)
    raise ValueError(
        f"weights {source}: of a larger encoder: {len(bad)} tensors left over that are "
        f"no head's ({listed}){hint}"
    )


def _load_in_order(
    encoder: nn.Module, own: Tensors, given: Tensors, source: Path
) -> Account:
    taken: Tensors = {}
    for (name, mine), theirs in zip(own.items(), given.items(), strict=False):
        if mine.shape != theirs[1].shape:
            raise ValueError(
                f"weights {source}: of another encoder: {name} has shape "
                f"{list(mine.shape)} here, but {theirs[0]} in the file has "
                f"{list(theirs[1].shape)}"
            )
        taken[name] = theirs[1]
    if len(taken) < len(own):
        missing = list(own)[len(taken)]
        raise ValueError(f"weights {source}: the encoder's {missing} is missing")
    left = tuple(list(given)[len(taken) :])
    if len(left) > HEAD_TENSORS:
        raise ValueError(
            f"weights {source}: of a larger encoder: {len(left)} tensors left over "
            f"besides {len(taken)} matched"
        )
    encoder.load_state_dict(taken, strict=False)
    note = "by order, as its names are others"
    return Account(used=len(taken), left_over=left, notes=(note,))


def stated_beside(path: Path) -> dict[str, Any]:
    """Mean, std and license that files beside an encoder's weights state.

    These are timm's ``config.json`` (``pretrained_cfg``) and Hugging Face's
    ``preprocessor_config.json``, as they are downloaded with the weights.

    Raises:
        ValueError: one of them is no JSON.
    """
    cfg = _json(path.with_name("config.json")).get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    images = _json(path.with_name("preprocessor_config.json"))
    found = {
        "mean": cfg.get("mean") or images.get("image_mean"),
        "std": cfg.get("std") or images.get("image_std"),
        "license": cfg.get("license"),
    }
    colors = {k: tuple(map(float, v)) for k, v in found.items() if isinstance(v, list)}
    license = found["license"]
    return {**colors, **({"license": license} if isinstance(license, str) else {})}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise ValueError(f"{path}, beside the encoder's weights: no JSON: {e}") from e
    return content if isinstance(content, dict) else {}


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


def encoder_license(spec: MemberSpec) -> str | None:
    """The license of the weights that a member's encoder starts from, if it is stated.

    Beside their file, or of ``"imagenet"`` in timm's configuration.
    """
    if spec.encoder_weights is not None:
        return stated_beside(encoder_file(spec.encoder_weights)).get("license")
    if spec.weights == "imagenet" and str(spec.encoder).startswith("tu-"):
        import timm

        cfg = timm.models.get_pretrained_cfg(str(spec.encoder)[3:])
        return None if cfg is None else cfg.license
    return None
