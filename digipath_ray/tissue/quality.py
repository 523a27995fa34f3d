"""Quality of a slide from its thumbnail: ink, blur, black and blank areas.

Thresholds are module constants, chosen on real H&E (124 GlaS fields, an Aperio slide)
so that no tissue color comes near them; each comment gives its measurement. Colors are
compared as optical density, OD = -log10(value / 255), because ink and stain are
additive there, and a thinner layer has the same channel ratios.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.detail import ROUNDING, binned, energy, gray_of, local_mean
from digipath_ray.tissue.mask import Bools, Mask

UNSCANNED = 16
"""Unscanned: all three channels are below this."""
BLANK_VALUE = 200
BLANK_SATURATION = 0.05
"""Glass: every channel and the HSV saturation are at least and at most this."""

INK_WIDTH_UM = 100.0
"""Thinner ink is ignored; a fine marker draws 300 um and more."""
RED_WIDTH_UM = 200.0
"""Minimum width of red ink: a vessel full of blood is narrower."""
INK_MARGIN_UM = 24.0
"""Margin added to the detected ink for its soft edge."""
INK_OVER_UM = 1000.0
"""Ink up to this wide with tissue on both sides is over tissue."""
INK_TOUCH_UM = 50.0
"""Ink this close to tissue touches it."""

BLUR_MPP = 8.0
"""Blur is measured on pixels of about this size, whatever the thumbnail's."""
BLUR_RATIO = 0.5
"""Sharp tissue has 0.85 to 1.6; a Gaussian blur of half a pixel's width 0.3 to 0.5."""
BLUR_WINDOW_UM = 400.0
BLUR_TEXTURE = 4.0
"""Minimum mean squared Laplacian (gray levels) at two pixels to measure blur."""

FLAG_INK = 0.002
FLAG_INK_OVER_TISSUE = 0.005
FLAG_BLUR = 0.25
FLAG_BLACK = 0.05
FLAG_MISSED, FLAG_MISSED_MM2 = 0.2, 0.2
"""Of the tissue's area, and at least."""
FLAG_GLASS = 0.5
"""Of the area of a tissue mask that was given."""
FLAG_LITTLE_TISSUE_MM2 = 0.1
"""A third of the smallest usual tissue-microarray core (0.6 mm)."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Quality of one slide; fractions in 0..1.

    Attributes:
        tissue_mm2: area of the tissue mask, mm2.
        missed_mm2: area that is neither tissue nor ink and yet differs from glass, mm2.
        glass_mm2: area of a given tissue mask that is glass, mm2.
        ink: pen marks, fraction of the slide.
        ink_over_tissue: ink over or touching tissue, fraction of tissue with that ink.
        blur: fraction of the tissue that is grossly out of focus (point spread of about
            half a mask px and more, 4 um at 8 um/px; finer defocus is invisible here).
        black: unscanned, fraction of the slide.
        blank: bright and colorless (glass), fraction of the slide.
    """

    tissue_mm2: float
    ink: float
    ink_over_tissue: float
    blur: float
    black: float
    blank: float
    missed_mm2: float = 0.0
    glass_mm2: float = 0.0

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the measures beyond their FLAG_ constant, in a fixed order."""
        little = 0 < self.tissue_mm2 < FLAG_LITTLE_TISSUE_MM2
        raised = {
            "ink": self.ink >= FLAG_INK,
            "ink over tissue": self.ink_over_tissue >= FLAG_INK_OVER_TISSUE,
            "blur": self.blur >= FLAG_BLUR,
            "black": self.black >= FLAG_BLACK,
            "little tissue": little,
            "no tissue": self.tissue_mm2 == 0,
            "color outside the tissue": self.missed_mm2
            > max(FLAG_MISSED_MM2, FLAG_MISSED * self.tissue_mm2),
            "glass in the tissue mask": self.glass_mm2
            > max(FLAG_MISSED_MM2, FLAG_GLASS * self.tissue_mm2),
        }
        return tuple(name for name, up in raised.items() if up)


def measure_quality(rgb: Pixels, *, tissue: Mask, ink: Mask) -> Quality:
    """Measure a slide's quality from its thumbnail [rows, cols, 3] and two masks."""
    low, high = extremes(rgb)
    blank = (low >= BLANK_VALUE) & (high - low <= BLANK_SATURATION * high)
    return Quality(
        tissue_mm2=tissue.area_mm2,
        ink=float(ink.array.mean()),
        ink_over_tissue=_ink_over_tissue(tissue=tissue, ink=ink),
        blur=_blurred_share(rgb, tissue),
        black=float((high < UNSCANNED).mean()),
        blank=float(blank.mean()),
    )


def extremes(rgb: Pixels) -> tuple[Pixels, Pixels]:
    """Each pixel's lowest and highest channel, uint8 [rows, cols]."""
    # Channel by channel: numpy's min over an axis of length 3 is several times slower.
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return (
        np.minimum(np.minimum(r, g), b),
        np.maximum(np.maximum(r, g), b),
    )


def densities(rgb: Pixels) -> tuple[Floats, Floats, Floats]:
    """Optical density of red, green and blue, [rows, cols] each; 0 is white."""
    # Plus one, so that black has a finite optical density (2.4).
    density = -np.log10(np.arange(1, 257, dtype=np.float32) / 256)
    return density[rgb[..., 0]], density[rgb[..., 1]], density[rgb[..., 2]]


