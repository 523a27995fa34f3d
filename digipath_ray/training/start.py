"""Initial network of a fit: random, ImageNet encoder, or weights from a file."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.checkpoint import read_checkpoint
from digipath_ray.networks.encoder_file import load_encoder
from digipath_ray.networks.weight_files import encoder_file, weights_file
from digipath_ray.storage.files import file_digest

Tensors = dict[str, Tensor]


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
        tensors = read_checkpoint(path, key=spec.encoder_key)
        told = load_encoder(
            network, tensors, source=path, by_order=spec.encoder_by_order
        ).describe()
        origin = "; ".join(filter(None, (f"encoder: {path.name}", told)))
        return Start(network=network, pretrained=True, origin=origin)
    path_or_none = weights_file(spec.weights)
    if path_or_none is None:
        return Start(
            network=build_network(spec),
            pretrained=spec.weights == "imagenet",
            origin=str(spec.weights),
        )
    _check_digest(path_or_none, spec)
    network = build_network(replace(spec, weights="random"))
    left = load_matching(network, read_checkpoint(path_or_none), source=path_or_none)
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


def load_matching(network: nn.Module, tensors: Tensors, *, source: Path) -> list[str]:
    """Load the tensors that match the network by name and shape.

    Returns:
        Names of the parameters that stay random (e.g. a head of other classes).

    Raises:
        ValueError: less than half of the network's parameters match.
    """
    own = network.state_dict()
    named = {_without_module(k): v for k, v in tensors.items()}
    fit = {k: v for k, v in named.items() if k in own and v.shape == own[k].shape}
    left = [name for name, _ in network.named_parameters() if name not in fit]
    if 2 * len(left) > len(list(network.parameters())):
        raise ValueError(
            f"weights {source}: {len(left)} of the network's parameters are missing, "
            f"e.g. {left[0]}: the file is of another architecture"
        )
    network.load_state_dict(fit, strict=False)
    return left


def _without_module(name: str) -> str:
    return name.removeprefix("module.")
