"""Layers over a slide, and how their pixels map to the slide's."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from digipath_ray.artifacts.kinds import KINDS
from digipath_ray.config.classes import CLASS, WHOLE
from digipath_ray.heatmap.file import TILE_PX, pyramid_levels
from digipath_ray.heatmap.heatmap import Map
from digipath_ray.tissue.mask import Mask, read_mask
from digipath_ray.viewer.collection.snapshot import Entry
from digipath_ray.viewer.tiles.valuetiles import ValueTiles

Gray = NDArray[np.uint8]
Bools = NDArray[np.bool_]

LABELS = {
    "probability": "tumor probability",
    "aleatoric": "aleatoric uncertainty",
    "epistemic": "epistemic uncertainty",
    WHOLE: "whole tumor probability",
    "tissue": "tissue",
    "truth": "ground truth",
    **{f"artifact-{kind.name}": kind.label for kind in KINDS},
}
VARIANCES = ("aleatoric", "epistemic")
MOST_VARIANCE = 0.25
"""Maximum variance of a probability: half of the members 0, half 1."""


class At(NamedTuple):
    """Position of a tile: level (0 is the finest), column and row."""

    level: int
    col: int
    row: int


class NoMap(ValueError):  # noqa: N818 - named after the condition, not "Error"
    """The slide has no such map, or the map no such tile."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A map of a slide for the page.

    Attributes:
        id: ``<run>/<name>``.
        run: name of its run.
        name: key of LABELS, or a class's channel.
        label: label for people.
        kind: "value", or "mask": 255 or 0.
        width, height: px of level 0, the finest.
        tile_size: side of a tile, px.
        levels: number of levels, each half the previous one.
        l0_per_px_x, l0_per_px_y: level-0 px of the slide per px of level 0.
        low, high: values of gray 1 and 255.
        unit: unit of the values.
        version: changes with its file and with the meaning of its grays.
    """

    id: str
    run: str
    name: str
    label: str
    kind: str
    width: int
    height: int
    tile_size: int = TILE_PX
    levels: int
    l0_per_px_x: float
    l0_per_px_y: float
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    version: str

    def stamped(self) -> Self:
        """Copy with a version that includes scale and range."""
        unlabeled = replace(self, label="")
        version = hashlib.sha256(repr(unlabeled).encode()).hexdigest()[:16]
        return replace(self, version=version)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskLevels:
    """A mask pyramid, finest level first, each half the previous one."""

    levels: tuple[Bools, ...]
    mpp_x: float
    mpp_y: float
    version: str

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self.levels)


def label_of(channel: str) -> str | None:
    """Label for people of a heatmap's channel; None if it is not shown."""
    if channel.startswith(CLASS):
        return channel.removeprefix(CLASS)
    return LABELS.get(channel)


def highest(entry: Entry, name: str) -> float:
    """Upper end of a variance's color scale: 0.25 / 2^n, equal for a slide's runs."""
    found = [outcome.get(f"{name}_max") or 0.0 for outcome in entry.outcomes.values()]
    high = MOST_VARIANCE
    while any(found) and high / 2 >= max(found) and high > 1e-4:
        high /= 2
    return high


def to_gray(values: Map, weight: Map, *, low: float, high: float) -> Gray:
    """Map values to gray: 1..255 from ``low`` to ``high``.

    0 where the weight is 0 or, in a cascade, the value was not estimated (NaN).
    """
    there = (weight > 0) & ~np.isnan(values)
    share = (np.where(there, values, low) - low) / (high - low)
    gray = 1 + np.rint(254 * np.clip(share, 0, 1))
    return np.where(there, gray, 0).astype(np.uint8)


def read_mask_levels(path: Path, *, version: str = "") -> MaskLevels:
    """Read a mask file as a pyramid; a px is true if at least half of its px are.

    Raises:
        ValueError: not a mask.
    """
    return mask_levels(read_mask(path), version=version)


def mask_levels(mask: Mask, *, version: str) -> MaskLevels:
    """A mask as a pyramid, as :func:`read_mask_levels`."""
    levels = [mask.array]
    for _ in range(pyramid_levels(*mask.array.shape[::-1])):
        levels.append(_half(levels[-1]))
    return MaskLevels(
        levels=tuple(levels), mpp_x=mask.mpp_x, mpp_y=mask.mpp_y, version=version
    )


def _half(array: Bools) -> Bools:
    """Halve a mask; skimage's block functions would fill an odd last row with zeros."""
    height, width = array.shape
    even = np.pad(array, ((0, height % 2), (0, width % 2)), mode="edge")
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2)
    return np.asarray(blocks.sum(axis=(1, 3), dtype=np.uint8) >= 2)


def cut_tile(mask: MaskLevels, at: At, *, of: str) -> Gray:
    """A tile of a mask, 255 or 0.

    Raises:
        NoMap: there is none; ``of`` names the map.
    """
    if not at.level < len(mask.levels):
        raise NoMap(f"map not found: {of}")
    x, y = at.col * TILE_PX, at.row * TILE_PX
    tile = mask.levels[at.level][y : y + TILE_PX, x : x + TILE_PX]
    if not tile.size:
        raise NoMap(f"tile not found: {at.col}, {at.row} at level {at.level}")
    return np.where(tile, np.uint8(255), np.uint8(0))


def value_layers(entry: Entry, run: str, heatmap: ValueTiles) -> Iterator[Layer]:
    """Yield the layers of a run's heatmap."""
    mpp_x, mpp_y = entry.mpp_of(run)
    for name in heatmap.channels:
        label = label_of(name)
        if label is not None:
            yield Layer(
                id=f"{run}/{name}",
                run=run,
                name=name,
                label=label,
                kind="value",
                width=heatmap.width,
                height=heatmap.height,
                levels=len(heatmap.levels),
                l0_per_px_x=heatmap.mpp_x / mpp_x,
                l0_per_px_y=heatmap.mpp_y / mpp_y,
                high=highest(entry, name) if name in VARIANCES else 1.0,
                unit="variance" if name in VARIANCES else "probability",
                version=entry.runs[run].version,
            )


def mask_layer(
    entry: Entry, run: str, mask: MaskLevels, *, name: str = "tissue"
) -> Layer:
    """Layer of a run's mask, by default of the tissue."""
    mpp_x, mpp_y = entry.mpp_of(run)
    height, width = mask.levels[0].shape
    return Layer(
        id=f"{run}/{name}",
        run=run,
        name=name,
        label=LABELS[name],
        kind="mask",
        width=width,
        height=height,
        levels=len(mask.levels),
        l0_per_px_x=mask.mpp_x / mpp_x,
        l0_per_px_y=mask.mpp_y / mpp_y,
        version=mask.version,
    )
