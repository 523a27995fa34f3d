"""An encoder's weights from a file: timm's names, Hugging Face's, or a trainer's.

Every tensor of the file is accounted for: it is the encoder's, it belongs to a head on
top of it, or the file is refused.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from digipath_ray.config.member import MemberSpec
from digipath_ray.networks.checkpoint import Tensors, merged
from digipath_ray.networks.encoder_names import (
    POSITIONS,
    bare_name,
    in_timms_names,
    is_derived,
    plain_name,
    short_name,
)
from digipath_ray.networks.hook import Branches
from digipath_ray.networks.weight_files import encoder_file

HEADS = {"head", "head_dist", "heads", "fc", "fc_norm", "classifier", "last_linear"}
HEADS |= {"pooler", "mask_token", "dino_head", "ibot_head", "projection_head"}
"""First parts of the names of what is on top of an encoder."""
UNUSED = {"head", "head_dist", "norm", "fc_norm"}
"""Of a transformer, what its decoder does not see: its maps come from before."""
HEAD_TENSORS = 12
"""Maximum number of leftover tensors of other names on top of a convolutional one."""


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
    own = {k: v for k, v in encoder.state_dict().items() if not is_derived(k)}
    given = {k: v.float() for k, v in tensors.items() if not is_derived(k)}
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise ValueError(f"weights {source}: {name} holds NaN or infinite numbers")
    names = {plain_name(bare_name(name)): name for name in own}
    transformer = POSITIONS in names or any(".attn." in name for name in names)
    named = in_timms_names(given, names, source) if transformer else given
    short = merged({k: short_name(k, names) for k in named}, named, source)
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
    if to**2 != own.shape[1] - prefix:
        raise ValueError(
            f"weights {source}: {POSITIONS} for an encoder of {own.shape[1] - prefix} "
            "tokens, which are no square: leave img_size out, or give one number"
        )
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
    """Mean and std that files beside an encoder's weights state.

    These are timm's ``config.json`` (``pretrained_cfg``) and Hugging Face's
    ``preprocessor_config.json``, as they are downloaded with the weights.

    Raises:
        ValueError: one of them is no JSON; or they say what is no mean or std of pixels
            from 0 to 1, or two different things.
    """
    cfg, beside = _timms(path), path.with_name("preprocessor_config.json")
    images = _json(beside)
    _check_scale(images, beside)
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        said = [
            _three(values[name], name, file)
            for values, name, file in (
                (cfg, key, path.with_name("config.json")),
                (images, f"image_{key}", beside),
            )
            if values.get(name) is not None
        ]
        if len({tuple(round(v, 3) for v in three) for three in said}) > 1:
            raise ValueError(
                f"config.json and preprocessor_config.json beside {path} say another "
                f"{key}, {list(said[0])} and {list(said[1])}: give mean and std in "
                "[[members]] and take the wrong one away"
            )
        if said:
            found[key] = said[0]
    return found


def _timms(path: Path) -> dict[str, Any]:
    """What timm's config.json beside a file says of its weights."""
    cfg = _json(path.with_name("config.json")).get("pretrained_cfg")
    return cfg if isinstance(cfg, dict) else {}


def _check_scale(images: dict[str, Any], source: Path) -> None:
    """Refuse Hugging Face's mean and std of pixels that are not from 0 to 1."""
    if images.get("image_mean") is None and images.get("image_std") is None:
        return
    factor = images.get("rescale_factor", 1 / 255)
    plain = isinstance(factor, (int, float)) and abs(255 * factor - 1) < 0.01
    for key, ok in (
        ("do_normalize", images.get("do_normalize", True) is True),
        ("do_rescale", images.get("do_rescale", True) is True),
        ("rescale_factor", plain),
    ):
        if not ok:
            raise ValueError(
                f"{source}: {key} = {images[key]!r}, so its mean and std are not of "
                "pixels from 0 to 1: give those in [[members]], and take the file away"
            )


def _three(value: Any, key: str, source: Path) -> tuple[float, ...]:
    """A mean or std of three channels."""
    ok = isinstance(value, list) and len(value) == 3
    if not ok or any(type(v) not in (int, float) for v in value):
        raise ValueError(
            f"{source}, beside the encoder's weights: {key} = {value!r:.100}: must be "
            "three numbers, of R, G and B"
        )
    return tuple(map(float, value))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise ValueError(f"{path}, beside the encoder's weights: no JSON: {e}") from e
    return content if isinstance(content, dict) else {}


def encoder_license(spec: MemberSpec) -> str | None:
    """The license of the weights that a member's encoder starts from, if it is stated.

    Beside their file, or of ``"imagenet"`` in timm's configuration.
    """
    if spec.encoder_weights is not None:
        license = _timms(encoder_file(spec.encoder_weights)).get("license")
        return license if isinstance(license, str) else None
    if spec.weights == "imagenet" and str(spec.encoder).startswith("tu-"):
        import timm

        cfg = timm.models.get_pretrained_cfg(str(spec.encoder)[3:])
        return None if cfg is None else cfg.license
    return None
