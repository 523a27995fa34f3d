"""The class of each pixel of a heatmap that keeps the classes, and their colors."""

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.classes import CLASS, kept_classes
from digipath_ray.heatmap.heatmap import Heatmap

Color = tuple[int, int, int]
"""Red, green, blue, 0..255."""
Indexes = NDArray[np.uint16]
"""Number of a class at each pixel, from 1; 0: none."""

STRIP_ROWS = 256
"""Rows looked at at once, to limit memory."""
OF_QUPATH: dict[str, Color] = {
    "tumor": (200, 0, 0),
    "stroma": (150, 200, 150),
    "immune cells": (160, 90, 160),
    "necrosis": (50, 50, 50),
    "other": (255, 200, 0),
    "positive": (250, 62, 62),
    "negative": (112, 112, 225),
}
"""Colors of the classes that QuPath comes with, by their names in small letters."""
OTHERS: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (136, 34, 85),
    (17, 119, 51),
    (51, 34, 136),
)
"""Of the others, by their place among the classes (Okabe and Ito; Tol)."""
WHITE: Color = (255, 255, 255)


def color_of(name: str, place: int) -> Color:
    """The color of a class: QuPath's own, else by its place among the classes."""
    return OF_QUPATH.get(name.lower(), OTHERS[place % len(OTHERS)])


def channel_colors(channels: tuple[str, ...]) -> list[Color]:
    """A color for each channel of a heatmap; white of those that are no class."""
    names = kept_classes(channels)
    by_channel = {f"{CLASS}{n}": color_of(n, i) for i, n in enumerate(names)}
    return [by_channel.get(name, WHITE) for name in channels]


def packed(color: Color) -> int:
    """A color as OME-XML has it: red, green, blue, opaque, in a signed int32."""
    red, green, blue = color
    return int(np.array([red, green, blue, 255], np.uint8).view(">i4")[0])


def likeliest(heatmap: Heatmap) -> Indexes | None:
    """The class that is likeliest at each pixel [H, W]; None if none were kept.

    The first of equal ones; 0 where no patch lies.
    """
    names = kept_classes(heatmap.channels)
    if not names:
        return None
    where = [heatmap.channels.index(f"{CLASS}{name}") for name in names]
    found = np.zeros(heatmap.weight.shape, np.uint16)
    for row in range(0, heatmap.height, STRIP_ROWS):
        rows = slice(row, row + STRIP_ROWS)
        strip = heatmap.data[:, rows][where]
        found[rows] = np.where(heatmap.covered[rows], strip.argmax(axis=0) + 1, 0)
    return found
