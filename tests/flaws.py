"""Artifacts put into pixels: what a lens out of focus, a fold, ink or dirt does.

Optical densities add up where light passes two things, so a fold multiplies them, and
ink and dirt add to them. Images are uint8 [rows, cols, 3].
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.signal import fftconvolve

Pixels = NDArray[np.uint8]
Bools = NDArray[np.bool_]
FINER = 8
"""Subpixels per px, along a side, that a disk is drawn with."""


def lens(radius_px: float) -> NDArray[np.float64]:
    """The disk that a lens out of focus spreads a point over; its sum is 1."""
    reach = int(np.ceil(radius_px)) + 1
    steps = np.arange(-reach * FINER, (reach + 1) * FINER) / FINER + 0.5 / FINER - 0.5
    inside = steps[:, None] ** 2 + steps**2 <= radius_px**2
    side = 2 * reach + 1
    kernel = inside.reshape(side, FINER, side, FINER).sum(axis=(1, 3)).astype(float)
    return np.asarray(kernel / kernel.sum())


def defocused(rgb: Pixels, where: Bools, *, radius_px: float) -> Pixels:
    """The image out of focus at ``where``."""
    kernel = lens(radius_px)
    reach = kernel.shape[0] // 2
    out = rgb.copy()
    for channel in range(3):
        plane = np.pad(rgb[..., channel].astype(float), reach, mode="symmetric")
        spread = fftconvolve(plane, kernel, mode="valid").round().clip(0, 255)
        out[where, channel] = spread.astype(np.uint8)[where]
    return out


def folded(rgb: Pixels, where: Bools, *, times: float = 2.0) -> Pixels:
    """The image with its densities multiplied at ``where``."""
    out = rgb.copy()
    light = ((rgb[where].astype(float) + 1) / 256) ** times
    out[where] = (256 * light - 1).round().clip(0, 255).astype(np.uint8)
    return out


def overlaid(rgb: Pixels, where: Bools, *, shift: tuple[int, int]) -> Pixels:
    """The image below another part of itself, ``shift`` px away, at ``where``."""
    out = rgb.copy()
    other = np.roll(rgb, shift, axis=(0, 1))[where].astype(float) + 1
    both = (rgb[where].astype(float) + 1) * other / 256 - 1
    out[where] = both.round().clip(0, 255).astype(np.uint8)
    return out


def stained(rgb: Pixels, where: Bools, *, color: tuple[int, int, int]) -> Pixels:
    """The image below something of a color, as it is on glass."""
    out = rgb.copy()
    under = rgb[where].astype(float) * np.array(color) / 255
    out[where] = under.round().astype(np.uint8)
    return out


def gray(density: float) -> tuple[int, int, int]:
    """The color of what takes so much of all light."""
    level = round(255 * 10**-density)
    return level, level, level


def band(
    shape: tuple[int, ...], *, width_px: float, length_px: float, seed: int = 0
) -> Bools:
    """A curved band through the middle of an image."""
    rng = np.random.default_rng(seed)
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-1.5, 1.5)
    along = np.linspace(-0.5, 0.5, 200)
    heading = turn + bend * along
    step = length_px / len(along)
    x = shape[1] / 2 + np.cumsum(np.cos(heading)) * step
    y = shape[0] / 2 + np.cumsum(np.sin(heading)) * step
    x, y = x - x.mean() + shape[1] / 2, y - y.mean() + shape[0] / 2
    image = Image.new("L", (shape[1], shape[0]))
    drawing, r = ImageDraw.Draw(image), width_px / 2
    for cx, cy in zip(x.tolist(), y.tolist(), strict=True):
        drawing.ellipse((cx - r, cy - r, cx + r, cy + r), 1)
    return np.asarray(image) > 0


def disk(shape: tuple[int, ...], *, x: float, y: float, radius_px: float) -> Bools:
    """A disk of an image."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((cols - x) ** 2 + (rows - y) ** 2 <= radius_px**2)


def ring(
    shape: tuple[int, ...], *, x: float, y: float, radius_px: float, width_px: float
) -> Bools:
    """The rim of a disk."""
    outer = disk(shape, x=x, y=y, radius_px=radius_px)
    return outer & ~disk(shape, x=x, y=y, radius_px=radius_px - width_px)


def scanned(rgb: Pixels, *, noise: float = 2.0, quality: int = 80) -> Pixels:
    """The image as a camera and JPEG leave it: noise in gray levels, and losses."""
    rng = np.random.default_rng(0)
    noisy = rgb + rng.normal(0, noise, rgb.shape).astype(np.float32)
    buffer = io.BytesIO()
    image = Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as stored:
        return np.asarray(stored.convert("RGB"))


def drawn_tissue(width: int, height: int, *, glass: int = 100, seed: int = 0) -> Pixels:
    """Tissue at 1 um/px in a margin of glass: stroma, and nuclei of 8 um in it."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(size=(height, width))
    grain = gaussian_filter(grain, 0.7) * 0.1 + gaussian_filter(grain, 6) * 1.2
    seeds = rng.random((height, width)) < 1 / 250
    rows, cols = np.mgrid[-4:5, -4:5]
    nuclei = binary_dilation(seeds, rows**2 + cols**2 <= 16)
    eosin = np.clip(0.35 + grain, 0.1, None)
    hematoxylin = np.where(nuclei, 0.7 + grain, 0.05)
    density = eosin[..., None] * (0.1, 0.95, 0.2) + hematoxylin[..., None] * (
        0.65,
        0.7,
        0.29,
    )
    inside = np.zeros((height, width, 1), np.bool_)
    inside[glass : height - glass, glass : width - glass] = True
    light = np.where(inside, 244 * 10**-density, 244)
    return np.asarray(light.round().clip(0, 255).astype(np.uint8))
