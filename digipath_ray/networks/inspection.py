"""What can be told of a network's file by reading and running it, and what not.

The rest is asked in the card that ``digipath weights inspect`` writes: a field that
nobody answered is null there, and such a card is refused.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from digipath_ray.config.member import FROM_FILE, STRIDES, MemberSpec, PixelLayout
from digipath_ray.networks.answers import ROUNDING, SUM_TOLERANCE
from digipath_ray.networks.from_file import FileNetwork, load_network
from digipath_ray.networks.onnx_file import read_header
from digipath_ray.networks.trial import (
    GROWTH_PX,
    check_again,
    check_sums,
    stride_of,
    trial_patches,
)
from digipath_ray.networks.weight_files import external_files, weights_digest

SIDE = 256
"""Of the patches that a network is tried on, px, where its file takes any."""
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Sides may be multiples of."""

QUESTIONS = {
    "mpp": "how many um per px was it trained at?",
    "patch_px": "on patches of how many px a side is it to predict?",
    "mean": "what is subtracted of R, G and B, as three numbers from 0 to 1? [0, 0, 0] "
    "if nothing",
    "std": "what are they divided by then, as three numbers from 0 to 1? [1, 1, 1] if "
    "by nothing",
    "input_scale": "are pixels taken from 0 to 1 or as they are stored, "
    '"0..1" or "0..255"?',
    "channel_order": 'which color comes first, "RGB" or "BGR"?',
    "layout": 'are channels the second dimension or the last, "NCHW" or "NHWC"?',
    "classes": "what are its classes, a name for each of its {channels} channels?",
    "tumor_classes": "which of the classes are tumor, a list of their names?",
    "activation": 'do logits become probabilities by "softmax" or by "sigmoid"?',
    "border_px": "within how many px of a patch's edge is its answer not to be used? "
    "At least {cut}",
    "license": "under which license are these weights?",
}