def find_ink(rgb: Pixels, *, mpp_x: float, mpp_y: float) -> Mask:
    """Find blue, green, red and black ink in an RGB image smoothed over about 24 um.

    Lines thinner than INK_WIDTH_UM (red: RED_WIDTH_UM) are dropped; the rest is
    extended by INK_MARGIN_UM. Light ink over tissue can have the color of a stain, and
    is then missed.
    """
    r, g, b = densities(rgb)
    found = np.zeros(rgb.shape[:2], np.bool_)
    for colored, width_um in (
        (_cold_ink(r, g, b) | black_ink(r, g, b), INK_WIDTH_UM),
        (_red_ink(r, g, b), RED_WIDTH_UM),
    ):
        if colored.any():
            ink = Mask(array=colored, mpp_x=mpp_x, mpp_y=mpp_y)
            # Opening rounds the corners of a stroke; this restores them.
            near = ink.opened(width_um).dilated(width_um / 2).array
            found |= ink.like(colored & near).dilated(INK_MARGIN_UM).array
    return Mask(array=found, mpp_x=mpp_x, mpp_y=mpp_y)


# The three rules below take the optical densities of red, green and blue [rows, cols].
# Bounds are set against the 24-um means of the real images named above.


def _cold_ink(r: Floats, g: Floats, b: Floats) -> Bools:
    """Blue and green ink absorb red most, or as much as green with little blue.

    Hematoxylin and eosin absorb green most: red/green is below 0.7 in 99.9 % of real
    pixels, and where it approaches 1, blue/green is at least 0.64 (0.41 in pure
    hematoxylin, which no 24-um mean reaches).
    """
    light = r > 1.1 * g + 0.05
    deep = (g > 0.3) & (r > 0.85 * g) & (b < 0.35 * g)
    navy = (g > 0.6) & (r > g) & (b < 0.5 * g)
    return np.asarray(light | deep | navy)


def _red_ink(r: Floats, g: Floats, b: Floats) -> Bools:
    """Saturated red; blue/green is at most 0.66 in blood and eosin."""
    return np.asarray((g > 0.7) & (b > 0.8 * g) & (r < 0.3 * g))


def black_ink(r: Floats, g: Floats, b: Floats) -> Bools:
    """Dark and gray; the grayest dark tissue spreads by 0.28 of its densest channel."""
    densest = np.maximum(np.maximum(r, g), b)
    lightest = np.minimum(np.minimum(r, g), b)
    return np.asarray((lightest > 0.4) & (densest - lightest < 0.2 * densest))


def reach_of(tissue: Mask) -> Mask:
    """Where ink would be over tissue or touch it, on coarser pixels.

    Tissue and INK_TOUCH_UM around it, gaps up to INK_OVER_UM filled. Pixels of about 32
    um suffice for that, and make the closing cheap.
    """
    step_y, step_x = (max(1, round(32 / m)) for m in (tissue.mpp_y, tissue.mpp_x))
    coarse = Mask(
        array=tissue.array[::step_y, ::step_x],
        mpp_x=tissue.mpp_x * step_x,
        mpp_y=tissue.mpp_y * step_y,
    )
    return coarse.dilated(INK_TOUCH_UM).closed(INK_OVER_UM)


def _ink_over_tissue(*, tissue: Mask, ink: Mask) -> float:
    """Ink between or next to tissue, as a fraction of tissue plus that ink."""
    if not (tissue.array.any() and ink.array.any()):
        return 0.0
    reach = reach_of(tissue)
    step_y, step_x = (max(1, round(32 / m)) for m in (tissue.mpp_y, tissue.mpp_x))
    over = reach.array & ink.array[::step_y, ::step_x]
    coarse = tissue.array[::step_y, ::step_x]
    return float(over.sum() / max(1, (over | coarse).sum()))


def _blurred_share(rgb: Pixels, tissue: Mask) -> float:
    """Blurred fraction of the tissue's interior, at BLUR_MPP or coarser.

    Measure: mean squared Laplacian at one pixel divided by that at two pixels. Tissue
    has detail at every scale, so in focus both are similar whatever the stain and
    contrast; blur reduces the finer one first. The tissue's rim is excluded, because a
    straight edge to glass alone gives 0.5; two blocks, as the mask reaches beyond it.
    """
    fine_y, fine_x = (max(1, round(BLUR_MPP / m)) for m in (tissue.mpp_y, tissue.mpp_x))
    fine = binned(gray_of(rgb), fine_y, fine_x)
    coarse = binned(fine, 2, 2)
    # Blocks that are tissue throughout; one pixel of glass makes an edge.
    whole = binned(tissue.array.astype(np.float32), 2 * fine_y, 2 * fine_x) == 1
    inside = ndimage.binary_erosion(whole, np.ones((3, 3)), iterations=2)
    if not inside.any():
        return 0.0
    um = (2 * fine_y * tissue.mpp_y, 2 * fine_x * tissue.mpp_x)
    window = tuple(max(3, round(BLUR_WINDOW_UM / u)) for u in um)
    at_one = local_mean(binned(energy(fine), 2, 2), inside, window) - ROUNDING
    at_two = local_mean(energy(coarse), inside, window)
    blurred = (at_two > BLUR_TEXTURE) & (at_one < BLUR_RATIO * at_two)
    return float(blurred[inside].mean())
