"""An open slide as a picture of tiles: DeepZoom's geometry, the slide's own pixels.

Nothing is tiled beforehand: a tile is read from the level of the file that is just
finer, whatever the slide's size.
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
"""As slides are stored: a tile of 256 or 512 px is decoded for one tile here, where an
overlap would need its neighbors too."""
QUALITY = 85
"""Of JPEG."""
STRIP_PX = 4 << 20
"""Level px decoded at once for a tile that is far coarser than the coarsest level."""
MOST_PX = 1 << 28
"""Level px that one tile may take to read: a slide without a pyramid would be decoded
whole for its overview."""
HANDLE_BYTES = 24 << 20
"""Decoded pixels that an open slide keeps."""


class NoTile(ValueError):  # noqa: N818 - says what is, not "Error"
    """The pyramid has no such tile."""


class Levels:
    """A slide as DeepZoomGenerator asks for it."""

    def __init__(self, info: SlideInfo) -> None:
        self.properties: dict[str, str] = {}
        self.level_dimensions = info.level_dimensions
        self.dimensions = (info.width, info.height)
        self.level_downsamples = info.level_downsamples

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level that is finer, or by 1 % coarser: 4.0003 will do for 4."""
        fine = [
            i for i, d in enumerate(self.level_downsamples) if d <= downsample * 1.01
        ]
        return max(fine, key=lambda i: self.level_downsamples[i], default=0)


class Picture:
    """An open slide, and its tiles."""

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.zoom: Any = DeepZoomGenerator(Levels(slide.info), TILE_PX, OVERLAP)
        self._first = threading.Lock()
        self._read = False

    @property
    def nbytes(self) -> int:
        """About what it keeps in memory: of a plain image all its pixels."""
        info = self.slide.info
        alone = len(info.level_dimensions) == 1
        return max(HANDLE_BYTES, info.width * info.height * 3 if alone else 0)

    def tile(self, level: int, col: int, row: int) -> Pixels:
        """RGB [height, width, 3] of a DeepZoom tile.

        Raises:
            NoTile: there is none.
            SlideError: the file is damaged there, or has no level coarse enough.
        """
        try:
            at, lv, size = self.zoom.get_tile_coordinates(level, (col, row))
            z_size = self.zoom.get_tile_dimensions(level, (col, row))
        except ValueError as e:
            raise NoTile(f"no tile {col}, {row} at level {level}") from e
        d = self.slide.info.level_downsamples[lv]
        box = (round(at[0] / d), round(at[1] / d), *size)
        with contextlib.nullcontext() if self._read else self._first:
            pixels = read_shrunk(self.slide, lv, box, z_size)
            self._read = True  # a plain image is decoded whole at the first: once
        return pixels


def max_level(width: int, height: int) -> int:
    """DeepZoom's number of a slide's finest level, at which it has all its px."""
    return math.ceil(math.log2(max(width, height, 1)))


def read_shrunk(
    slide: Slide,
    level: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> Pixels:
    """Part of a level as an image of ``size``, decoded in strips if it is much larger.

    Args:
        slide: open.
        level: to read.
        box: left, top, width, height, level px.
        size: width and height of what comes back.

    Raises:
        SlideError: the file is damaged there, or too much would have to be read.
    """
    x, y, lv_width, lv_height = box
    if lv_width * lv_height > MOST_PX:
        raise SlideError(
            f"{Path(slide.info.path).name}: has no level coarse enough to show this",
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
    """RGB as JPEG, its colors as fine as its light: H&E is told by color."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY, subsampling=0)
    return out.getvalue()
