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
MIN_CHROMA = 12
"""Highest minus lowest channel of a stained px."""
GLASS = 170
"""Lowest channel of empty glass."""
MIN_STAINED_SHARE = 0.05
"""Stained part of what is not dark, below which it is no brightfield, unless half of
that is glass."""
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
        return
    passed = (highest >= MIN_LIGHT) & (lowest >= MIN_PURITY * highest)
    stained = passed & (chroma >= MIN_CHROMA)
    glass = lowest >= GLASS
    rest = max(1, int((~dark).sum()))
    if stained.sum() >= MIN_STAINED_SHARE * rest or glass.sum() >= rest / 2:
        return
    raise SlideError(
        f"not brightfield: {share:.0%} of the picture is dark, and the rest has no "
        "color of H&E or DAB (fluorescence?)",
        HINT,
    )
