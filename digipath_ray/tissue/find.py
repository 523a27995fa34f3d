"""Tissue detection on a thumbnail, and the dilated mask that places patches.

Method of the paper (section "Tissue mask"): HSV, Otsu on the saturation, binary
morphology, here in micrometers. Otsu always splits, even blank glass or a crop full of
tissue; both are handled (:func:`_saturation_threshold`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from skimage.filters import rank, threshold_otsu

from digipath_ray.config.run import TissueSpec
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import Bools, Mask, read_mask, read_mask_image, write_mask
from digipath_ray.tissue.quality import (
    UNSCANNED,
    Quality,
    extremes,
    find_ink,
    measure_quality,
)

__all__ = [
    "Mask",
    "Quality",
    "Tissue",
    "draw_tissue",
    "find_tissue",
    "read_mask",
    "read_mask_image",
    "tissue_from_mask",
    "write_mask",
]

SMOOTH_UM = 24.0
"""Colors are averaged over this width, so that noise on glass is not tissue."""
MEDIAN_UM = 56.0
"""The CAMELYON variant's 7x7 median at its 8 um/px."""
GLASS_SATURATION = 0.15
"""Otsu's lower class is glass if its mean saturation (0..1) is below this."""
ASPECT_TOLERANCE = 0.05
"""Relative aspect ratio difference at which a mask is of another slide."""

TISSUE_COLOR = (0, 150, 60)
SAMPLING_COLOR = (128, 128, 128)
INK_COLOR = (220, 0, 0)
PATCH_COLOR = (20, 60, 200)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tissue:
    """Masks of a slide, all on the thumbnail's pixel grid.

    Attributes:
        mask: the tissue.
        sampling: the tissue dilated by ``spec.dilate_um``; only used to place patches.
        ink: pen marks.
        quality: quality measures from the thumbnail.
    """

    mask: Mask
    sampling: Mask
    ink: Mask
    quality: Quality


def find_tissue(rgb: Pixels, *, mpp_x: float, mpp_y: float, spec: TissueSpec) -> Tissue:
    """Find the tissue on a thumbnail [rows, cols, 3] of ``mpp_x``, ``mpp_y`` um per px.

    The method "all" takes every pixel: no ink removal, no minimum area.
    """
    smooth, ink = _smooth_and_ink(rgb, mpp_x=mpp_x, mpp_y=mpp_y)
    if spec.tissue == "all":
        return _tissue(rgb, mask=ink.like(np.ones_like(ink.array)), ink=ink, spec=spec)
    if spec.tissue == "camelyon":
        saturation = _saturation(_black_to_white(rgb))
        saturation = _median(saturation, mpp_x=mpp_x, mpp_y=mpp_y)
    else:
        saturation = _saturation(smooth)
    if spec.tissue == "paip":
        colored = (saturation > 255 * spec.min_saturation) & _paip_rule(smooth)
    else:
        floor = spec.min_saturation
        colored = saturation > _saturation_threshold(saturation[~ink.array], floor)
    mask = _solid(ink.like(colored), ink=ink, spec=spec)
    return _tissue(rgb, mask=mask, ink=ink, spec=spec)


def tissue_from_mask(
    array: NDArray[Any],
    rgb: Pixels,
    *,
    mpp_x: float,
    mpp_y: float,
    spec: TissueSpec,
) -> Tissue:
    """Use the user's mask as tissue, resized to the thumbnail by nearest neighbor.

    Args:
        array: [rows, cols] over the whole slide at any scale; tissue is > 0. Used as
            is: no morphology, no ink removal, no minimum area.
        rgb: the slide's thumbnail [rows, cols, 3].
        mpp_x: um per thumbnail px.
        mpp_y: um per thumbnail px.
        spec: dilation of the sampling mask.

    Raises:
        ValueError: the mask is not two-dimensional or has another aspect ratio.
    """
    _, ink = _smooth_and_ink(rgb, mpp_x=mpp_x, mpp_y=mpp_y)
    mask = ink.like(_resized(array > 0, ink.array.shape))
    return _tissue(rgb, mask=mask, ink=ink, spec=spec)


def _tissue(rgb: Pixels, *, mask: Mask, ink: Mask, spec: TissueSpec) -> Tissue:
    return Tissue(
        mask=mask,
        sampling=mask.dilated(spec.dilate_um),
        ink=ink,
        quality=measure_quality(rgb, tissue=mask, ink=ink),
    )


def _smooth_and_ink(rgb: Pixels, *, mpp_x: float, mpp_y: float) -> tuple[Pixels, Mask]:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(
            f"a thumbnail is uint8 [rows, cols, 3], not {rgb.dtype} {list(rgb.shape)}"
        )
    # A box of radius r is 2 r + 1 px; px wider than SMOOTH_UM stay as they are.
    radius = (max(0.0, SMOOTH_UM / mpp_x - 1) / 2, max(0.0, SMOOTH_UM / mpp_y - 1) / 2)
    image = Image.fromarray(_black_to_white(rgb))
    smooth = np.asarray(image.filter(ImageFilter.BoxBlur(radius)))
    return smooth, find_ink(smooth, mpp_x=mpp_x, mpp_y=mpp_y)


def _black_to_white(rgb: Pixels) -> Pixels:
    """Replace unscanned black pixels by glass; their saturation is noise."""
    _, high = extremes(rgb)
    out = rgb.copy()
    out[high < UNSCANNED] = 255
    return out


