"""``digipath import-weights``: weights of others as safetensors with a model card."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import normalization_of
from digipath_ray.networks.card import ModelCard, card_path
from digipath_ray.networks.import_weights import import_checkpoint, import_keras
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES

KERAS_SUFFIXES = (".h5", ".hdf5")
RANDOM_LAYER = "The last layer is random: fit before use."
UNKNOWN_LICENSE = "unknown"

Color = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class ImportedMember:
    """What the user says of a weights file; the card holds it.

    Attributes:
        architecture: of the network; see ``digipath_ray.networks.build``.
        mpp: um per px it was trained at.
        name: the member's name; None takes the new file's.
        encoder: None for the original authors' networks.
        options: ``key=value`` of the architecture, for instance ``output_stride=8``.
        patch_px: side of the patches to predict on, px; the paper has 1024.
        mean, std: normalization on the 0..1 scale; None takes the encoder's own.
        license: of the weights.
        notes: anything else worth knowing.
    """

    architecture: str
    mpp: float
    name: str | None = None
    encoder: str | None = None
    options: tuple[str, ...] = ()
    patch_px: int = 1024
    mean: Color | None = None
    std: Color | None = None
    license: str = UNKNOWN_LICENSE
    notes: str = ""


def import_weights(
    console: Console,
    source: Path,
    out: Path,
    member: ImportedMember,
    *,
    new_classifier: bool = False,
    overwrite: bool = False,
) -> int:
    """Write ``out`` and its card from a .h5 file of the authors or a .pth state_dict.

    Raises:
        ValueError: ``out`` is there already, or the file is not that architecture's.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"weights {out}: there already; --overwrite, or another --out")
    keras = source.suffix.lower() in KERAS_SUFFIXES
    if new_classifier and not keras:
        raise ValueError("--new-classifier: for .h5 files only")
    card = _card(out, member, new_classifier=new_classifier)
    if keras:
        card = import_keras(source, out, card, new_classifier=new_classifier)
    else:
        card = import_checkpoint(source, out, card)
    _print_card(console, out, card)
    return 0


def _card(out: Path, member: ImportedMember, *, new_classifier: bool) -> ModelCard:
    """The card but for its digest."""
    spec = MemberSpec(
        name=member.name or out.stem,
        architecture=member.architecture,
        encoder=member.encoder,
        mean=member.mean,
        std=member.std,
        options=parse_options(member.options),
    )
    mean, std = normalization_of(spec)
    notes = [member.notes, RANDOM_LAYER if new_classifier else ""]
    return ModelCard(
        name=spec.name,
        architecture=spec.architecture,
        encoder=spec.encoder,
        options=spec.options,
        mpp=member.mpp,
        patch_px=member.patch_px,
        mean=mean,
        std=std,
        training_slides=(),
        training_patients=(),
        license=member.license,
        digest="0" * 64,
        notes=" ".join(filter(None, notes)),
    )


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts as a dict; a value that is JSON is read as such."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ValueError(f"--option {text}: must be KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def _print_card(console: Console, out: Path, card: ModelCard) -> None:
    console.print(
        f"Wrote {escape(str(out))} and its card {escape(str(card_path(out)))}"
    )
    console.print(
        f"  {escape(card.name)}: {card.architecture}, {card.mpp:g} um/px, mean "
        f"{_show(card.mean)}, std {_show(card.std)}"
    )
    if card.license == UNKNOWN_LICENSE:
        console.print("  license unknown: ask who made them before you pass them on")
    console.print(
        "  the card lists no training slides: what these weights have seen is not "
        "counted as overlap"
    )
    if RANDOM_LAYER in card.notes:
        console.print(f"  [bold]{RANDOM_LAYER}[/]")
    elif card.architecture in ORIGINAL_ARCHITECTURES:
        console.print(f"  try them: digipath run SLIDES --weights {escape(str(out))}")


def _show(color: Color) -> str:
    return ", ".join(f"{value:.3g}" for value in color)
