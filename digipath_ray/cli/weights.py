"""``digipath import-weights``: weights of others as safetensors with a model card."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape

from digipath_ray.config.member import CLASSES, TUMOR, Activation
from digipath_ray.config.run import MemberSpec
from digipath_ray.demo.drawing import DemoSlide, draw_slide
from digipath_ray.networks.card import ModelCard, card_path
from digipath_ray.networks.import_weights import (
    TUMOR_CHANNEL,
    import_checkpoint,
    import_keras,
)
from digipath_ray.networks.normalization import normalization_of
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES
from digipath_ray.networks.weights import card_spec, load_member
from digipath_ray.slide.info import Pixels

KERAS_SUFFIXES = (".h5", ".hdf5")
LOOK_PX, GLASS_GRAY = 256, 243
SUSPICIOUS_GLASS = 0.5
"""Share of a patch of glass taken for tumor from which something must be wrong."""
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
        context_mpp_factor: how many times coarser the context is that it sees.
        options: ``key=value`` of the architecture, for instance ``output_stride=8``.
        patch_px: side of the patches to predict on, px; the paper has 1024.
        mean, std: normalization on the 0..1 scale; None takes the encoder's own.
        classes: names of the channels of its answer, in their order.
        tumor_classes: those of them that are tumor.
        activation: what makes probabilities of its logits.
        license: of the weights.
        notes: anything else worth knowing.
    """

    architecture: str
    mpp: float
    name: str | None = None
    encoder: str | None = None
    context_mpp_factor: int | None = None
    options: tuple[str, ...] = ()
    patch_px: int = 1024
    mean: Color | None = None
    std: Color | None = None
    classes: tuple[str, ...] = CLASSES
    tumor_classes: tuple[str, ...] = (TUMOR,)
    activation: Activation = "softmax"
    license: str = UNKNOWN_LICENSE
    notes: str = ""


def import_weights(
    console: Console,
    source: Path,
    out: Path,
    member: ImportedMember,
    *,
    new_classifier: bool = False,
    key: str | None = None,
    tumor_channel: int = TUMOR_CHANNEL,
    overwrite: bool = False,
) -> int:
    """Write ``out`` and its card from a .h5 file of the authors or a checkpoint.

    Raises:
        ValueError: ``out`` is there already, or the file is not that architecture's.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"weights {out}: there already; --overwrite, or another --out")
    keras = source.suffix.lower() in KERAS_SUFFIXES
    if new_classifier and not keras:
        raise ValueError("--new-classifier: for .h5 files only")
    if member.classes != CLASSES and tumor_channel != TUMOR_CHANNEL:
        raise ValueError("--tumor-channel: of two classes without --classes only")
    card = _card(out, member, new_classifier=new_classifier)
    if keras:
        card = import_keras(source, out, card, new_classifier=new_classifier)
    else:
        card = import_checkpoint(
            source,
            out,
            card,
            key=key,
            tumor_channel=tumor_channel,
            assumed=None in (member.mean, member.std),
        )
    _print_card(console, out, card)
    if not new_classifier:
        _look_at_answers(console, out, card, tumor_channel)
    return 0


def _look_at_answers(
    console: Console, out: Path, card: ModelCard, tumor_channel: int
) -> None:
    """Say what share of bare glass and of drawn H&E tissue comes out as tumor.

    Glass is no tumor: a network that finds it there is inverted or saturated, or its
    pixels are normalized wrongly.
    """
    member = load_member(card_spec(card, out))
    share = {}
    for name, pixels in look_patches().items():
        whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        with torch.inference_mode():
            views = (whole, *_around(whole, card.context_mpp_factor))
            share[name] = float((member(*views) > 0.5).float().mean())
    tumor = f"tumor is channel {tumor_channel} of the file (--tumor-channel)"
    if card.classes != CLASSES:
        tumor = f"tumor is {' and '.join(card.tumor_classes)} (--tumor-classes)"
    console.print(
        f"  {escape(tumor)}; it came out on {share['glass']:.0%} of a patch of bare "
        f"glass and {share['tissue']:.0%} of a drawn one of H&E tissue"
    )
    if share["glass"] > SUSPICIOUS_GLASS:
        console.print(
            "  [bold]Glass is no tumor: look at --tumor-channel, --tumor-classes, "
            "--mean and --std before you use these weights.[/]"
        )


def _around(patch: torch.Tensor, factor: int | None) -> list[torch.Tensor]:
    """The context of a patch, uint8 [1, 3, P, P]: it repeats in all directions."""
    if factor is None:
        return []
    small = torch.nn.functional.avg_pool2d(patch.float(), factor).round()
    return [small.tile(1, 1, factor, factor).to(torch.uint8)]


def look_patches() -> dict[str, Pixels]:
    """Two patches uint8 [LOOK_PX, LOOK_PX, 3]: bare glass, and drawn H&E tissue."""
    drawn, _ = draw_slide(
        DemoSlide(
            slide_id="look",
            patient_id="look",
            node=1,
            label="negative",
            seed=1,
            width=4 * LOOK_PX,
            height=4 * LOOK_PX,
            tissue_mm=(3.2 * LOOK_PX / 1000, 3.2 * LOOK_PX / 1000),
        )
    )
    middle = slice(3 * LOOK_PX // 2, 5 * LOOK_PX // 2)
    glass = np.full((LOOK_PX, LOOK_PX, 3), GLASS_GRAY, np.uint8)
    return {"glass": glass, "tissue": drawn[middle, middle]}


def _card(out: Path, member: ImportedMember, *, new_classifier: bool) -> ModelCard:
    """The card but for its digest."""
    spec = MemberSpec(
        name=member.name or out.stem,
        architecture=member.architecture,
        encoder=member.encoder,
        mean=member.mean,
        std=member.std,
        context_mpp_factor=member.context_mpp_factor,
        options=parse_options(member.options),
        classes=member.classes,
        tumor_classes=member.tumor_classes,
        activation=member.activation,
    )
    mean, std = normalization_of(spec)
    notes = [member.notes, RANDOM_LAYER if new_classifier else ""]
    return ModelCard(
        name=spec.name,
        architecture=spec.architecture,
        encoder=spec.encoder,
        options=spec.options,
        context_mpp_factor=spec.context_mpp_factor,
        mpp=member.mpp,
        patch_px=member.patch_px,
        mean=mean,
        std=std,
        classes=spec.classes,
        tumor_classes=spec.tumor_classes,
        activation=spec.activation,
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
    elif card.notes:
        console.print(f"  {escape(card.notes)}")
    if RANDOM_LAYER not in card.notes and card.architecture in ORIGINAL_ARCHITECTURES:
        console.print(f"  try them: digipath run SLIDES --weights {escape(str(out))}")


def _show(color: Color) -> str:
    return ", ".join(f"{value:.3g}" for value in color)
