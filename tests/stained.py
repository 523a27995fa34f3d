"""Drawn tissue of two stains whose directions and amounts are known."""

from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from tests.slides import write_pyramid

Floats = NDArray[np.float64]


def direction(*parts: float) -> Floats:
    return np.array(parts) / np.linalg.norm(parts)


# Ruifrok and Johnston 2001, table 2.
HEMATOXYLIN = direction(0.65, 0.70, 0.29)
EOSIN = direction(0.07, 0.99, 0.11)
DAB = direction(0.27, 0.57, 0.78)
HE = np.stack([HEMATOXYLIN, EOSIN])
HDAB = np.stack([HEMATOXYLIN, DAB])


def amounts(height: int, width: int, *, seed: int = 0) -> Floats:
    """Amounts [height, width, 2]: nuclei of the first stain alone, the rest mostly of
    the second."""
    rng = np.random.default_rng(seed)

    def field(sigma: float) -> Floats:
        drawn = scipy.ndimage.gaussian_filter(rng.random((height, width)), sigma)
        return np.asarray(drawn.argsort(axis=None).argsort() / drawn.size).reshape(
            height, width
        )

    nuclei = field(3) > 0.75
    first = np.where(nuclei, 1.0 + field(2), 0.15 * field(2) ** 2)
    second = np.where(nuclei, 0.0, 0.4 + 0.9 * field(4))
    return np.stack([first, second], axis=-1)


def color(amount: Floats, stains: Floats = HE, *, scale: float = 1.0) -> Floats:
    """Light of 0..255 that amounts [..., 2] of stains [2, 3] let through."""
    return np.asarray(256 * np.exp(-scale * amount @ stains) - 1)


def patch(
    stains: Floats = HE, *, side: int = 160, seed: int = 0, scale: float = 1.0
) -> NDArray[np.uint8]:
    """Tissue all over, RGB uint8 [side, side, 3]."""
    light = color(amounts(side, side, seed=seed), stains, scale=scale)
    return np.rint(light.clip(0, 255)).astype(np.uint8)


def turned(stain: Floats, degrees: float, towards: Floats) -> Floats:
    """A stain turned by an angle towards another."""
    across = towards - (towards @ stain) * stain
    across /= np.linalg.norm(across)
    angle = np.radians(degrees)
    return np.asarray(np.cos(angle) * stain + np.sin(angle) * across)


def write_stained(
    path: Path,
    stains: Floats = HE,
    *,
    width: int = 200,
    height: int = 160,
    glass: int = 24,
    seed: int = 0,
    mpp: float = 1.0,
) -> Path:
    """A slide whose tissue lies in a margin of white glass."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    inside = np.s_[glass : height - glass, glass : width - glass]
    tissue = color(amounts(height, width, seed=seed), stains)
    pixels[inside] = np.rint(tissue.clip(0, 255)).astype(np.uint8)[inside]
    return write_pyramid(path, pixels, mpp=mpp)
