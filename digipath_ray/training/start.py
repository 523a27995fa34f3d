"""The network a fit begins with: random, ImageNet's encoder, or weights from a file."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.weightfiles import fetch_encoder, weights_file
from digipath_ray.storage.files import is_url

Tensors = dict[str, Tensor]
PREFIXES = ("module.", "encoder.")
"""What tools put before a tensor's name."""
HEAD_TENSORS = 12
"""More than a classifier has on top of an encoder."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network before its first step.

    Attributes:
        network: maps [B, 3, H, W] to logits [B, 2, H, W].
        pretrained: none of its encoder's tensors is random.
        origin: where its weights are from, in words.
    """

    network: nn.Module
    pretrained: bool
    origin: str


def start_network(spec: MemberSpec) -> Start:
    """The member's network with the weights its fit starts from.

    The encoder's come from the file ``encoder_weights`` if one is named; else all that
    fits comes from ``weights``: a file, "imagenet" (the encoder's, from the Hugging
    Face cache) or "random".

    Raises:
        ValueError: a file is missing, is no weights file, or holds another encoder's.
    """
    if spec.encoder_weights is not None:
        path = encoder_file(spec.encoder_weights)
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
    network = build_network(replace(spec, weights="random"))
    left = load_matching(network, read_tensors(path_or_none), source=path_or_none)
    note = f"; random: {', '.join(left)}" if left else ""
    pretrained = not any(name.startswith("encoder.") for name in left)
    return Start(
        network=network, pretrained=pretrained, origin=f"{path_or_none.name}{note}"
    )


def encoder_file(name: str) -> Path:
    """The file of an encoder's weights: a path, or PACKAGE/FILE of a Python package.

    Some packages on PyPI ship ImageNet weights, which a machine offline can install.
    Of an object in a bucket, this machine's copy.

    Raises:
        ValueError: none of them is there, saying what to do.
        OSError: as :func:`digipath_ray.networks.weightfiles.fetch_encoder`.
    """
    if is_url(name):
        return fetch_encoder(name)
    path = Path(name).expanduser()
    if path.is_file():
        return path
    package, _, inside = name.partition("/")
    found = find_spec(package) if package.isidentifier() else None
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / inside).is_file():
            return Path(place) / inside
    raise ValueError(
        f"encoder weights {name}: no such file, nor is it in an installed Python "
        "package: bring the file (.pth or .safetensors) and name its path, or "
        f"pip install {package.replace('_', '-')}"
    )


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file, or of a PyTorch file that holds no code.

    Raises:
        ValueError: no such file, or not one of tensors.
    """
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(f"weights {path}: not a file of tensors alone: {e}") from e
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"weights {path}: holds no state_dict")
    return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}


def load_matching(network: nn.Module, tensors: Tensors, *, source: Path) -> list[str]:
    """Take the tensors that the network has by name and shape.

    Returns:
        Names of the network's parameters that stay random (a head of other classes).

    Raises:
        ValueError: not even half of the network's parameters are there.
    """
    own = network.state_dict()
    named = {_bare(k, ("module.",)): v for k, v in tensors.items()}
    fit = {k: v for k, v in named.items() if k in own and v.shape == own[k].shape}
    left = [name for name, _ in network.named_parameters() if name not in fit]
    if 2 * len(left) > len(list(network.parameters())):
        raise ValueError(
            f"weights {source}: {len(left)} of the network's parameters are not there, "
            f"{left[0]} for one: these are another architecture's"
        )
    network.load_state_dict(fit, strict=False)
    return left


def load_encoder(network: nn.Module, tensors: Tensors, *, source: Path) -> None:
    """Fill the network's encoder, by the tensors' names or else by their order.

    Libraries name the same ImageNet weights differently, yet list them in the order of
    the layers. So where names do not match, the file's tensors must have the encoder's
    shapes one after the other; a classifier's few tensors may be left over.

    Raises:
        ValueError: neither fits, naming the first tensor that does not.
    """
    encoder = network.get_submodule("encoder")
    own = {k: v for k, v in encoder.state_dict().items() if not _counts(k)}
    given = {k: v for k, v in tensors.items() if not _counts(k)}
    taken = _by_name(own, given) or _by_order(own, given, source)
    if len(given) - len(taken) > HEAD_TENSORS:
        raise ValueError(
            f"weights {source}: a larger encoder's: {len(given) - len(taken)} of its "
            f"tensors have no place in this one ({len(taken)})"
        )
    encoder.load_state_dict(taken, strict=False)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _bare(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def _by_name(own: Tensors, given: Mapping[str, Tensor]) -> Tensors | None:
    """The encoder's tensors by name, with or without what libraries put before it."""
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
                f"weights {source}: not this encoder's: its {name} has shape "
                f"{list(mine.shape)}, the file's {theirs[0]} {list(theirs[1].shape)}"
            )
        taken[name] = theirs[1]
    if len(taken) < len(own):
        missing = list(own)[len(taken)]
        raise ValueError(f"weights {source}: the encoder's {missing} is not there")
    return taken
