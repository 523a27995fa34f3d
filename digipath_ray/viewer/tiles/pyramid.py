"""DeepZoom tiles of an open slide.

Nothing is tiled in advance: a tile is read from the next finer level of the file.
"""

import contextlib
import io
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from digipath_ray.slide.open import Pixels, Slide, SlideError, SlideInfo

TILE_PX, OVERLAP = 512, 0
"""No overlap, matching the storage: a tile decodes one stored tile of 256 or 512 px,
where an overlap would also decode its neighbors."""
QUALITY = 85
"""JPEG quality."""
STRIP_PX = 4 << 20
"""Level px decoded at once for a tile much coarser than the coarsest level."""
MOST_PX = 1 << 28
"""Maximum level px read per tile: an overview of a slide without pyramid would decode
all of it."""
HANDLE_BYTES = 24 << 20
"""Tile cache of an open slide."""


class NoTile(ValueError):  # noqa: N818 - named after the condition, not "Error"
    """The pyramid has no such tile."""


class Levels:
    """Adapter of a slide for DeepZoomGenerator."""

    def __init__(self, info: SlideInfo) -> None:
        self.properties: dict[str, str] = {}
        self.level_dimensions = info.level_dimensions
        self.dimensions = (info.width, info.height)
        self.level_downsamples = info.level_downsamples

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Coarsest level that is finer, or up to 1 % coarser: 4.0003 counts as 4."""
        fine = [
            i for i, d in enumerate(self.level_downsamples) if d <= downsample * 1.01
        ]
        return max(fine, key=lambda i: self.level_downsamples[i], default=0)


class TiledSlide:
    """An open slide and its tiles."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.zoom: Any = DeepZoomGenerator(Levels(slide.info), TILE_PX, OVERLAP)
        self._first = threading.Lock()
        self._read = False

    @property
    def nbytes(self) -> int:
        """Approximate memory use, bytes: for a plain image all its pixels."""
        info = self.slide.info
        alone = len(info.level_dimensions) == 1
        return max(HANDLE_BYTES, info.width * info.height * 3 if alone else 0)

    def tile(self, level: int, col: int, row: int) -> Pixels:
        """RGB [height, width, 3] of a DeepZoom tile.

        Raises:
            NoTile: the tile does not exist.
            SlideError: the file is damaged there, or has no level coarse enough.
        """
        try:
            at, lv, size = self.zoom.get_tile_coordinates(level, (col, row))
            z_size = self.zoom.get_tile_dimensions(level, (col, row))
        except ValueError as e:
            raise NoTile(f"tile not found: {col}, {row} at level {level}") from e
        d = self.slide.info.level_downsamples[lv]
        box = (round(at[0] / d), round(at[1] / d), *size)
        with contextlib.nullcontext() if self._read else self._first:
            pixels = read_shrunk(self.slide, lv, box, z_size)
            self._read = True  # the first read decodes a plain image entirely: once
        return pixels


def max_level(width: int, height: int) -> int:
    """DeepZoom level of full resolution."""
    return math.ceil(math.log2(max(width, height, 1)))


def read_shrunk(
    slide: Slide,
    level: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> Pixels:
    """Read part of a level shrunk to ``size``, in strips if it is much larger.

    Args:
        slide: open slide.
        level: level to read.
        box: left, top, width, height, level px.
        size: width and height of the result.

    Raises:
        SlideError: the file is damaged there, or too many px would have to be read.
    """
    x, y, lv_width, lv_height = box
    if lv_width * lv_height > MOST_PX:
        raise SlideError(
            f"{Path(slide.info.path).name}: no level is coarse enough to show this",
            "convert it to a tiled pyramid, e.g. vips tiffsave --tile --pyramid",
        )
    if (lv_width, lv_height) == tuple(size):
        return slide.read_level(level, x, y, lv_width, lv_height)
    width, height = size
    scale = lv_height / height
    rows = max(1, int(STRIP_PX / lv_width / scale))
    out: Pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        stop = min(top + rows, height)
        y0, y1 = top * scale, stop * scale
        first = int(y0)
        last = min(lv_height, math.ceil(y1))
        strip = slide.read_level(level, x, y + first, lv_width, last - first)
        image = Image.fromarray(strip)
        part = (0.0, y0 - first, float(lv_width), min(y1, lv_height) - first)
        kind = Image.Resampling.BOX if scale > 4 else Image.Resampling.LANCZOS
        shrunk = image.resize((width, stop - top), kind, box=part)
        out[top:stop] = np.asarray(shrunk)
    return out


def encode_jpeg(pixels: Pixels) -> bytes:
    """Encode RGB as JPEG without chroma subsampling, because H&E depends on color."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()
