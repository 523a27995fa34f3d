"""Maps of a slide as value tiles, and their exact values.

A tile is a gray PNG colored by the browser: 0 where nothing was estimated, else 1 to
255 for the layer's ``low`` to ``high``. So threshold, opacity and colors change without
the server.
"""

import contextlib
import io
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.heatmap.file import TILE_PX, WEIGHT
from digipath_ray.heatmap.heatmap import Map
from digipath_ray.run.directory import RunDirectory
from digipath_ray.viewer.collection.snapshot import Entry
from digipath_ray.viewer.tiles.artifacts import PREFIX, ArtifactMaps
from digipath_ray.viewer.tiles.layers import (
    VARIANCES,
    At,
    Gray,
    Layer,
    MaskLevels,
    NoMap,
    cut_tile,
    highest,
    label_of,
    mask_layer,
    read_mask_levels,
    to_gray,
    value_layers,
)
from digipath_ray.viewer.tiles.lru import LruCache
from digipath_ray.viewer.tiles.truth import Truths
from digipath_ray.viewer.tiles.valuetiles import ValueTiles, open_value_tiles

OPEN_MAPS = 64
"""Number of heatmaps with cached TIFF directories; no file stays open."""


class Maps:
    """Maps of a collection's slides; thread-safe."""

    def __init__(self, spec: AnnotationSpec, *, most_bytes: int = 96 << 20) -> None:
        self._truths = Truths(spec)
        self._files: LruCache[ValueTiles] = LruCache(OPEN_MAPS, lambda _: 1)
        self._tiles: LruCache[Map] = LruCache(most_bytes, lambda tile: tile.nbytes)
        self._masks: LruCache[MaskLevels] = LruCache(
            most_bytes, lambda mask: mask.nbytes
        )
        self._artifacts = ArtifactMaps(most_bytes=most_bytes // 2)
        self._reading = threading.Lock()

    def version(self, entry: Entry, run: str, name: str) -> str:
        """Version of a map; empty if it is missing or unreadable."""
        layers = {layer.id: layer.version for layer in self.layers(entry)}
        return layers.get(f"{run}/{name}", "")

    def layers(self, entry: Entry) -> list[Layer]:
        """Readable layers of a slide.

        Raises:
            OSError: a bucket cannot be reached.
        """
        return self.examine(entry)[0]

    def examine(self, entry: Entry) -> tuple[list[Layer], list[str]]:
        """Readable layers of a slide, and the errors of the others.

        Raises:
            OSError: a bucket cannot be reached.
        """
        if entry.l0_size is None:
            return [], []
        found: list[Layer] = []
        troubles: list[str] = []
        for run in entry.runs:
            for name, layers in (
                ("heatmap", self._value_layers),
                ("tissue mask", self._mask_layers),
                ("artifacts", self._artifacts.layers),
            ):
                try:
                    found += layers(entry, run)
                except ValueError as e:
                    troubles.append(f"cannot show the {name}: {e}")
        truth = self._truth_layer(entry)
        return [layer.stamped() for layer in (*found, *filter(None, [truth]))], troubles

    def _value_layers(self, entry: Entry, run: str) -> list[Layer]:
        heatmap = self._heatmap(entry, run)
        return [] if heatmap is None else list(value_layers(entry, run, heatmap))

    def _mask_layers(self, entry: Entry, run: str) -> list[Layer]:
        mask = self._mask(entry, run)
        return [] if mask is None else [mask_layer(entry, run, mask)]

    def png(self, entry: Entry, run: str, name: str, at: At) -> bytes:
        """Encode a tile of a map as PNG.

        Raises:
            NoMap: it does not exist.
            ValueError: its file is damaged.
            OSError: its file cannot be read.
        """
        makers = {"truth": self._truth_tile, "tissue": self._tissue_tile}
        if name.startswith(PREFIX):
            gray = self._artifacts.tile(entry, run, name, at)
        elif name in makers:
            gray = makers[name](entry, run, at)
        else:
            gray = self._value_tile(entry, run, name, at)
        out = io.BytesIO()
        Image.fromarray(gray).save(out, "PNG", compress_level=3)
        return out.getvalue()

    def values(self, entry: Entry, x: float, y: float) -> dict[str, float | None]:
        """Exact map values at a point, level-0 px; None where not estimated.

        Raises:
            ValueError: a file is damaged.
            OSError: a file cannot be read.
        """
        found: dict[str, float | None] = {}
        for run in entry.runs:
            heatmap = self._heatmap(entry, run)
            if heatmap is not None:
                found |= self._values_of(heatmap, entry, run, x, y)
        return found

    def truth_features(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Yield the ground truth as GeoJSON features, level-0 px.

        Raises:
            NoMap: it does not exist.
            SlideError: it cannot be read.
        """
        layer = self._truth_layer(entry)
        if layer is None:
            raise NoMap("this slide has no ground truth")
        return self._truths.features(entry, layer)

    def _truth_layer(self, entry: Entry) -> Layer | None:
        heatmap = None
        for run in entry.runs:
            with contextlib.suppress(ValueError):  # damaged: reported by its own layer
                heatmap = heatmap or self._heatmap(entry, run)
        mpp = None if heatmap is None else (heatmap.mpp_x, heatmap.mpp_y)
        return self._truths.layer(entry, mpp)

    def _truth_tile(self, entry: Entry, run: str, at: At) -> Gray:
        layer = self._truth_layer(entry)
        if layer is None or layer.run != run:
            raise NoMap("this slide has no ground truth")
        return self._truths.tile(entry, layer, at)

    def _tissue_tile(self, entry: Entry, run: str, at: At) -> Gray:
        mask = self._mask(entry, run)
        if mask is None:
            raise NoMap(f"map not found: {run}/tissue")
        return cut_tile(mask, at, of=f"{run}/tissue")

    def _value_tile(self, entry: Entry, run: str, name: str, at: At) -> Gray:
        heatmap = self._heatmap(entry, run)
        if heatmap is None or name not in heatmap.channels:
            raise NoMap(f"map not found: {run}/{name}")
        values = self._read(heatmap, entry, run, name, at)
        weight = self._read(heatmap, entry, run, WEIGHT, at)
        high = highest(entry, name) if name in VARIANCES else 1.0
        return to_gray(values, weight, low=0.0, high=high)

    def _values_of(
        self, heatmap: ValueTiles, entry: Entry, run: str, x: float, y: float
    ) -> Iterator[tuple[str, float | None]]:
        mpp_x, mpp_y = entry.mpp_of(run)
        col, row = int(x * mpp_x // heatmap.mpp_x), int(y * mpp_y // heatmap.mpp_y)
        there = 0 <= col < heatmap.width and 0 <= row < heatmap.height
        px = np.s_[row % TILE_PX, col % TILE_PX]
        at = At(0, col // TILE_PX, row // TILE_PX)
        covered = there and self._read(heatmap, entry, run, WEIGHT, at)[px] > 0
        for name in heatmap.channels:
            if label_of(name) is not None:
                plane = self._read(heatmap, entry, run, name, at) if covered else None
                value = float("nan") if plane is None else float(plane[px])
                yield f"{run}/{name}", None if math.isnan(value) else value

    def _read(
        self, heatmap: ValueTiles, entry: Entry, run: str, channel: str, at: At
    ) -> Map:
        def make() -> Map:
            tile = heatmap.read(channel, *at)
            if tile is None:
                raise NoMap(f"tile not found: {at.col}, {at.row} at level {at.level}")
            return tile

        version = entry.runs[run].version
        return self._tiles.make((version, channel, at), make)

    def _heatmap(self, entry: Entry, run: str) -> ValueTiles | None:
        """Heatmap of a slide in a run; None if missing; errors as :meth:`png`."""
        held = entry.runs.get(run)
        path = None if held is None else held.find_finished(RunDirectory.heatmap)
        if held is None or path is None:
            return None
        try:
            return self._files.make(held.version, lambda: open_value_tiles(path))
        except FileNotFoundError:
            return None

    def _mask(self, entry: Entry, run: str) -> MaskLevels | None:
        """Tissue mask of a slide in a run; None if missing; errors as :meth:`png`."""
        held = entry.runs.get(run)
        path = None if held is None else held.find(RunDirectory.mask)
        if held is None or path is None:
            return None
        with self._reading:
            try:
                version = held.version_of(path)
                return self._masks.make(
                    version, lambda: read_mask_levels(path, version=version)
                )
            except FileNotFoundError:
                return None
            except ValueError as e:
                if isinstance(e.__cause__, FileNotFoundError):
                    return None
                raise
