"""Converts weights made elsewhere (torch, Keras) into a member's safetensors.

A torch checkpoint is a pickle: any code in it is refused.
"""

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import (
    build_network,
)
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES, OriginalNetwork
from digipath_ray.networks.original.keras_file import read_keras_file
from digipath_ray.networks.weight_files import weights_file
from digipath_ray.networks.weights import (
    _check_finite,
    _misfits,
    save_weights,
)
from digipath_ray.storage.files import file_digest


def import_checkpoint(
    source_pth: str | Path, destination: str | Path, card: ModelCard
) -> ModelCard:
    """Write a .pth checkpoint as safetensors with its card, once it fits the card.

    Args:
        source_pth: a state_dict, bare or under the key ``state_dict``, its names with
            or without the ``module.`` of data-parallel training. Read with
            ``weights_only=True``: code in it is refused, not run.
        destination: the .safetensors file to write.
        card: what it holds; its digest is replaced by the new file's.

    Returns:
        The card as written.
    """
    source, target = Path(source_pth), _destination(destination)
    tensors = _read_checkpoint(source)
    network = _network_of(card)
    if misfits := _misfits(network, {k: tuple(v.shape) for k, v in tensors.items()}):
        raise ValueError(
            f"checkpoint {source}: not the weights of {card.architecture} with "
            f"{card.encoder} and options {card.options}: {misfits}"
        )
    return _write_imported(tensors, source, target, card)


def import_keras(
    source_h5: str | Path,
    destination: str | Path,
    card: ModelCard,
    *,
    new_classifier: bool = False,
) -> ModelCard:
    """Write a Keras file of the original authors as safetensors with its card.

    Args:
        source_h5: written by tf.keras for the architecture that the card names.
        destination: the .safetensors file to write.
        card: what it holds; its digest is replaced by the new file's.
        new_classifier: leave the last layer of OriginalDeepLabV3Plus random: weights
            to start fitting from, such as Pascal VOC's.

    Returns:
        The card as written.

    Raises:
        ValueError: the file is not that architecture's, naming the Keras layer.
    """
    source, target = Path(source_h5), _destination(destination)
    network = _network_of(card)
    if not isinstance(network, OriginalNetwork):
        raise ValueError(
            f"weights {source}: Keras files are read for the original authors' "
            f"networks alone ({', '.join(ORIGINAL_ARCHITECTURES)}), not for "
            f"{card.architecture}"
        )
    tensors = read_keras_file(source, network, new_classifier=new_classifier)
    return _write_imported(tensors, source, target, card)


def _destination(path: str | Path) -> Path:
    target = weights_file(str(path))
    if target is None:
        raise ValueError(f"destination {path}: must be a .safetensors file")
    return target


def _network_of(card: ModelCard) -> nn.Module:
    spec = MemberSpec(
        name=card.name,
        architecture=card.architecture,
        encoder=card.encoder,
        options=card.options,
    )
    return build_network(spec)


def _write_imported(
    tensors: Mapping[str, Tensor], source: Path, target: Path, card: ModelCard
) -> ModelCard:
    """Write tensors and card; returns the card with the new file's digest."""
    _check_finite(tensors.items(), source)
    save_weights(tensors, target)
    written = replace(card, digest=file_digest(target))
    write_card(target, written)
    return written


def _read_checkpoint(source: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise ValueError(f"checkpoint {source}: file not found") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(
            f"checkpoint {source}: not a PyTorch file of tensors alone: {e}"
        ) from e
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    ok = isinstance(content, dict) and len(content) > 0
    if not ok or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"checkpoint {source}: holds no state_dict")
    return {str(k).removeprefix("module."): v for k, v in content.items()}
