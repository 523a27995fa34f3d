"""The model card beside a member's weights: what the network is and what it expects.

Weights ``NAME.safetensors`` have their card in ``NAME.json``, one JSON object with the
fields of :class:`ModelCard`. Every field without a default must be there: a missing or
unknown one is an error, never a guess.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from digipath_ray.config.member import (
    ANSWER,
    CLASSES,
    TUMOR,
    Activation,
    ChannelOrder,
    Output,
    PixelLayout,
    check_answer,
)
from digipath_ray.config.run import Stain
from digipath_ray.stain.estimate import StainEstimate, StainMethod
from digipath_ray.storage.files import is_url, place, publish, read_json

InputScale = Literal["0..1", "0..255"]
QUESTIONS = "questions"
"""Key of a card that a person has to complete: field -> what is asked."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a weights file holds and how its network was trained.

    Attributes:
        name: the member's name.
        architecture: class of segmentation_models_pytorch, or of the original authors';
            "onnx" or "exported" where the file holds the network.
        encoder: its encoder; None where the architecture has no choice.
        options: further arguments of the architecture.
        mpp: um per px the network was trained at.
        patch_px: side of the patches to predict on, px.
        mean, std: normalization per RGB channel, on the 0..1 scale of a pixel.
        classes: the output's channels; (other, tumor) of networks fitted here.
        tumor_classes: those of them whose probabilities add up to tumor's.
        whole_classes: those that add up to the whole tumor's, of which the tumor
            classes are the viable part; empty if the network does not know it.
        output: what comes out, "logits" or "probabilities".
        activation: what makes probabilities of logits, "softmax", or "sigmoid" where
            each class stands for itself.
        output_stride: px of the patch that a px of the output stands for.
        border_px: px along a patch's edges in which the output is not to be used, or
            that it lacks.
        input_scale: what (x - mean) / std is multiplied by: "0..1" by 1, "0..255" by
            255, for networks that take pixels as they are stored.
        channel_order: "RGB", or "BGR" where the file wants it so.
        layout: of the input, "NCHW" or "NHWC".
        patch_multiple: sides of patches must be multiples of it.
        training_slides, training_patients: ids the network has seen.
        license: of the weights, an SPDX name where there is one.
        digest: SHA-256 of the weights file, 64 hexadecimal digits; of several files as
            :func:`digipath_ray.networks.weight_files.weights_digest`.
        threshold: probability from which a pixel counts as tumor, as chosen on
            validation patients; None if none was chosen.
        temperature: what its logits are divided by to be calibrated.
        context_mpp_factor: how many times coarser the surroundings are that the
            network sees too; None if it only sees its patch.
        stain: method -> the median stains of the training slides, the numbers of a
            :class:`digipath_ray.stain.estimate.StainEstimate`; empty if not known.
        slide_stain: method by which slides were brought to these stains before the
            network saw them, or "none"; None if that is not said.
        training: how it was fitted: folds, schedule, seeds, scores, versions.
        notes: anything else worth knowing.
    """

    name: str
    architecture: str
    encoder: str | None
    options: dict[str, Any]
    mpp: float
    patch_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classes: tuple[str, ...] = CLASSES
    tumor_classes: tuple[str, ...] = (TUMOR,)
    whole_classes: tuple[str, ...] = ()
    output: Output = "logits"
    activation: Activation = "softmax"
    output_stride: int = 1
    border_px: int = 0
    input_scale: InputScale = "0..1"
    channel_order: ChannelOrder = "RGB"
    layout: PixelLayout = "NCHW"
    patch_multiple: int = 1
    training_slides: tuple[str, ...]
    training_patients: tuple[str, ...]
    license: str
    digest: str
    threshold: float | None = None
    temperature: float = 1.0
    context_mpp_factor: int | None = None
    stain: dict[StainMethod, tuple[float, ...]] = field(default_factory=dict)
    slide_stain: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        """Check the fields; a wrong one is named with its value."""
        for key, (want, fits) in _WANTED.items():
            value = getattr(self, key)
            if not fits(value):
                raise ValueError(f"{key} = {value!r}: must be {want}")
        check_answer(self)


def stated_by(card: ModelCard) -> dict[str, Any]:
    """What a card says of its member, by the names of a ``MemberSpec``'s fields."""
    same = ["architecture", "encoder", "options", "mean", "std", "temperature"]
    same += ["context_mpp_factor", "channel_order", "layout", *ANSWER]
    stated = {key: getattr(card, key) for key in same}
    if card.input_scale == "0..255":
        stated["std"] = tuple(s / 255 for s in card.std)
    return stated


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an int of hundreds of digits
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _choice(literal: Any) -> tuple[str, Callable[[Any], bool]]:
    choices = get_args(literal)
    return " or ".join(map(repr, choices)), lambda v: _is_text(v) and v in choices


def _are_three(value: Any) -> bool:
    ok = isinstance(value, tuple) and len(value) == 3
    return ok and all(_is_number(v) for v in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_text(v) for v in value)


