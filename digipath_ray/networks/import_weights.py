"""Converts weights made elsewhere (torch, Keras) into a member's safetensors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from digipath_ray.config.member import CLASSES
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.checkpoint import (
    adapt,
    classes_of_head,
    own_normalization,
    read_checkpoint,
    swap_classes,
)
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES, OriginalNetwork
from digipath_ray.networks.original.keras_file import read_keras_file
from digipath_ray.networks.weights import (
    _check_finite,
    _misfits,
    save_weights,
)
from digipath_ray.storage.files import file_digest, publish

TUMOR_CHANNEL = 1
"""Of a network's two classes, other and tumor."""
LISTED = 20
"""Tensors of each kind that are named where a checkpoint does not fit."""


def import_checkpoint(
    source: str | Path,
    destination: str | Path,
    card: ModelCard,
    *,
    key: str | None = None,
    tumor_channel: int = TUMOR_CHANNEL,
    assumed: bool = False,
) -> ModelCard:
    """Write a torch checkpoint as safetensors with its card, once it fits the card.

    Args:
        source: .pth, .pt, .ckpt or .safetensors, as
            :mod:`digipath_ray.networks.checkpoint` reads it.
        destination: the .safetensors file to write.
        card: what it holds; its digest is replaced by the new file's.
        key: under which the checkpoint has its state_dict, where it has several.
        tumor_channel: which of the file's two classes is tumor, 0 or 1.
        assumed: the card's mean and std are a default, which nobody has stated.

    Returns:
        The card as written; what was changed is added to its notes.

    Raises:
        ValueError: not this network's weights, or it normalizes by other numbers than
            those assumed.
    """
    origin, target = Path(source), _destination(destination)
    network = _network_of(card)
    stored = read_checkpoint(origin, key=key)
    if assumed:
        _check_normalization(stored, card, origin)
    adapted = adapt(stored, network, origin)
    tensors, notes = adapted.tensors, list(adapted.notes)
    _check_fits(tensors, network, card, origin)
    if adapted.one_logit and card.classes != CLASSES:
        raise ValueError(
            f"checkpoint {origin}: its last layer has one logit, and --classes names "
            f"{len(card.classes)}: leave --classes out if the logit is tumor's"
        )
    if tumor_channel != TUMOR_CHANNEL:
        tensors = swap_classes(tensors, network)
        notes.append(f"its channel {tumor_channel} is tumor")
    sentences = [f"{note[0].upper()}{note[1:]}." for note in notes]
    card = replace(card, notes=" ".join(filter(None, [card.notes, *sentences])))
    return _write_imported(tensors, origin, target, card)


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


def _check_fits(
    tensors: Mapping[str, Tensor], network: nn.Module, card: ModelCard, origin: Path
) -> None:
    """Refuse tensors that are not the network's, naming what is missing and left over.

    Raises:
        ValueError: asks for the classes where only their number differs.
    """
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    misfits = _misfits(network, shapes, most=LISTED)
    if not misfits:
        return
    found, fix = classes_of_head(tensors, network), "; another --encoder or --option?"
    if found is not None:
        fix = (
            f"; its last layer has {found} classes, not {len(card.classes)}: name them "
            "in their order, --classes NAME,NAME,... and --tumor-classes NAME,..."
        )
    raise ValueError(
        f"checkpoint {origin}: not the weights of {card.architecture} with "
        f"{card.encoder} and options {card.options}: {misfits}{fix}"
    )


def _check_normalization(
    tensors: Mapping[str, Tensor], card: ModelCard, source: Path
) -> None:
    """Refuse a default that contradicts what the checkpoint itself normalizes by."""
    own = own_normalization(tensors)
    if own is None or np.allclose(own, (card.mean, card.std), atol=2e-3):
        return
    mean, std = (" ".join(f"{number:.4g}" for number in color) for color in own)
    raise ValueError(
        f"checkpoint {source}: it holds a mean and std of its own, which are not the "
        f"encoder's: if it normalizes pixels of 0..1 by them, give --mean {mean} --std "
        f"{std}; if pixels of 0..255, these divided by 255"
    )


def _destination(path: str | Path) -> Path:
    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(
            f"destination {target}: tensors are written as a .safetensors file: "
            f"{target.with_suffix('.safetensors')}"
        )
    return target


def _network_of(card: ModelCard) -> nn.Module:
    spec = MemberSpec(
        name=card.name,
        architecture=card.architecture,
        encoder=card.encoder,
        options=card.options,
        context_mpp_factor=card.context_mpp_factor,
        classes=card.classes,
        tumor_classes=card.tumor_classes,
        activation=card.activation,
    )
    return build_network(spec)


def _write_imported(
    tensors: Mapping[str, Tensor], source: Path, target: Path, card: ModelCard
) -> ModelCard:
    """Write tensors and card; returns the card with the new file's digest."""
    _check_finite(tensors.items(), source)
    with publish(target) as path:
        save_weights(tensors, path)
    written = replace(card, digest=file_digest(target))
    write_card(target, written)
    return written
