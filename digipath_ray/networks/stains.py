"""Pixels in a member's reference stains, on its device.

The numbers are those of :func:`digipath_ray.stain.normalize.normalize_pixels`; where
the device's exponential differs in its last bit a value may be rounded the other way.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from digipath_ray.stain.color import DENSITY
from digipath_ray.stain.normalize import StainMap

PIXELS_AT_ONCE = 1 << 21
"""Their floats take 0.1 GB: those of a whole chunk would take one."""


@torch.inference_mode()
def normalize_on_device(pixels: Tensor, by: StainMap) -> Tensor:
    """Pixels uint8 [n, ..., 3] mapped, uint8, in new memory on the same device."""
    mapped = torch.empty_like(pixels)
    each = max(1, pixels[0].numel() // 3) if len(pixels) else 1
    step = max(1, PIXELS_AT_ONCE // each)
    for start in range(0, len(pixels), step):
        mapped[start : start + step] = _normalized(pixels[start : start + step], by)
    return mapped


def _normalized(pixels: Tensor, by: StainMap) -> Tensor:
    if by.of_density:
        table = torch.from_numpy(DENSITY).to(pixels.device)
        densities = [table[pixels[..., i].int()] for i in range(3)]
        light = [(-v).exp_() for v in _mixed(densities, by.turn)]
    else:
        channels = [(pixels[..., i].float() + 1) / 256 for i in range(3)]
        logs = _mixed([v.log_() for v in _mixed(channels, by.inner)], by.turn)
        shift = by.shift.astype(np.float32).tolist()
        light = [(v + s).exp_() for v, s in zip(logs, shift, strict=True)]
        light = _mixed(light, by.outer)
    values = [(v * 256 - 1).clamp_(0, 255).round_().to(torch.uint8) for v in light]
    return torch.stack(values, dim=-1)


def _mixed(values: list[Tensor], matrix: NDArray[np.float64]) -> list[Tensor]:
    """Three channels times a [3, 3] matrix of columns."""
    a, b, c = values
    rows = matrix.astype(np.float32).tolist()
    return [a * r[0] + b * r[1] + c * r[2] for r in rows]