def _are_stains(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        for method, values in value.items():
            if not isinstance(values, tuple) or not all(map(_is_number, values)):
                return False
            StainEstimate(method=method, values=values)
    except ValueError:
        return False
    return True


# By hand, not by a validator: most checks are of values, and each says what is wanted.
_WANTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("text", _is_text),
    "architecture": ("text", _is_text),
    "encoder": ("text or null", lambda v: v is None or _is_text(v)),
    "options": ("an object", lambda v: isinstance(v, dict)),
    "mpp": ("a positive number", lambda v: _is_number(v) and v > 0),
    "patch_px": ("a positive whole number", _is_count),
    "mean": ("three numbers", _are_three),
    "std": ("three positive numbers", lambda v: _are_three(v) and min(v) > 0),
    "classes": ("a list of texts", _are_texts),
    "tumor_classes": ("a list of texts", _are_texts),
    "whole_classes": ("a list of texts", _are_texts),
    "output": _choice(Output),
    "activation": _choice(Activation),
    "output_stride": ("a positive whole number", _is_count),
    "border_px": ("a whole number", lambda v: type(v) is int and v >= 0),
    "input_scale": _choice(InputScale),
    "channel_order": _choice(ChannelOrder),
    "layout": _choice(PixelLayout),
    "patch_multiple": ("a positive whole number", _is_count),
    "training_slides": ("a list of texts", _are_texts),
    "training_patients": ("a list of texts", _are_texts),
    "license": ("text", _is_text),
    "digest": (
        "64 lower-case hexadecimal digits",
        lambda v: _is_text(v) and re.fullmatch("[0-9a-f]{64}", v) is not None,
    ),
    "threshold": (
        "a number between 0 and 1, or null",
        lambda v: v is None or (_is_number(v) and 0 < v < 1),
    ),
    "temperature": ("a positive number", lambda v: _is_number(v) and v > 0),
    "context_mpp_factor": (
        "a whole number from 2 to 64, or null",
        lambda v: v is None or (type(v) is int and 2 <= v <= 64),
    ),
    "stain": ("stains of macenko, reinhard or both", _are_stains),
    "slide_stain": (
        "'none', 'macenko' or 'reinhard', or null",
        lambda v: v is None or (_is_text(v) and v in get_args(Stain)),
    ),
    "training": ("an object", lambda v: isinstance(v, dict)),
    "notes": ("text", _is_text),
}


def mean_threshold(cards: Iterable[ModelCard]) -> float | None:
    """The threshold of an ensemble: the mean of its members' that state one."""
    chosen = [card.threshold for card in cards if card.threshold is not None]
    return sum(chosen) / len(chosen) if chosen else None


def card_path(weights_path: str | Path) -> Path:
    """Path of the card of a weights file."""
    path = place(weights_path) if is_url(weights_path) else Path(weights_path)
    return path.with_suffix(".json")


def read_card(weights_path: str | Path) -> ModelCard:
    """The card of a weights file.

    Raises:
        ValueError: there is no card, or it is no JSON object, or a key is missing,
            unknown or of the wrong type; names the file and the key.
        OSError: as :func:`digipath_ray.storage.files.read_bytes`.
    """
    path = card_path(weights_path)
    try:
        values = read_json(path)
    except FileNotFoundError as e:
        suffix = str(weights_path).rpartition(".")[2]
        made = "import-weights" if suffix == "safetensors" else "weights inspect"
        raise ValueError(
            f"weights {weights_path} have no model card: {path} is missing; 'digipath "
            f"{made}' writes it: copy it beside them, or have it written"
        ) from e
    except ValueError as e:
        raise ValueError(f"model card {e}") from e
    try:
        return _parse(values)
    except ValueError as e:
        raise ValueError(f"model card {path}: {e}") from e


def _parse(values: Any) -> ModelCard:
    if not isinstance(values, dict):
        raise ValueError("must be a JSON object")
    values = _answered(values)
    known = {
        f.name: f.default is MISSING and f.default_factory is MISSING
        for f in fields(ModelCard)
    }
    if unknown := sorted(values.keys() - known):
        raise ValueError(
            f"unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}"
        )
    for key, required in known.items():
        if required and key not in values:
            raise ValueError(f"key {key!r} is missing")
    args: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
    }
    if isinstance(args.get("stain"), dict):
        args["stain"] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in args["stain"].items()
        }
    return ModelCard(**args)


def _answered(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the questions of ``digipath weights inspect``.

    Raises:
        ValueError: one is open, of a field that is null.
    """
    asked = values.get(QUESTIONS, {})
    if not isinstance(asked, dict):
        raise ValueError(f"{QUESTIONS} = {asked!r:.100}: must be an object")
    for key, question in asked.items():
        if values.get(key) is None:
            raise ValueError(
                f"{key} is null: answer this question in the card: {question}"
            )
    return {key: value for key, value in values.items() if key != QUESTIONS}


def write_card(weights_path: str | Path, card: ModelCard) -> Path:
    """Publish the card beside a weights file; returns the card's path."""
    path, text = card_path(weights_path), json.dumps(asdict(card), indent=2) + "\n"
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
