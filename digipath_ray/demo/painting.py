"""Paints a node's anatomy as RGB pixels of H&E at 1.0 um/px.

Hematoxylin and eosin are laid as optical densities and converted to light by the
Beer-Lambert law, RGB = lamp * exp(-density). The stain vectors are close to Macenko et
al. (2009), with a small variation per slide.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.demo.anatomy import (
    FIELD_MPP,
    Anatomy,
    lay_fat_cells,
    smooth_noise,
)
from digipath_ray.demo.nuclei import SPINDLE, Field, nucleus_bank, scatter, stamp
from digipath_ray.demo.tissues import CELLS, LOOKS, Tissue

Pixels = NDArray[np.uint8]
Codes = NDArray[np.uint8]
Window = tuple[slice, slice]
"""Rows and columns of the fields to draw."""

PX_PER_FIELD = int(FIELD_MPP)
HEMATOXYLIN_OD = (0.62, 0.70, 0.35)
EOSIN_OD = (0.16, 0.84, 0.48)
InkColor = Literal["blue", "green"]
INK_OD: dict[InkColor, tuple[float, float, float]] = {
    "blue": (1.9, 1.15, 0.35),
    "green": (1.7, 0.5, 1.1),
}
NOISE_PX = 256
"""Side of the periodic tile of a sensor's noise."""
BANK_PX = 1024
"""Side of the periodic texture tiles."""


@dataclass(frozen=True, kw_only=True)
class Stain:
    """Stain and illumination of a slide's laboratory and scanner.

    Attributes:
        hematoxylin, eosin: density in R, G, B per unit of dye.
        lamp: RGB of empty glass; fall_off: relative change of light across the slide,
            downward and to the right.
    """

    hematoxylin: tuple[float, ...]
    eosin: tuple[float, ...]
    lamp: tuple[float, ...]
    fall_off: tuple[float, float]


def draw_stain(rng: np.random.Generator) -> Stain:
    """Draw a random stain and scanner."""

    def near(vector: tuple[float, ...], strength: float) -> tuple[float, ...]:
        shifted = np.array(vector) * rng.uniform(0.93, 1.07, 3) + 0.02 * rng.random(3)
        return tuple(float(v) for v in strength * shifted)

    light = rng.uniform(236, 246)
    return Stain(
        hematoxylin=near(HEMATOXYLIN_OD, rng.uniform(1.0, 1.4)),
        eosin=near(EOSIN_OD, rng.uniform(0.5, 0.75)),
        lamp=tuple(float(v) for v in light + rng.uniform(-3, 3, 3)),
        fall_off=(rng.uniform(-0.015, 0.015), rng.uniform(-0.015, 0.015)),
    )


def sample_up(field: Field, window: Window) -> Field:
    """Interpolate a window of a field at 1.0 um/px."""
    part = Image.fromarray(np.ascontiguousarray(field[window]))
    size = (part.width * PX_PER_FIELD, part.height * PX_PER_FIELD)
    return np.array(part.resize(size, Image.Resampling.BILINEAR), np.float32)


def tile_up(tile: Field, shape: tuple[int, ...]) -> Field:
    """Repeat a periodic tile over [height, width]."""
    out = np.empty(shape, tile.dtype)
    for top in range(0, shape[0], tile.shape[0]):
        for left in range(0, shape[1], tile.shape[1]):
            part = out[top : top + tile.shape[0], left : left + tile.shape[1]]
            part[...] = tile[: part.shape[0], : part.shape[1]]
    return out


def noise_over(
    shape: tuple[int, ...], sigma_um: float, rng: np.random.Generator
) -> Field:
    """Smooth noise over [height, width], by repeating one tile."""
    return tile_up(smooth_noise((BANK_PX, BANK_PX), sigma_um, rng), shape)


def find_tissues(anatomy: Anatomy, window: Window, rng: np.random.Generator) -> Codes:
    """:class:`Tissue` of every px of a window; borders are rough by a few um."""

    def up(field: Field) -> Field:
        return sample_up(field, window)

    node = up(anatomy.node)
    rough = noise_over(node.shape, 7, rng)
    node += 3 * rough
    codes = np.where(up(anatomy.fat) > 0, Tissue.FAT, Tissue.GLASS).astype(np.uint8)
    codes[node > 0] = Tissue.LYMPHOID
    follicle = up(anatomy.follicle) + 0.06 * rough
    codes[follicle < 1] = Tissue.MANTLE
    codes[follicle < 0.68] = Tissue.CENTER
    scar = up(anatomy.scar) + 0.08 * rough
    codes[(scar > 0.7) & (node > 110) & (follicle > 1)] = Tissue.SCAR
    reach = 9 + 6 * rough + 20 * np.clip((node - 380) / 400, 0, 1)
    codes[(up(anatomy.sinus) < reach) & (node > 200) & (follicle > 1)] = Tissue.SINUS
    codes[(node > 30) & (node < 55 + 5 * rough)] = Tissue.SINUS
    vessel = up(anatomy.vessel) + 2 * rough
    codes[vessel < 13] = Tissue.WALL
    codes[vessel < 0] = Tissue.BLOOD
    _lay_tumor(codes, up(anatomy.lesion) + 6 * rough, up(anatomy.septum), rng)
    codes[(node > 0) & (node < 30)] = Tissue.CAPSULE
    return codes


def _lay_tumor(
    codes: Codes, lesion: Field, septum: Field, rng: np.random.Generator
) -> None:
    """Lay tumor nests, septa and gland lumens where ``lesion`` > 0."""
    rough = noise_over(codes.shape, 9, rng)
    codes[lesion > 0] = Tissue.NEST
    large = lesion > 25
    codes[large & (rough > 2.1) & (septum > 30)] = Tissue.LUMEN
    reach = 7 + 4 * rough + 10 * np.clip((lesion - 60) / 300, 0, 1)
    codes[large & (septum < reach)] = Tissue.SEPTUM