def _median(saturation: Pixels, *, mpp_x: float, mpp_y: float) -> Pixels:
    """Median filter over MEDIAN_UM: 7 x 7 px at 8 um/px.

    The paper filters the three channels; filtering the saturation costs a third, and
    masks of real images agree (area within 0.1 %, overlap of CMU-1 0.98).
    """
    height, width = (2 * int(MEDIAN_UM / m / 2) + 1 for m in (mpp_y, mpp_x))
    return np.asarray(rank.median(saturation, np.ones((height, width), np.uint8)))


def _saturation(rgb: Pixels) -> Pixels:
    """HSV saturation, 0..255."""
    low, high = extremes(rgb)
    # Integers of 16 bits: 255 * 255 just fits, and no float image is made.
    chroma = (high - low).astype(np.uint16)
    return np.asarray(chroma * 255 // np.maximum(high, 1)).astype(np.uint8)


def _saturation_threshold(saturation: Pixels, floor: float) -> float:
    """Saturation (0..255) above which a pixel is tissue: Otsu's, with two limits.

    Tissue exceeds Otsu's lower class by at least ``floor`` (0..1), so noise on glass,
    even tinted, is not tissue. If the lower class is too saturated for glass, Otsu
    split the tissue itself: there is no glass, and only the floor applies.
    """
    counts = np.bincount(saturation, minlength=256)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return 255 * floor
    otsu = float(threshold_otsu(hist=(counts[used], used)))
    lower = used[used <= otsu]
    glass = float(np.average(lower, weights=counts[lower]))
    if glass > 255 * GLASS_SATURATION:
        return 255 * floor
    return max(otsu, glass + 255 * floor)


def _paip_rule(rgb: Pixels) -> Bools:
    """Tissue rule of the PAIP 2019 organizers (challenge issue 19)."""
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.asarray((r < 235) | (g < 210) | (b < 235))


def _solid(raw: Mask, *, ink: Mask, spec: TissueSpec) -> Mask:
    """Remove ink, gaps and specks from raw tissue; empty if too little is left."""
    allowed = ~ink.array if spec.exclude_ink else np.ones_like(ink.array)
    closed = raw.like(raw.array & allowed).closed(spec.close_um)
    # Closing bridges a thin stroke; ink is removed again before specks are measured.
    mask = raw.like(closed.array & allowed).opened(spec.open_um)
    if mask.area_mm2 < spec.min_tissue_mm2:
        return raw.like(np.zeros_like(raw.array))
    return mask


def _resized(array: Bools, shape: tuple[int, ...]) -> Bools:
    """Resize a mask by nearest neighbor."""
    if array.ndim != 2:
        raise ValueError(
            f"a mask must be two-dimensional, not of shape {list(array.shape)}"
        )
    rows, cols = shape
    aspect = (array.shape[1] / array.shape[0]) / (cols / rows)
    # A side of a few px resolves the aspect ratio only to one pixel.
    slack = ASPECT_TOLERANCE + 1 / min(*array.shape, rows, cols)
    if abs(aspect - 1) > slack:
        raise ValueError(
            f"the mask is {array.shape[1]}x{array.shape[0]} px, the slide's "
            f"thumbnail {cols}x{rows}: aspect ratios differ, so they are not of the "
            "same slide"
        )
    image = Image.fromarray(array.astype(np.uint8))
    return np.asarray(image.resize((cols, rows), Image.Resampling.NEAREST)) > 0


def draw_tissue(rgb: Pixels, tissue: Tissue, *, boxes: NDArray[Any]) -> Pixels:
    """Draw outlines and patch centers on the thumbnail, for visual inspection.

    Green: tissue. Gray, thin: the sampling mask. Red: ink. Blue dots: the centers of
    the patches whose ``boxes`` [n, 4] are (x0, y0, x1, y1) in mask px.

    Raises:
        ValueError: thumbnail and masks differ in size.
    """
    shape = tissue.mask.array.shape
    if rgb.shape[:2] != shape:
        raise ValueError(f"thumbnail {rgb.shape[:2]} and mask {shape} differ in size")
    out = rgb.copy()
    line = max(1, round(max(shape) / 1000))
    # In this order, because the later outline covers the earlier one.
    out[_outline(tissue.sampling, max(1, line // 2))] = SAMPLING_COLOR
    out[_outline(tissue.mask, line)] = TISSUE_COLOR
    out[_outline(tissue.ink, line)] = INK_COLOR
    _draw_dots(out, boxes, line)
    return out


def _outline(mask: Mask, px: int) -> Bools:
    """Outermost pixels of a mask, ``px`` wide; none along the image border.

    skimage's find_boundaries draws lines of one fixed width.
    """
    outside = mask.like(~mask.array).dilated(px * max(mask.mpp_x, mask.mpp_y))
    return outside.array & mask.array


def _draw_dots(image: Pixels, boxes: NDArray[Any], radius: int) -> None:
    """Paint a disk of ``radius`` px on each box's center, in place."""
    height, width = image.shape[:2]
    x = ((boxes[:, 0] + boxes[:, 2]) / 2).astype(np.int64)
    y = ((boxes[:, 1] + boxes[:, 3]) / 2).astype(np.int64)
    reach = range(-radius, radius + 1)
    for dy, dx in ((j, i) for j in reach for i in reach if i * i + j * j <= radius**2):
        # A border cell's patch overhangs the slide, so its center may lie outside.
        inside = (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
        image[y[inside] + dy, x[inside] + dx] = PATCH_COLOR
