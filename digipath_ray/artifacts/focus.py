"""Focus: energy of fine detail relative to detail twice as coarse, scale after scale.

A lens out of focus spreads a point over a disk, which takes detail finer than the disk
and leaves coarser detail. Energies are measured at px of 1, 2, 4, 8 and 16 um; tissue
is out of focus where, of a window around it, one energy has fallen far below the next
coarser ones. The quotient knows neither stain nor contrast. A disk of 2 um falls
between 1 and 2 um, one of 16 um between 8 and 16.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.detail import ROUNDING, binned, energy, gray_of, local_mean
from digipath_ray.tissue.mask import Bools, Mask

Floats = NDArray[np.float32]

CELL_PX = 8
"""Side of a cell in fine px."""
SCALES = (1, 2, 4, 8)
"""Px, in fine px, at which energies are measured within a cell."""
RATIOS = (0.22, 0.1, 0.05)
"""Energy by that at px two, four and eight times as large, below which it is blurred.
Real tissue in focus has 0.25, 0.13 and 0.08 and more in 99 % of windows; a disk of 1 um
0.2 to 0.25 at 1 by 2 um, of 2 um 0.15. Where blur has left no more than a camera's
noise and JPEG's blocks, it takes px farther apart to see it."""
TEXTURE = 12.0
"""Least energy of the coarser px, gray levels squared, to judge by."""
WINDOW_UM = 80.0
"""Width that energies are averaged over."""
EDGE_UM = 28.0
"""A window that is sharp in less than a tenth looks sharp: so far from its edges blur
is not seen, and is put back."""
STAINED, FILLED = 190, 0.6
"""A cell is stained if a channel falls below that somewhere, and a window is judged if
that part of it is."""
RIM_UM = 16.0
"""The tissue's edge to glass is detail of its own, and not counted."""
SPECK_UM = 160.0
"""What is blurred over less is left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detail:
    """Detail of a slide's tissue, per cell.

    Attributes:
        energies: float32 [4, rows, cols], of SCALES.
        gray: float32 [rows, cols], mean gray level.
        darkest: uint8 [rows, cols, 3], lowest value of each channel among px of 2 um.
        tissue: bool [rows, cols]; the others say nothing elsewhere.
        cell_x, cell_y: um per cell.
    """

    energies: Floats
    gray: Floats
    darkest: Pixels
    tissue: Bools
    cell_x: float
    cell_y: float

    def cells(self, um: float) -> tuple[int, int]:
        """Rows and columns of a length, at least 1 each."""
        return max(1, round(um / self.cell_y)), max(1, round(um / self.cell_x))

    def mask(self, array: Bools) -> Mask:
        """A mask of its cells."""
        return Mask(array=array, mpp_x=self.cell_x, mpp_y=self.cell_y)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellDetail:
    """What a rectangle of cells holds of :class:`Detail`; the same fields."""

    energies: Floats
    gray: Floats
    darkest: Pixels


def measure_cells(rgb: Pixels) -> CellDetail:
    """The detail of cells [rows, cols] of fine pixels.

    Args:
        rgb: uint8 [(rows + 2) * CELL_PX, (cols + 2) * CELL_PX, 3]: a cell more on all
            sides, which gives the neighbors of the pixels at an edge.
    """
    gray = gray_of(rgb)
    inner = (slice(1, -1), slice(1, -1))
    found = []
    for scale in SCALES:
        of_px = energy(binned(gray, scale, scale))
        per_cell = CELL_PX // scale
        found.append(binned(of_px, per_cell, per_cell)[inner])
    rows, cols = gray.shape[0] // CELL_PX, gray.shape[1] // CELL_PX
    twos = rgb.reshape(rows * CELL_PX // 2, 2, cols * CELL_PX // 2, 2, 3)
    # Sums of four px, 10 bits; axis by axis, as numpy is slow over two at once.
    sums = twos.sum(axis=3, dtype=np.uint16).sum(axis=1, dtype=np.uint16)
    half = CELL_PX // 2
    lowest = sums.reshape(rows, half, cols, half, 3).min(axis=3).min(axis=1)
    return CellDetail(
        energies=np.stack(found).astype(np.float32),
        gray=binned(gray, CELL_PX, CELL_PX)[inner].astype(np.float32),
        darkest=(lowest[inner] // 4).astype(np.uint8),
    )


def find_blur(detail: Detail) -> Bools:
    """Cells [rows, cols] of tissue that is out of focus."""
    rim = tuple(2 * n + 1 for n in detail.cells(RIM_UM))
    inside = ndimage.binary_erosion(detail.tissue, np.ones(rim))
    if not inside.any():
        return np.zeros_like(inside)
    window = detail.cells(WINDOW_UM)
    means = [
        local_mean(of_scale, inside, window) - ROUNDING / scale**2
        for of_scale, scale in zip(detail.energies, SCALES, strict=True)
    ]
    means.append(_coarsest(detail, inside, window))
    blurred = np.zeros_like(inside)
    # Membranes of fat cells and threads on glass say little of the lens.
    stained = (detail.darkest.min(axis=2) < STAINED) & inside
    filled = local_mean(stained.astype(np.float32), inside, window) >= FILLED
    for apart, ratio in enumerate(RATIOS, start=1):
        for fine, coarse in zip(means, means[apart:], strict=False):
            blurred |= (coarse > TEXTURE) & (fine < ratio * coarse)
    found = detail.mask(blurred & filled & detail.tissue).opened(SPECK_UM - 2 * EDGE_UM)
    return found.dilated(EDGE_UM).array & detail.tissue


def _coarsest(detail: Detail, inside: Bools, window: tuple[int, ...]) -> Floats:
    """Mean energy around each cell at px of two cells."""
    rows, cols = (-(-side // 2) for side in inside.shape)
    pad = ((0, 2 * rows - inside.shape[0]), (0, 2 * cols - inside.shape[1]))
    gray = binned(np.pad(detail.gray, pad, mode="edge"), 2, 2)
    whole = binned(np.pad(inside, pad).astype(np.float32), 2, 2) == 1
    # A px whose neighbors were all read.
    whole = ndimage.binary_erosion(whole)
    half = tuple(max(3, w // 2) for w in window)
    mean = local_mean(energy(gray), whole, half).repeat(2, axis=0).repeat(2, axis=1)
    return np.asarray(mean[: inside.shape[0], : inside.shape[1]])
