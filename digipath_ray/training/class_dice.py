"""Dice of each class on validation slides, where networks tell several apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from digipath_ray.overlap import dice

COLUMN = "validation_dice: "
"""Before the name of a class in its column of the learning curves."""
Counts = NDArray[np.float64]
"""[3, classes]: area that is the class and found, that is found, that is the class."""


def count_classes(
    found: NDArray[np.integer],
    truth: NDArray[np.integer],
    area: NDArray[np.floating],
    classes: int,
) -> Counts:
    """Areas of each class.

    Args:
        found: class that is likeliest at each pixel, any shape.
        truth: class of each pixel.
        area: that each pixel stands for; 0 excludes it.
        classes: how many there are.
    """
    found, truth, area = found.ravel(), truth.ravel(), area.ravel()
    parts = (
        (truth, area * (found == truth)),
        (found, area),
        (truth, area),
    )
    return np.stack([np.bincount(of, w, minlength=classes) for of, w in parts])


def dice_by_class(counts: Counts, names: Sequence[str]) -> dict[str, float]:
    """Column -> Dice of each class; 1 where it is neither there nor found."""
    both, found, truth = counts.tolist()
    values = map(dice, both, found, truth)
    return {f"{COLUMN}{name}": v for name, v in zip(names, values, strict=True)}


def class_columns(row: Mapping[str, object]) -> dict[str, float]:
    """Name of a class -> its Dice, of a row of the learning curves."""
    return {
        name.removeprefix(COLUMN): value
        for name, value in row.items()
        if name.startswith(COLUMN) and isinstance(value, float)
    }
