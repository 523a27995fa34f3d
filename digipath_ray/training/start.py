"""Initial network of a fit: random, ImageNet encoder, or weights from a file."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.hook import Branches
from digipath_ray.networks.weight_files import encoder_file, weights_file
from digipath_ray.storage.files import file_digest

Tensors = dict[str, Tensor]
PREFIXES = ("module.", "encoder.")
"""Prefixes that tools add to tensor names."""
HEAD_TENSORS = 12
"""Maximum number of leftover tensors, of a classifier on top of the encoder."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network before its first step.

    Attributes:
        network: maps [B, 3, H, W] to logits [B, 2, H, W].
        pretrained: whether the whole encoder is pretrained.
        origin: origin of its weights, for people.
    """

    network: nn.Module
    pretrained: bool
    origin: str


def start_network(spec: MemberSpec) -> Start:
    """Build the member's network with its initial weights.

    The encoder is loaded from ``encoder_weights`` if given; otherwise every matching
    tensor is loaded from ``weights``: a file, "imagenet" (encoder only, from the
    Hugging Face cache) or "random".

    Raises:
        ValueError: a file is missing, not a weights file, or of another encoder.
    """
    if spec.encoder_weights is not None:
        path = encoder_file(spec.encoder_weights)
        _check_digest(path, spec)
        network = build_network(replace(spec, weights="random"))
        load_encoder(network, read_tensors(path), source=path)
        return Start(network=network, pretrained=True, origin=f"encoder: {path.name}")
    path_or_none = weights_file(spec.weights)
    if path_or_none is None:
        return Start(
            network=build_network(spec),
            pretrained=spec.weights == "imagenet",
            origin=str(spec.weights),
        )
    _check_digest(path_or_none, spec)
    network = build_network(replace(spec, weights="random"))
    left = load_matching(network, read_tensors(path_or_none), source=path_or_none)
    note = f"; random: {', '.join(left)}" if left else ""
    pretrained = not any(name.startswith("encoder.") for name in left)
    return Start(
        network=network, pretrained=pretrained, origin=f"{path_or_none.name}{note}"
    )


def _check_digest(path: Path, spec: MemberSpec) -> None:
    """Refuse weights that were replaced after the fit was set up."""
    if spec.digest is not None and path.is_file() and file_digest(path) != spec.digest:
        raise ValueError(
            f"weights {path}: not the file the fit was set up with, its SHA-256 is not "
            f"{spec.digest[:12]}...: put it back, or fit into another --out"
        )


def read_tensors(path: Path) -> Tensors:
    """Read the tensors of a .safetensors file, or of a PyTorch file without code.

    Raises:
        ValueError: the file does not exist, or does not only contain tensors.
    """
    if not path.is_file():
        raise ValueError(f"weights {path}: file not found")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(f"weights {path}: not a file of only tensors: {e}") from e
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"weights {path}: contains no state_dict")
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}


def load_matching(network: nn.Module, tensors: Tensors, *, source: Path) -> list[str]:
    """Load the tensors that match the network by name and shape.

    Returns:
        Names of the parameters that stay random (e.g. a head of other classes).

    Raises:
        ValueError: less than half of the network's parameters match.
    """
    own = network.state_dict()
    named = {_bare(k, ("module.",)): v for k, v in tensors.items()}
    fit = {k: v for k, v in named.items() if k in own and v.shape == own[k].shape}
    left = [name for name, _ in network.named_parameters() if name not in fit]
    if 2 * len(left) > len(list(network.parameters())):
        raise ValueError(
            f"weights {source}: {len(left)} of the network's parameters are missing, "
            f"e.g. {left[0]}: the file is of another architecture"
        )
    network.load_state_dict(fit, strict=False)
    return left


def load_encoder(network: nn.Module, tensors: Tensors, *, source: Path) -> None:
    """Load the network's encoder, by tensor names or else by order.

    Libraries name the same ImageNet weights differently, but list them in layer order.
    If names do not match, the file's tensors must have the encoder's shapes in
    sequence; a classifier's few tensors may be left over.

    Raises:
        ValueError: neither matches; names the first mismatch.
    """
    encoder = network.get_submodule("encoder")
    if isinstance(encoder, Branches):
        for branch in encoder.children():
            _load_into(branch, tensors, source)
    else:
        _load_into(encoder, tensors, source)


def _load_into(encoder: nn.Module, tensors: Tensors, source: Path) -> None:
    own = {k: v for k, v in encoder.state_dict().items() if not _counts(k)}
    given = {k: v for k, v in tensors.items() if not _counts(k)}
    taken = _by_name(own, given) or _by_order(own, given, source)
    if len(given) - len(taken) > HEAD_TENSORS:
        raise ValueError(
            f"weights {source}: of a larger encoder: {len(given) - len(taken)} "
            f"tensors left over besides {len(taken)} matched"
        )
    encoder.load_state_dict(taken, strict=False)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def _by_name(own: Tensors, given: Mapping[str, Tensor]) -> Tensors | None:
    """Match the encoder's tensors by name, with or without known prefixes."""
    bare = {_bare(k, PREFIXES): v for k, v in given.items()}
    for own_prefix in ("", "model.", "features."):
        found = {k: bare.get(k.removeprefix(own_prefix)) for k in own}
        if all(v is not None and v.shape == own[k].shape for k, v in found.items()):
            return {k: v for k, v in found.items() if v is not None}
    return None


def _by_order(own: Tensors, given: Mapping[str, Tensor], source: Path) -> Tensors:
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
    return taken