def look_of(codes: Codes, name: str) -> Field:
    """Map each px to one attribute of its :class:`Look`."""
    values = [getattr(LOOKS[tissue], name) for tissue in Tissue]
    return np.array(values, np.float32)[codes]


def lay_eosin(codes: Codes, rng: np.random.Generator) -> Field:
    """Density of eosin: fibers, cytoplasm, blood, membranes between fat cells."""
    cloud = noise_over(codes.shape, 14, rng)
    eosin = look_of(codes, "eosin")
    eosin += look_of(codes, "grain") * noise_over(codes.shape, 1.6, rng)
    eosin += look_of(codes, "cloud") * cloud
    eosin += look_of(codes, "fiber") * _fibers(cloud, rng)
    fat = codes == Tissue.FAT
    eosin[fat] += 0.6 * np.exp(-((lay_fat_cells(fat, rng)[fat] / 1.6) ** 2))
    return np.clip(eosin, 0, None)


def _fibers(cloud: Field, rng: np.random.Generator) -> Field:
    """Wavy strands: noise stretched along one direction, sampled along a bent path."""
    rows = np.fft.fftfreq(BANK_PX)[:, None]
    cols = np.fft.rfftfreq(BANK_PX)[None, :]
    low = np.exp(-2 * np.pi**2 * ((1.8 * rows) ** 2 + (16.0 * cols) ** 2))
    white = np.fft.rfft2(rng.standard_normal((BANK_PX, BANK_PX)))
    strands = np.fft.irfft2(white * low, s=(BANK_PX, BANK_PX))
    strands = (strands / strands.std()).astype(np.float32)
    bend = (10 * cloud).astype(np.int32)
    y = (np.arange(cloud.shape[0], dtype=np.int32)[:, None] + bend) % BANK_PX
    x = np.arange(cloud.shape[1], dtype=np.int32)[None, :] % BANK_PX
    return strands[y, x]


def lay_hematoxylin(codes: Codes, along: Field, rng: np.random.Generator) -> Field:
    """Density of hematoxylin: a faint background and every nucleus.

    ``along`` is the direction [radians] of spindle cells, at the fields' scale.
    """
    canvas = look_of(codes, "hematoxylin")
    canvas *= 1 + 0.2 * noise_over(codes.shape, 1.6, rng)
    for name, (kind, spacing_um) in CELLS.items():
        rows, cols = scatter(codes.shape, spacing_um, rng)
        values = look_of(codes[rows, cols], name)
        taken = rng.random(rows.size) < values
        rows, cols = rows[taken], cols[taken]
        angles = None
        if kind is SPINDLE:
            angles = along[rows // PX_PER_FIELD, cols // PX_PER_FIELD]
            angles = angles + rng.normal(0, 0.2, rows.size).astype(np.float32)
        bank = nucleus_bank(kind, rng)
        stamp(canvas, rows, cols, bank=bank, rng=rng, angles=angles)
    return canvas


def fiber_direction(anatomy: Anatomy, window: Window) -> Field:
    """Direction [radians] along the nearest border or septum, at the fields' scale."""
    septum = (anatomy.lesion > 0) & (anatomy.septum < 40)
    border = np.where(septum, anatomy.septum, anatomy.node)
    border = np.where(anatomy.vessel < 20, anatomy.vessel, border)[window]
    dy, dx = np.gradient(border)
    return (np.arctan2(dy, dx) + np.pi / 2).astype(np.float32)


def fold_over(density: Field, crease: Field, *, shift: tuple[int, int]) -> Field:
    """Double the tissue where ``crease`` [um inside the fold] is positive."""
    second = np.roll(density, shift, axis=(0, 1))
    return np.where(crease > 0, 0.9 * density + 0.9 * second, density)


def expose(
    hematoxylin: Field,
    eosin: Field,
    *,
    stain: Stain,
    ink: Field | None,
    color: InkColor,
) -> NDArray[np.float32]:
    """Transmitted light, 0..1 [height, width, 3]; ``ink`` is a marker's density."""
    light = np.empty((*hematoxylin.shape, 3), np.float32)
    for band in range(3):
        density = stain.hematoxylin[band] * hematoxylin + stain.eosin[band] * eosin
        if ink is not None:
            density += INK_OD[color][band] * ink
        np.exp(-density, out=light[..., band])
    return light


def digitize(
    light: NDArray[np.float32],
    origin: tuple[int, int],
    size: tuple[int, int],
    *,
    stain: Stain,
    rng: np.random.Generator,
) -> Pixels:
    """Slide pixels [height, width, 3], ``light`` at ``origin`` on empty glass."""
    noise = rng.normal(0, 1.3, (NOISE_PX, NOISE_PX)).astype(np.float32)
    noise = tile_up(noise, (NOISE_PX, size[1]))
    out = np.empty((*size, 3), np.uint8)
    down = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] * stain.fall_off[0]
    right = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :] * stain.fall_off[1]
    row, col = origin
    cols = slice(col, col + light.shape[1])
    # In strips, as whole planes take as long to be allocated as to be computed.
    for top in range(0, size[0], NOISE_PX):
        lamp = 1 + down[top : top + NOISE_PX] + right
        first = max(row, top)
        stop = max(first, min(row + light.shape[0], top + NOISE_PX))
        for band in range(3):
            level = lamp * stain.lamp[band]
            level[first - top : stop - top, cols] *= light[
                first - row : stop - row, :, band
            ]
            level += noise[: len(level)]
            out[top : top + NOISE_PX, :, band] = np.clip(level, 0, 255, out=level)
    return out
