"""Nuclei of synthetic H&E: a bank of templates, stamped at the cells' positions.

Lengths are um, equal to pixels at the demo's 1.0 um/px; values are the optical density
(natural logarithm) of hematoxylin, 0 outside nuclei.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Ints = NDArray[np.int64]

STAMPS_AT_ONCE = 1 << 13


@dataclass(frozen=True, kw_only=True)
class NucleusKind:
    """Appearance of the nuclei of one kind of cell.

    Attributes:
        diameter_um: range of the longest diameter.
        aspect: range of shortest / longest diameter.
        roughness: relative amplitude of the outline's irregularity.
        chromatin: optical density inside; rim: density added by the membrane.
        speckle: amplitude of chromatin clumps.
        nucleoli: maximum number of nucleoli.
    """

    diameter_um: tuple[float, float]
    aspect: tuple[float, float]
    roughness: float
    chromatin: float
    rim: float
    speckle: float
    nucleoli: int


LYMPHOCYTE = NucleusKind(
    diameter_um=(6.0, 8.0),
    aspect=(0.85, 1.0),
    roughness=0.03,
    chromatin=1.05,
    rim=0.1,
    speckle=0.15,
    nucleoli=0,
)
BLAST = NucleusKind(
    diameter_um=(8.5, 10.5),
    aspect=(0.75, 0.95),
    roughness=0.06,
    chromatin=0.42,
    rim=0.28,
    speckle=0.12,
    nucleoli=2,
)
SPINDLE = NucleusKind(
    diameter_um=(12.0, 17.0),
    aspect=(0.2, 0.3),
    roughness=0.05,
    chromatin=0.75,
    rim=0.05,
    speckle=0.1,
    nucleoli=0,
)
TUMOR = NucleusKind(
    diameter_um=(12.0, 20.0),
    aspect=(0.6, 0.92),
    roughness=0.13,
    chromatin=0.5,
    rim=0.3,
    speckle=0.14,
    nucleoli=2,
)


def nucleus_bank(
    kind: NucleusKind, rng: np.random.Generator, *, count: int = 96
) -> Field:
    """Templates [count, side, side]; the long axis rotates evenly from 0 to pi."""
    side = int(np.ceil(kind.diameter_um[1] * (1 + kind.roughness))) + 3 | 1
    angles = np.pi * np.arange(count) / count
    return np.stack([_template(kind, rng, angle, side) for angle in angles])


def _template(
    kind: NucleusKind, rng: np.random.Generator, angle: float, side: int
) -> Field:
    center = side // 2 + rng.uniform(-0.5, 0.5, 2)
    rows, cols = np.mgrid[:side, :side]
    dy, dx = rows - center[0], cols - center[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle)
    radius = rng.uniform(*kind.diameter_um) / 2
    narrow = radius * rng.uniform(*kind.aspect)
    rho = np.hypot(along / radius, across / narrow)
    theta = np.arctan2(across / narrow, along / radius)
    outline = np.ones_like(rho)
    for k in (2, 3, 4):
        swing = kind.roughness * rng.uniform(0.4, 1) / (k - 1)
        outline += swing * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    depth = (1 - rho / outline) * narrow
    clumps = ndimage.gaussian_filter(rng.standard_normal((side, side)), 1.0) * 3.5
    value = kind.chromatin + kind.rim * np.exp(-((depth / 1.3) ** 2))
    value = value + kind.speckle * clumps
    for _ in range(int(rng.integers(0, kind.nucleoli + 1))):
        y, x = rng.uniform(-0.35, 0.35, 2) * narrow
        value += 0.45 * np.exp(-((dy - y) ** 2 + (dx - x) ** 2) / 2.2)
    # The edge ramps over one pixel, as real optics do.
    return (np.clip(value, 0, None) * np.clip(depth + 0.5, 0, 1)).astype(np.float32)


def scatter(
    shape: tuple[int, int], spacing_um: float, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Rows and columns of a jittered hexagonal lattice over [height, width]."""
    step = spacing_um * np.sqrt(3) / 2
    n_rows, n_cols = int(shape[0] / step), int(shape[1] / spacing_um)
    i, j = np.mgrid[:n_rows, :n_cols].reshape(2, -1)
    jitter = rng.uniform(-0.27, 0.27, (2, i.size)) * spacing_um
    rows = i * step + jitter[0]
    cols = (j + 0.5 * (i % 2)) * spacing_um + jitter[1]
    rows = np.clip(rows, 0, shape[0] - 1).astype(np.int64)
    return rows, np.clip(cols, 0, shape[1] - 1).astype(np.int64)


def stamp(
    canvas: Field,
    rows: Ints,
    cols: Ints,
    *,
    bank: Field,
    rng: np.random.Generator,
    angles: Field | None = None,
) -> None:
    """Stamp templates onto ``canvas`` at their centers, keeping the darker value.

    ``angles`` [radians] sets each long axis; None picks at random. Nuclei that would
    extend past the canvas are dropped.
    """
    half, width = bank.shape[1] // 2, canvas.shape[1]
    which = rng.integers(0, len(bank), rows.size)
    if angles is not None:
        which = np.rint(angles / np.pi * len(bank)).astype(np.int64) % len(bank)
    strength = rng.uniform(0.82, 1.15, rows.size).astype(np.float32)
    inside = (rows >= half) & (rows < canvas.shape[0] - half)
    inside &= (cols >= half) & (cols < width - half)
    corner = ((rows - half) * width + cols - half)[inside]
    which, strength = which[inside], strength[inside]
    y, x = np.mgrid[: bank.shape[1], : bank.shape[2]]
    offsets = (y * width + x).ravel()
    flat, templates = canvas.reshape(-1), bank.reshape(len(bank), -1)
    for start in range(0, corner.size, STAMPS_AT_ONCE):
        part = slice(start, start + STAMPS_AT_ONCE)
        values = templates[which[part]] * strength[part, None]
        np.maximum.at(flat, corner[part, None] + offsets, values)
