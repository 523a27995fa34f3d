"""The glass of a slide: its color, and how far a pixel must differ from it.

Otsu's method puts one threshold between two populations. A slide often has three:
glass, pale tissue and vivid color (blood, dye, dark chromogen, muscle), and then the
threshold lies between the last two and all pale tissue counts as glass. Here glass is
found first; tissue is what differs from it, and Otsu may raise the threshold only
within a small cap that no stained tissue lies below.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import Bools
from digipath_ray.tissue.quality import UNSCANNED, extremes

GLASS_SATURATION = 0.15
"""Glass has no more HSV saturation (0..1), even where it is tinted."""
LEAST_SHARE = 0.01
"""There is glass if this share of the pixels is as pale as that."""
BRIGHT_WINDOW = 20
"""Glass is the most frequent gray level so close to the brightest pale pixels."""
SPREAD = 6
"""Gray levels by which pixels of the glass differ from their mode."""
OTSU_CAP = 0.01
"""Otsu may raise the threshold by this much (0..1) above the lowest one."""


@dataclass(frozen=True, kw_only=True)
class Glass:
    """Color of the bare slide.

    Attributes:
        color: red, green, blue, 0..255.
    """

    color: tuple[float, float, float]

    def balance(self, rgb: Pixels) -> Pixels:
        """The image [rows, cols, 3] under a light in which this glass is white."""
        levels = np.arange(256)
        out = np.empty_like(rgb)
        for i, white in enumerate(self.color):
            table = (levels * (255 / max(white, 1.0))).round().clip(0, 255)
            out[..., i] = table.astype(np.uint8)[rgb[..., i]]
        return out


def find_glass(rgb: Pixels, *, ignore: Bools) -> Glass | None:
    """Find the glass of a smoothed thumbnail [rows, cols, 3]; None if there is none.

    Light of a brightfield scanner passes glass unweakened, so of all pale pixels those
    of the glass are the brightest.

    Args:
        rgb: colors averaged over some 24 um.
        ignore: [rows, cols], pixels that say nothing of glass: ink, unscanned.
    """
    low, high = extremes(rgb)
    pale = (high >= UNSCANNED) & (high - low <= GLASS_SATURATION * high) & ~ignore
    levels = np.bincount(low[pale], minlength=256)
    enough = LEAST_SHARE * (~ignore).sum()
    if levels.sum() < max(enough, 1):
        return None
    # From the bright end down until so many pixels are seen that they are no dust.
    brightest = 255 - int(np.argmax(np.cumsum(levels[::-1]) >= enough))
    first = max(0, brightest - BRIGHT_WINDOW)
    mode = first + int(np.argmax(levels[first:]))
    near = pale & (np.abs(low.astype(np.int16) - mode) <= SPREAD)
    return Glass(color=tuple(np.median(rgb[near], axis=0).tolist()))


def saturation(rgb: Pixels) -> Pixels:
    """HSV saturation, 0..255."""
    low, high = extremes(rgb)
    # Integers of 16 bits: 255 * 255 just fits, and no float image is made.
    chroma = (high - low).astype(np.uint16)
    return np.asarray(chroma * 255 // np.maximum(high, 1)).astype(np.uint8)


def glass_threshold(values: Pixels, floor: float) -> float:
    """Saturation (0..255) above which a pixel is tissue, where glass is white.

    Args:
        values: saturations of a balanced image, without ink.
        floor: 0..1, the least by which tissue differs from glass.
    """
    lowest = 255 * floor
    used, counts = np.unique(values, return_counts=True)
    if len(used) < 2:
        return lowest
    otsu = float(threshold_otsu(hist=(counts, used)))
    return min(max(otsu, lowest), lowest + 255 * OTSU_CAP)


def paper_threshold(values: NDArray[np.uint8], floor: float) -> float:
    """Saturation (0..255) above which a pixel is tissue: Otsu's, with two limits.

    The paper's rule (section "Tissue mask"). Tissue exceeds Otsu's lower class by at
    least ``floor`` (0..1), so noise on glass, even tinted, is not tissue. If the lower
    class is too saturated for glass, Otsu split the tissue itself: there is no glass,
    and only the floor applies.
    """
    counts = np.bincount(values, minlength=256)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return 255 * floor
    otsu = float(threshold_otsu(hist=(counts[used], used)))
    lower = used[used <= otsu]
    glass = float(np.average(lower, weights=counts[lower]))
    if glass > 255 * GLASS_SATURATION:
        return 255 * floor
    return max(otsu, glass + 255 * floor)
