"""Networks as files of others: ONNX, programs of torch.export, and their cards."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.networks.weight_files import weights_digest

FILES = {"onnx": ".onnx", "exported": ".pt2"}


class Green(nn.Module):
    """Answers with its input's green, as the probability of the second of two classes.

    Args:
        stride: px of the input that a px of the answer is the mean of, along a side.
        cut: px of the input that the answer lacks along each edge.
    """

    def __init__(self, stride: int = 1, cut: int = 0) -> None:
        super().__init__()
        self.stride, self.cut = stride, cut
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        green = pixels[:, 1:2] * self.scale
        if self.cut:
            green = green[:, :, self.cut : -self.cut, self.cut : -self.cut]
        if self.stride > 1:
            green = nn.functional.avg_pool2d(green, self.stride)
        return torch.cat([1 - green, green], dim=1)


class Strided(nn.Module):
    """Every fourth px of green, by convolutions that round sizes up.

    A patch of 64 px is answered with 16 px, and one of 65 with 17.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: Tensor) -> Tensor:
        one = torch.ones((1, 1, 1, 1)) * self.scale
        green = nn.functional.conv2d(pixels[:, 1:2], one, stride=4)
        return torch.cat([1 - green, green], dim=1)


def write_onnx(
    network: nn.Module, path: Path, *, side: int = 64, batch: int = 0
) -> Path:
    """Save a network by ``torch.onnx.export``, for any batch, or one of that size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        # Torch's newer exporter needs onnxscript, which needs a network of its own.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(max(1, batch), 3, side, side),),
            str(path),
            dynamo=False,
            input_names=["pixels"],
            output_names=["answer"],
            dynamic_axes=None if batch else {"pixels": axes, "answer": axes},
        )
    return path


def write_exported(
    network: nn.Module, path: Path, *, side: int = 64, batch: int = 0
) -> Path:
    """The same by ``torch.export``, for patches of ``side`` px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    pixels = torch.zeros(batch or 2, 3, side, side)
    program = torch.export.export(network.eval(), (pixels,), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


WRITERS = {"onnx": write_onnx, "exported": write_exported}

CARD = ModelCard(
    name="foreign",
    architecture="onnx",
    encoder=None,
    options={},
    mpp=1.0,
    patch_px=64,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    output="probabilities",
    training_slides=(),
    training_patients=(),
    license="CC0-1.0",
    digest="0" * 64,
)
"""Of a network that answers with green."""


def give_card(path: Path, **says: object) -> Path:
    """Write the card of a file, its architecture and digest filled in."""
    architecture = {suffix: name for name, suffix in FILES.items()}[path.suffix]
    says = {"architecture": architecture, "digest": weights_digest(path), **says}
    write_card(path, replace(CARD, **says))  # type: ignore[arg-type]
    return path
