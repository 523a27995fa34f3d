"""Which levels of a slide show the slide: its sizes and coarse pictures compared.

Converters pad levels to whole tiles, or flag a label or macro image as a smaller level.
Read as levels, all positions in them would be shifted or of another picture.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from digipath_ray.slide.info import Note, Pixels

MAX_STRETCH = 0.01
"""Relative difference of W0/Wi and H0/Hi from which a level is not the same field."""
WINDOWS = 6
"""Windows along each axis in which the pictures of two levels are compared."""
WINDOW_PX = 192
"""Side of a window, px of the finer of the two levels."""
MIN_DIFFERENCE = 20.0
"""Gray levels (rms of window means); JPEG and rounding stay below 5."""
MIN_SHARE = 0.5
"""The same, as a share of the spread of the finer level's window means."""

Sizes = Sequence[tuple[int, int]]
ReadLevel = Callable[[int, int, int, int, int], Pixels]
"""(level, x, y, width, height) in px of the level -> RGB [height, width, 3]."""


def same_field(whole: tuple[int, int], level: tuple[int, int]) -> bool:
    """Whether a level of (width, height) can show what level 0 shows.

    Rounding may cost a px of each side of the level, which is W0/Wi px of level 0.
    """
    (w0, h0), (w, h) = whole, level
    crossed = abs(w * h0 - h * w0)
    return crossed <= max(max(w0, h0), MAX_STRETCH * w * h0)


def find_alien_levels(sizes: Sizes, read: ReadLevel | None) -> dict[int, str]:
    """Levels that do not show what level 0 shows, each with the reason.

    Args:
        sizes: (width, height) of every level, finest first.
        read: reads a level, to compare the pictures; None compares the sizes alone.
    """
    alien: dict[int, str] = {}
    finer = 0
    for level in range(1, len(sizes)):
        (w0, h0), (w, h) = sizes[0], sizes[level]
        if not same_field(sizes[0], sizes[level]):
            alien[level] = f"its sides are 1:{w0 / w:.4g} and 1:{h0 / h:.4g} of level 0"
        elif read is not None and not _look_alike(sizes, finer, level, read):
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


def _look_alike(sizes: Sizes, finer: int, coarser: int, read: ReadLevel) -> bool:
    """Whether two levels have about the same colors in the same windows."""
    a, b = _window_means(sizes, finer, coarser, read)
    difference = float(np.sqrt(np.mean((a - b) ** 2)))
    spread = float(np.sqrt(np.mean(a.var(axis=0))))
    return difference <= max(MIN_DIFFERENCE, MIN_SHARE * spread)


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
    side = max(1, min(length, round(WINDOW_PX / scale)))
    ratio = fine_length / length
    count = min(WINDOWS, length // side)
    for i in range(count):
        start = min(length - side, int((i + 0.5) * length / count - side / 2))
        start = max(0, start)
        fine_start = min(fine_length - 1, round(start * ratio))
        fine_stop = min(fine_length, max(fine_start + 1, round((start + side) * ratio)))
        yield (start, side), (fine_start, fine_stop - fine_start)
