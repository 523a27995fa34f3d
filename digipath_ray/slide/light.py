"""Whether a picture was taken in transmitted light through a stained section.

Fluorescence is bright on a dark ground. Taken for H&E, its signal would be tissue.
"""

import numpy as np

from digipath_ray.slide.info import Pixels, SlideError

DARK = 60
"""Highest channel below which a px is dark."""
MIN_DARK_SHARE = 0.2
"""Dark part of a picture that may be fluorescence. Black borders of scanners are as
dark, but the rest of such a slide is glass or stained tissue."""
MIN_LIGHT = 100
"""Highest channel of a px that light passed."""
MIN_PURITY = 0.35
"""Lowest by highest channel of a px that light passed: H&E and DAB let some of every
color through; a fluorophore on a dark ground shows its own alone."""
GLASS = 170
"""Lowest channel of empty glass."""
MIN_LIGHT_SHARE = 0.6
"""Part of what is above the dark ground that light passed, below which it is no
brightfield."""
MAX_DIM_SHARE = 0.3
"""Part of it that is dim: a signal fades into the dark, a black border has an edge."""
MIN_GLASS_SHARE = 0.3
"""Part of it that is glass, from which that does not matter."""
MAX_RED = 0.4
"""Red by highest channel of a px that glows blue or green; no stain is so pure."""
MAX_GLOW_SHARE = 0.5
"""Part of a picture that glows so, from which it is fluorescence without a ground."""
ABOVE_GROUND = 20
"""Highest channel above the most common dark value, from which a px is above it."""
MAX_GRAY = 2
"""Highest chroma of a picture without color."""
MIN_DRAWN_SHARE = 0.01
"""Part of a colorless picture that is not glass, from which it shows something."""

HINT = (
    "give brightfield slides of H&E: networks for H&E say nothing about fluorescence, "
    "and no other tissue method makes it usable"
)


def check_brightfield(rgb: Pixels) -> None:
    """Refuse a thumbnail [rows, cols, 3] of fluorescence, or one without any color.

    Raises:
        SlideError: dark ground and no color of H&E or DAB, or gray alone.
    """
    highest, lowest = rgb.max(axis=2), rgb.min(axis=2)
    chroma = highest - lowest
    if chroma.max(initial=0) <= MAX_GRAY:
        if np.mean(highest < GLASS) > MIN_DRAWN_SHARE:
            raise SlideError("a gray picture, without the color of any stain", HINT)
        return
    dark = highest < DARK
    share = float(dark.mean())
    if share < MIN_DARK_SHARE:
        _refuse_glow(rgb, highest, lowest)
        return
    ground = int(np.bincount(highest[dark]).argmax())
    above = highest.astype(np.int16) > ground + ABOVE_GROUND
    rest = max(1, int(above.sum()))
    passed = above & (highest >= MIN_LIGHT) & (lowest >= MIN_PURITY * highest)
    dim = above & (highest < MIN_LIGHT)
    glass = above & (lowest >= GLASS)
    is_faded = dim.sum() > MAX_DIM_SHARE * rest and glass.sum() < MIN_GLASS_SHARE * rest
    if passed.sum() >= MIN_LIGHT_SHARE * rest and not is_faded:
        return
    raise SlideError(
        f"not brightfield: {share:.0%} of the picture is dark, and the rest has no "
        "color of H&E or DAB (fluorescence?)",
        HINT,
    )


def _refuse_glow(rgb: Pixels, highest: Pixels, lowest: Pixels) -> None:
    glow = (lowest < MIN_PURITY * highest) & (rgb[..., 0] < MAX_RED * highest)
    share = float(glow.mean())
    if share > MAX_GLOW_SHARE:
        raise SlideError(
            f"not brightfield: {share:.0%} of the picture is pure blue or green, which "
            "is no color of H&E or DAB (fluorescence?)",
            HINT,
        )