@dataclass(kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        facts: heading -> what the file says or did.
        known: fields of the card that follow from it.
        questions: fields that do not -> what is asked.
    """

    facts: dict[str, str] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        """The card to be completed: what is asked is null in it."""
        asked = dict.fromkeys(self.questions)
        return {**self.known, **asked, "questions": self.questions}


def inspect_file(path: Path, *, output: str | None = None) -> Inspection:
    """Read a network's file and try it on pictures.

    Args:
        path: .onnx or .pt2.
        output: which of an ONNX model's outputs is the answer, if it has several.

    Raises:
        ValueError: the file cannot be a member's; says why.
        OSError: it cannot be read.
    """
    found = Inspection()
    architecture = {suffix: name for name, suffix in FROM_FILE.items()}.get(path.suffix)
    if architecture is None:
        raise ValueError(
            f"{path}: neither an .onnx nor a .pt2 file; weights alone are for "
            "'digipath import-weights'"
        )
    if not path.is_file():
        raise ValueError(f"{path}: file not found")
    found.known = {
        "name": "".join(c if c.isalnum() or c in "-_." else "-" for c in path.stem),
        "architecture": architecture,
        "encoder": None,
        "options": {} if output is None else {"output": output},
        "training_slides": [],
        "training_patients": [],
        "digest": weights_digest(path),
        "notes": "",
    }
    networks, mistakes = _networks(path, found.known)
    first = next(iter(networks.values()))
    _say_what_it_is(path, first, found)
    layout, side, answer = _first_that_runs(path, networks, mistakes)
    network = networks[layout]
    if len(networks) == 1:
        found.known["layout"] = layout
    _take_sizes(network, side, answer, found)
    _take_numbers(network, side, answer, found)
    channels, cut = answer.shape[1], found.known.pop("cut")
    found.questions |= {
        key: text.format(channels=channels, cut=cut)
        for key, text in QUESTIONS.items()
        if key not in found.known
    }
    return found


def _networks(
    path: Path, known: dict[str, Any]
) -> tuple[dict[PixelLayout, FileNetwork], list[str]]:
    """The network in each layout that its file may have, and why in another it has not.

    Raises:
        ValueError: it has none.
    """
    networks, mistakes = dict[PixelLayout, FileNetwork](), list[str]()
    for layout in ("NCHW", "NHWC"):
        spec = MemberSpec(
            name=known["name"],
            architecture=known["architecture"],
            options=known["options"],
            layout=layout,
        )
        try:
            networks[layout] = load_network(spec, path, torch.device("cpu"))
        except ValueError as e:
            if "layout" not in str(e):
                raise
            mistakes.append(str(e))
    if not networks:
        raise ValueError(mistakes[0])
    return networks, mistakes


def _say_what_it_is(path: Path, network: FileNetwork, found: Inspection) -> None:
    """Facts that the file states."""
    files = [path, *(path.parent / name for name in external_files(path))]
    found.facts["files"] = ", ".join(
        f"{file.name} ({file.stat().st_size / 1e6:.3g} MB)" for file in files
    )
    shape = " x ".join(
        str(size) if isinstance(size, int) else _between(*size)
        for size in network.sizes
    )
    inside: Any = network.network
    if path.suffix == ".onnx":
        header = read_header(path)
        opsets = (f"{d or 'ai.onnx'} {v}" for d, v in sorted(header.opsets.items()))
        session = inside.session
        found.facts["made by"] = header.producer or "unknown"
        found.facts["opset"] = ", ".join(opsets)
        found.facts["input"] = f"{inside.input.name}: {shape}, {inside.input.type}"
        found.facts["outputs"] = ", ".join(
            f"{o.name}: {' x '.join(map(str, o.shape))}" for o in session.get_outputs()
        )
        found.facts["runs on"] = ", ".join(session.get_providers())
        return
    program = inside.program
    count = sum(t.numel() for t in program.tensors.values())
    found.facts["made by"] = f"torch {program.torch_version}"
    found.facts["input"] = shape
    found.facts["program"] = f"{len(program.nodes)} operations, {count:,} numbers"


def _between(least: int, most: int | None) -> str:
    if most is None:
        return "any" if least <= 1 else f"{least} or more"
    return f"{least} to {most}"


def _size(network: FileNetwork) -> int | tuple[int, int | None]:
    """What a side of patches may be: the number, if one side of its input has one."""
    return next((s for s in network.sides if isinstance(s, int)), network.sides[0])


def _side(network: FileNetwork) -> int:
    """A side of patches that the file may take."""
    size = _size(network)
    if isinstance(size, int):
        return size
    least, most = size
    return max(least, SIDE if most is None else min(SIDE, most))


def _pictures(side: int) -> Tensor:
    """Glass and the colors of tissue, float32 [2, 3, side, side] from 0 to 1."""
    patches = [torch.from_numpy(p) for p in trial_patches(side).values()]
    return torch.stack(patches).permute(0, 3, 1, 2).float() / 255


def _first_that_runs(
    path: Path, networks: dict[PixelLayout, FileNetwork], mistakes: list[str]
) -> tuple[PixelLayout, int, Tensor]:
    """The layout in which it runs, the side of the patch and its answer."""
    failed = list(mistakes)
    for layout, network in networks.items():
        side = _side(network)
        try:
            answer = network(_pictures(side))
        except (RuntimeError, ValueError) as e:
            failed.append(f"{layout}: {e}")
            continue
        if answer.ndim == 4:
            return layout, side, answer
        failed.append(f"{layout}: its answer has shape {list(answer.shape)}")
    raise ValueError(
        f"{path}: it gives no answer [batch, channels, height, width] to pictures of "
        f"{SIDE} px: {'; '.join(failed)}"
    )


def _take_sizes(
    network: FileNetwork, side: int, answer: Tensor, found: Inspection
) -> None:
    """Fields of the card that say which patches it takes and where its answer lies."""
    height, width = answer.shape[2:]
    fits = [s for s in STRIDES if width * s <= side and (side - width * s) % 2 == 0]
    if height != width or not fits:
        raise ValueError(
            f"its answer to a patch of {side} px has {height} x {width} px, which lie "
            "in its middle at no output stride"
        )
    size = _size(network)
    if isinstance(size, int):
        found.known["patch_px"] = size
        step, stride = 1, fits[0] if len(fits) == 1 else None
    else:
        step, stride = _by_growing(network, side, width)
    where = f"{answer.shape[1]} channels of {height} x {width} px to {side} px"
    if stride is None:
        text = ", or ".join(f"{s} ({(side - width * s) // 2} px cut off)" for s in fits)
        found.questions["output_stride"] = (
            f"for how many px of the patch does a px of the answer stand: {text}?"
        )
        stride = fits[-1]
    elif stride not in fits:
        raise ValueError(
            f"its answer to a patch of {side} px has {height} x {width} px, each of "
            f"which stands for {stride} of the patch as it grows: they do not lie in "
            "its middle"
        )
    else:
        found.known["output_stride"] = stride
        where += f": a px stands for {stride} of the patch"
    found.known |= {"patch_multiple": step, "cut": (side - width * stride) // 2}
    found.facts["answer"] = where
    found.facts["patches"] = (
        f"of {size} px" if isinstance(size, int) else f"multiples of {step} px"
    )


def _by_growing(network: FileNetwork, side: int, width: int) -> tuple[int, int | None]:
    """The least step by which patches may grow, and px per px of what the answer grows.

    The second is None, and the first 1, if none was found.
    """
    stride = stride_of(network, side, width)
    if stride is None:
        return 1, None
    for step in (step for step in STEPS if step % stride == 0):
        try:
            answer = network(_pictures(side + step)[1:])
        except (RuntimeError, ValueError):
            continue
        if {size - width for size in answer.shape[2:]} == {step // stride}:
            return step, stride
    return GROWTH_PX, stride


def _take_numbers(
    network: FileNetwork, side: int, answer: Tensor, found: Inspection
) -> None:
    """Fields of the card that say what its numbers are."""
    pictures = _pictures(side)
    check_again(answer[-1:], network(pictures[-1:]))
    # However pixels are scaled, probabilities are from 0 to 1.
    every = torch.cat(
        [network(pictures * s + b) for s, b in ((1, 0), (255, 0), (4, -2))]
    )
    low, high = float(every.min()), float(every.max())
    found.facts["numbers"] = (
        f"from {low:.4g} to {high:.4g}, whether pixels are from 0 to 1, to 255, or "
        "around 0"
    )
    if low < -ROUNDING or high > 1 + ROUNDING:
        found.known["output"] = "logits"
        if answer.shape[1] == 1:
            found.known["activation"] = "sigmoid"
        return
    check_sums(every)
    found.known["output"] = "probabilities"
    adds_up = float((every.sum(1) - 1).abs().max()) <= SUM_TOLERANCE
    found.known["activation"] = "softmax" if adds_up else "sigmoid"
