"""Ground truth of slides: layer, tiles and outlines."""

import contextlib
import hashlib
import math
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from digipath_ray.annotations import Annotation, PolygonAnnotation, Window
from digipath_ray.cohort.drawn import read_row
from digipath_ray.cohort.pseudonyms import hide_files
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.heatmap.file import TILE_PX, pyramid_levels
from digipath_ray.outcome.qupath import feature, outline
from digipath_ray.slide.info import Canvas, SlideError
from digipath_ray.storage.files import is_url
from digipath_ray.viewer.collection.snapshot import Entry
from digipath_ray.viewer.tiles.layers import LABELS, At, Gray, Layer, NoMap
from digipath_ray.viewer.tiles.lru import LruCache

TRUTH_MPP = 4.0
"""Um per px of the ground truth without a heatmap."""
OPEN_TRUTHS = 8
NO_RUN = "slide"
"""Run name of layers without a run."""
COLOR = (0, 120, 160)


@dataclass(frozen=True)
class Size:
    """Size of a slide, level-0 px, and its canvas if that is larger."""

    width: int
    height: int
    canvas: Canvas | None = None


class Truths:
    """Annotations of a collection's slides, read on demand."""

    def __init__(self, spec: AnnotationSpec) -> None:
        self._spec = spec
        self._kept: LruCache[Annotation] = LruCache(OPEN_TRUTHS, lambda _: 1)
        self._reading = threading.Lock()
        self._started = uuid.uuid4().hex

    def version(self, entry: Entry) -> str:
        """Version of the annotation; for one in a bucket constant until restart."""
        annotation, state = entry.row.annotation or "", self._started
        if not is_url(annotation):
            with contextlib.suppress(OSError, ValueError):
                found = Path(annotation).stat()
                state = f"{found.st_mtime_ns} {found.st_size}"
        return hashlib.sha256(f"{annotation} {state}".encode()).hexdigest()[:16]

    def layer(self, entry: Entry, mpp: tuple[float, float] | None) -> Layer | None:
        """Layer of a slide; None without ground truth or size.

        Args:
            entry: the slide.
            mpp: um per heatmap px in x and y, if any, so that both share the pixel
                grid.
        """
        if entry.row.annotation is None or entry.mpp is None:
            return None
        px = mpp or (TRUTH_MPP, TRUTH_MPP)
        scale = (px[0] / entry.mpp[0], px[1] / entry.mpp[1])
        window = Window.over(_size(entry), *scale)
        run = next(iter(entry.runs), NO_RUN)
        return Layer(
            id=f"{run}/truth",
            run=run,
            name="truth",
            label=LABELS["truth"],
            kind="mask",
            width=window.width,
            height=window.height,
            levels=pyramid_levels(window.width, window.height) + 1,
            l0_per_px_x=window.l0_per_px_x,
            l0_per_px_y=window.l0_per_px_y,
            version=self.version(entry),
        )

    def tile(self, entry: Entry, layer: Layer, at: At) -> Gray:
        """Tile of the layer, 255 where pixel centers are in tumor, else 0.

        Raises:
            NoMap: the tile does not exist.
            SlideError: the annotation cannot be read.
        """
        scale_x, scale_y = (
            layer.l0_per_px_x * 2**at.level,
            layer.l0_per_px_y * 2**at.level,
        )
        width = math.ceil(layer.width / 2**at.level)
        height = math.ceil(layer.height / 2**at.level)
        x, y = at.col * TILE_PX, at.row * TILE_PX
        if not at.level < layer.levels or x >= width or y >= height:
            raise NoMap(f"tile not found: {at.col}, {at.row} at level {at.level}")
        window = Window(
            x * scale_x,
            y * scale_y,
            min(TILE_PX, width - x),
            min(TILE_PX, height - y),
            l0_per_px_x=scale_x,
            l0_per_px_y=scale_y,
        )
        tumor = self._read(entry).tumor(window)
        return np.where(tumor, np.uint8(255), np.uint8(0))

    def features(self, entry: Entry, layer: Layer) -> Iterator[dict[str, Any]]:
        """Yield the outlines as GeoJSON features, level-0 px; masks are traced.

        Raises:
            SlideError: the annotation cannot be read.
        """
        truth, size = self._read(entry), _size(entry)
        if isinstance(truth, PolygonAnnotation):
            shape = truth.geometry
        else:
            scale = (layer.l0_per_px_x, layer.l0_per_px_y)
            shape = outline(
                truth.tumor(Window.over(size, *scale)),
                x=0,
                y=0,
                l0_per_px_x=scale[0],
                l0_per_px_y=scale[1],
                max_x=size.width,
                max_y=size.height,
            )
        for part in shapely.get_parts(shape):
            yield feature(
                part, class_name="Tumor", color=COLOR, name="", measurements={}
            )

    def _read(self, entry: Entry) -> Annotation:
        size = _size(entry)

        def read() -> Annotation:
            try:
                return read_row(entry.row, size, self._spec)
            except SlideError as e:
                raise SlideError(hide_files(str(e), entry.row), e.hint) from e

        with self._reading:
            return self._kept.make((self.version(entry), size), read)


def _size(entry: Entry) -> Size:
    return Size(*(entry.l0_size or (1, 1)), canvas=entry.canvas)
