"""Which levels of a slide show the slide: its sizes and coarse pictures compared.

Converters pad levels to whole tiles, or flag a label or macro image as a smaller level.
Read as levels, all positions in them would be shifted or of another picture.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from digipath_ray.slide.info import Note, ReadLevel

MAX_STRETCH = 0.01
"""Relative difference of W0/Wi and H0/Hi from which a level is not the same field."""
WINDOWS = 6
"""Windows along each axis in which the pictures of two levels are compared."""
WINDOW_PX = 192
"""Side of a window, px of the finer of the two levels."""
MAX_DIFFERENCE = 20.0
"""Gray levels (rms of window means) that sharpening and JPEG never reach."""
MIN_DIFFERENCE = 5.0
"""Gray levels that they may reach, whatever the pictures are."""
MIN_CORRELATION = 0.95
"""Of the window means of the same picture; in between the two limits it decides."""
MAX_PICTURE_PX = 4096
"""Longer side of a level that may be a label or macro image; larger ones are not."""
MARGIN_SPREAD = 24
"""Gray levels between the lightest and darkest px of a padded margin (JPEG rings)."""
MAX_MARGIN_PX = 64 << 20
"""Larger levels are not looked at: their margin is small beside them."""

Sizes = Sequence[tuple[int, int]]


def same_field(
    whole: tuple[int, int], level: tuple[int, int], max_stretch: float = MAX_STRETCH
) -> bool:
    """Whether a level of (width, height) can show what level 0 shows.

    Rounding may cost a px of each side of the level, whatever ``max_stretch`` is.
    """
    (w0, h0), (w, h) = whole, level
    return abs(w * h0 - h * w0) <= max(w0 + h0, max_stretch * w * h0)


def find_alien_levels(sizes: Sizes, read: ReadLevel | None) -> dict[int, str]:
    """Levels that do not show what level 0 shows, each with the reason.

    Args:
        sizes: (width, height) of every level, finest first.
        read: reads a level, to compare the pictures; None compares the sizes alone,
            and less strictly, as a scanner's own reader has made sense of them.
    """
    alien: dict[int, str] = {}
    finer = 0
    stretch = MAX_STRETCH if read is None else 0.0
    for level in range(1, len(sizes)):
        (w0, h0), (w, h) = sizes[0], sizes[level]
        if not same_field(sizes[0], sizes[level], stretch):
            alien[level] = (
                f"its sides are 1:{w0 / w:.4g} and 1:{h0 / h:.4g} of level 0, so it "
                "is padded or another picture"
            )
        elif read is not None and _is_padded(sizes, level, read):
            alien[level] = (
                f"it is padded: 1:{w0 / w:.4g} of level 0, with one color beyond "
                f"1:{round(w0 / w)}"
            )
        elif (
            read is not None
            and max(w, h) <= MAX_PICTURE_PX
            and not _look_alike(sizes, finer, level, read)
        ):
            alien[level] = "it shows another picture"
        else:
            finer = level
    return alien


def note_of(alien: dict[int, str], sizes: Sizes) -> Iterator[Note]:
    """What to say of levels that are left out."""
    for level, why in alien.items():
        width, height = sizes[level]
        yield Note(
            flag="levels left out",
            text=f"the level of {width} x {height} px is not read: {why}",
        )


def _is_padded(sizes: Sizes, level: int, read: ReadLevel) -> bool:
    """Whether a level is of a whole downsample, with a margin at its right and bottom.

    A square slide may be padded alike on both sides: sizes alone do not show it.
    """
    (w0, h0), (w, h) = sizes[0], sizes[level]
    n = round(w0 / w)
    if n < 2:
        return False
    filled = -(-w0 // n), -(-h0 // n)
    if w <= filled[0] + 1 or h <= filled[1] + 1 or w * h > MAX_MARGIN_PX:
        return False
    right = read(level, filled[0], 0, w - filled[0], h)
    bottom = read(level, 0, filled[1], w, h - filled[1])
    margin = np.concatenate([right.reshape(-1, 3), bottom.reshape(-1, 3)])
    return bool(np.ptp(margin[:, 0]) <= MARGIN_SPREAD)


def _look_alike(sizes: Sizes, finer: int, coarser: int, read: ReadLevel) -> bool:
    """Whether two levels have about the same colors in the same windows."""
    a, b = _window_means(sizes, finer, coarser, read)
    difference = float(np.sqrt(np.mean((a - b) ** 2)))
    if difference > MAX_DIFFERENCE:
        return False
    spread = min(float(np.sqrt(np.mean(m.var(axis=0)))) for m in (a, b))
    if difference < MIN_DIFFERENCE or spread < MIN_DIFFERENCE:
        return True
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) >= MIN_CORRELATION


def _window_means(
    sizes: Sizes, finer: int, coarser: int, read: ReadLevel
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean colors [windows, 3] of the same places in two levels."""
    scale = sizes[finer][0] / sizes[coarser][0]
    means: tuple[list[NDArray[np.float64]], ...] = ([], [])
    spans = [
        list(_spans(sizes[coarser][axis], sizes[finer][axis], scale)) for axis in (0, 1)
    ]
    for (y, height), (fine_y, fine_height) in spans[1]:
        for (x, width), (fine_x, fine_width) in spans[0]:
            fine = read(finer, fine_x, fine_y, fine_width, fine_height)
            coarse = read(coarser, x, y, width, height)
            means[0].append(fine.mean(axis=(0, 1)))
            means[1].append(coarse.mean(axis=(0, 1)))
    return np.array(means[0]), np.array(means[1])


def _spans(
    length: int, fine_length: int, scale: float
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Windows along an axis: (start, length) in the coarser and in the finer level."""
    side = max(1, min(length // WINDOWS, round(WINDOW_PX / scale)))
    ratio = fine_length / length
    count = min(WINDOWS, length // side)
    for i in range(count):
        start = min(length - side, int((i + 0.5) * length / count - side / 2))
        start = max(0, start)
        fine_start = min(fine_length - 1, round(start * ratio))
        fine_stop = min(fine_length, max(fine_start + 1, round((start + side) * ratio)))
        yield (start, side), (fine_start, fine_stop - fine_start)
