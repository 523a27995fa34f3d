"""Members whose file holds the network itself: ONNX, and programs of torch.export."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from digipath_ray.config.member import FROM_FILE, MemberSpec
from digipath_ray.networks.exported import ExportedNetwork
from digipath_ray.networks.exported_file import read_program
from digipath_ray.networks.onnx_network import NO_NUMBERS, OnnxNetwork

log = logging.getLogger(__name__)

Sizes = tuple[int | tuple[int, int | None], ...]
"""What an input may be: a number, or (least, most)."""

LEAST_SIDE = 8
"""Px below which the size of an input is no side of a patch, but channels."""


class FileNetwork(nn.Module):
    """A network of a file behind the interface of those that are built here.

    Args:
        network: takes pixels as the file wants them.
        sizes: of its input; four, or it takes no batch of pictures.
        spec: its channel order and layout.
    """

    def __init__(self, network: nn.Module, sizes: Sizes, spec: MemberSpec) -> None:
        super().__init__()
        self.network = network
        self.sizes = _checked(sizes, spec)
        self.spec = spec
        batch = self.sizes[0]
        self.least, self.most = (batch, batch) if isinstance(batch, int) else batch
        if self.most == 1:
            log.warning("%s takes one patch at a time: they run one by one", spec.name)
        self.eval()

    @property
    def sides(self) -> Sizes:
        """What the height and the width of its input may be."""
        return _sides(self.sizes, self.spec)

    def forward(self, pixels: Tensor) -> Tensor:
        """What it answers [B, K, h, w] to normalized pixels [B, 3, H, W], R, G, B."""
        if self.spec.channel_order == "BGR":
            pixels = pixels.flip(1)
        if self.spec.layout == "NHWC":
            pixels = pixels.permute(0, 2, 3, 1)
        step = self.most or max(1, len(pixels))
        answers = [
            self._answer(pixels[start : start + step])
            for start in range(0, max(1, len(pixels)), step)
        ]
        answer = torch.cat(answers)
        if self.spec.layout == "NHWC" and answer.ndim == 4:
            answer = answer.permute(0, 3, 1, 2)
        return answer

    def _answer(self, pixels: Tensor) -> Tensor:
        """Of no more patches than the file takes; of fewer they are filled up."""
        n = len(pixels)
        if n < self.least:
            more = pixels.new_zeros((self.least - n, *pixels.shape[1:]))
            pixels = torch.cat([pixels, more])
        answer: Tensor = self.network(pixels.contiguous())
        if not answer.is_floating_point():
            raise ValueError(NO_NUMBERS.format(kind=answer.dtype))
        return answer[:n]


def _checked(sizes: Sizes, spec: MemberSpec) -> Sizes:
    """The sizes of a file's input, if it takes pictures in the card's layout."""
    channel, other = (1, 3) if spec.layout == "NCHW" else (3, 1)
    if len(sizes) != 4:
        raise ValueError(
            f"member {spec.name}: its input has {len(sizes)} dimensions, not the 4 of "
            "a batch of pictures"
        )
    stated = isinstance(sizes[channel], int) or sizes[other] == 3
    tiny = any(
        isinstance(side, int) and side < LEAST_SIDE for side in _sides(sizes, spec)
    )
    if tiny or (stated and sizes[channel] != 3):
        export = "" if sizes[other] == 3 else "export it for R, G, B; or "
        raise ValueError(
            f"member {spec.name}: its input is {_show(sizes)}, which is no picture of "
            f'3 channels in the layout {spec.layout}: {export}say "layout" in its card'
        )
    return sizes


def _show(sizes: Sizes) -> str:
    return " x ".join(str(s) if isinstance(s, int) else "any" for s in sizes)


def _sides(sizes: Sizes, spec: MemberSpec) -> Sizes:
    """What height and width may be, of what the whole input may be."""
    start = 2 if spec.layout == "NCHW" else 1
    return sizes[start : start + 2]


def check_patch(network: FileNetwork, patch_px: int) -> None:
    """Refuse a side of patches that the file says it does not take.

    Raises:
        ValueError: says which sides it takes.
    """
    spec = network.spec
    for size in network.sides:
        least, most = (size, size) if isinstance(size, int) else size
        if patch_px < least or (most is not None and patch_px > most):
            wanted = f"{least}" if least == most else f"{least} to {most or 'any'}"
            raise ValueError(
                f"member {spec.name}: its file takes patches of {wanted} px, not "
                f"{patch_px}: give --patch-px, or mend patch_px in its card"
            )


def load_network(spec: MemberSpec, path: Path, device: torch.device) -> FileNetwork:
    """The network of a member's file.

    Raises:
        ValueError: the file is not of the member's architecture, or cannot be loaded;
            or it takes no batch of pictures.
        OSError: it cannot be read.
    """
    suffix = FROM_FILE[spec.architecture]
    if path.suffix != suffix:
        raise ValueError(
            f"member {spec.name}: weights {path} are no {suffix} file, which "
            f'architecture = "{spec.architecture}" needs'
        )
    if not path.is_file():
        raise ValueError(f"weights {path}: file not found")
    if spec.context_mpp_factor is not None:
        raise ValueError(
            f"member {spec.name}: a network from a file sees no context: leave "
            "context_mpp_factor out"
        )
    known = {"output"} if spec.architecture == "onnx" else set()
    if unknown := sorted(set(spec.options) - known):
        raise ValueError(
            f"member {spec.name}: unknown option of {spec.architecture} {unknown[0]!r}"
        )
    if spec.architecture == "onnx":
        onnx = OnnxNetwork(path, device, output=spec.options.get("output"))
        return FileNetwork(onnx, onnx.sizes, spec)
    exported = ExportedNetwork(read_program(path))
    return FileNetwork(exported, exported.program.sizes, spec).to(device)
