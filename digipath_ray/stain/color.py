"""Colors as optical density, and as Reinhard's l-alpha-beta.

Optical density is of base e, as in Macenko's paper, and of (value + 1) / 256, so that
black has a finite one (5.5).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]

DENSITY: Floats = -np.log((np.arange(256) + 1) / 256).astype(np.float32)
"""Optical density of each 8-bit value."""

_LMS = np.array(
    [
        [0.3811, 0.5783, 0.0402],
        [0.1967, 0.7244, 0.0782],
        [0.0241, 0.1288, 0.8444],
    ]
)
"""RGB to LMS: Reinhard et al. 2001, eq. 4 (rows L, M, S)."""
_LAB = np.diag([1 / np.sqrt(3), 1 / np.sqrt(6), 1 / np.sqrt(2)]) @ np.array(
    [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
)
"""Logarithms of LMS to l, alpha, beta: there, eq. 6."""


def density(pixels: Pixels) -> Floats:
    """Optical density of each channel, of the shape of the pixels."""
    return DENSITY[pixels]


def rgb_to_lms() -> NDArray[np.float64]:
    """[3, 3]: what RGB of 0..1 is multiplied by, as a column."""
    return _LMS.copy()


def lms_to_lab() -> NDArray[np.float64]:
    """[3, 3], orthogonal: log10 of LMS to l, alpha, beta, as columns."""
    return _LAB.copy()


def to_lab(pixels: Pixels) -> Floats:
    """l, alpha, beta [..., 3] of pixels [..., 3]."""
    light = (pixels.astype(np.float32) + 1) / 256
    logs = np.log10(light @ _LMS.T.astype(np.float32))
    return np.asarray(logs @ _LAB.T.astype(np.float32))
