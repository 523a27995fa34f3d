"""The JPEG tiles of a TIFF, decoded without OpenSlide: several times as fast.

OpenSlide draws each tile onto a transparent canvas, which takes most of its time. The
pixels here are OpenSlide's to the bit: the same library decodes them, and a tile of
each level is compared with OpenSlide's before any is used. What is not plain (an odd
header, a missing tile) is left to OpenSlide. A damaged tile is refused; of some,
OpenSlide shows what is left without a word.
"""

import functools
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from digipath_ray.geometry import lattice
from digipath_ray.slide.check import GENERIC, UNREADABLE, pages_of_levels
from digipath_ray.slide.info import Pixels, ReadLevel, SlideInfo
from digipath_ray.slide.jpeg import END, JPEG, START, decode_jpeg
from digipath_ray.slide.unreadable import explain

PLAIN_FORMATS = (GENERIC, "aperio")
"""OpenSlide's names of the formats whose levels are images of one TIFF."""
RGB, YCBCR = 2, 6
"""TIFF photometric of color JPEG."""
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
"""JPEG marker, but for its last byte: 0 for RGB, 1 for YCbCr."""
JFIF = b"\xff\xe0"
"""JPEG marker of the usual header."""
MAX_FILES = 64
"""Files whose headers this process remembers."""
MOST_COMPARED = 3
"""Tiles of a level that are tried, the largest first, till one is not damaged."""


class NotPlain(Exception):  # noqa: N818 - named after the condition, not "Error"
    """A tile that is left to OpenSlide."""


@dataclass(frozen=True, kw_only=True)
class JpegLevel:
    """Where the tiles of a level are in its file, row by row; sizes in px.

    Attributes:
        width, height: of the level.
        tile_width, tile_height: of a tile; those at the far edges overhang.
        offsets, sizes: int64 [tiles], bytes.
        rgb: its components are red, green and blue, not YCbCr.
        header: what goes before a tile's data: the tables that all tiles share, and
            which components they have.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    rgb: bool
    header: bytes

    @classmethod
    def of_page(cls, page: Any) -> Self | None:
        """The level of a TIFF's image; None if its tiles are not plain JPEG."""
        plain = (
            page.is_tiled
            and page.compression == JPEG
            and page.photometric in (RGB, YCBCR)
            and page.samplesperpixel == 3
            and page.bitspersample == 8
            and page.planarconfig == 1
            and page.imagedepth == 1
        )
        if not plain:
            return None
        tables = bytes(page.jpegtables or START + END)
        if not (tables.startswith(START) and tables.endswith(END)):
            return None
        rgb = page.photometric == RGB
        adobe = ADOBE + (b"\0" if rgb else b"\1")
        level = cls(
            width=page.imagewidth,
            height=page.imagelength,
            tile_width=page.tilewidth,
            tile_height=page.tilelength,
            offsets=np.array(page.dataoffsets, np.int64),
            sizes=np.array(page.databytecounts, np.int64),
            rgb=rgb,
            header=START + adobe + tables[len(START) : -len(END)],
        )
        tiles = level.columns * -(-level.height // level.tile_height)
        complete = len(level.offsets) == len(level.sizes) == tiles
        return level if complete else None

    @property
    def columns(self) -> int:
        """Tiles across the level."""
        return -(-self.width // self.tile_width)

    def number(self, x: int, y: int) -> int:
        """The tile that begins at a position."""
        return y // self.tile_height * self.columns + x // self.tile_width

    def box(self, number: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of what a tile shows of the level."""
        row, column = divmod(number, self.columns)
        x, y = column * self.tile_width, row * self.tile_height
        width = min(self.tile_width, self.width - x)
        return x, y, width, min(self.tile_height, self.height - y)


class JpegTiles:
    """Reads the levels of an open file tile by tile; several threads may."""

    def __init__(
        self,
        path: Path,
        levels: dict[int, JpegLevel],
        openslide: ReadLevel,
        cache_bytes: int,
    ) -> None:
        """Open the file.

        Args:
            path: the TIFF.
            levels: those of OpenSlide's levels that have plain tiles.
            openslide: reads what is not plain.
            cache_bytes: of decoded tiles that are kept.
        """
        self._levels = dict(levels)
        self._openslide = openslide
        self._compared: set[int] = set()
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cache_bytes, self._cached_bytes = cache_bytes, 0
        self._path = path
        self._file = path.open("rb") if levels else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._cache.clear()

    def knows(self, level: int) -> bool:
        """Whether a level has plain tiles, and they show what OpenSlide shows.

        One tile is compared, once per open file: a large one, which has much detail.
        """
        found = self._levels.get(level)
        if found is None or level in self._compared:
            return found is not None
        if self._shows_the_same(level, found):
            self._compared.add(level)
            return True
        self._levels.pop(level, None)
        return False

    def _shows_the_same(self, level: int, found: JpegLevel) -> bool:
        for number in np.argsort(-found.sizes)[:MOST_COMPARED].tolist():
            x, y, width, height = found.box(number)
            try:
                own = self._decode(found, number)[:height, :width]
                theirs = self._openslide(level, x, y, width, height)
            except (NotPlain, ValueError):
                continue
            return np.array_equal(own, theirs)
        return False

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB [height, width, 3] of a rectangle in px of, and inside, a known level.

        Raises:
            SlideError: a tile is damaged.
        """
        found = self._levels[level]
        out: Pixels = np.empty((height, width, 3), np.uint8)
        for top, y0, y1 in lattice(y, y + height, found.tile_height):
            for left, x0, x1 in lattice(x, x + width, found.tile_width):
                number = found.number(left, top)
                whole = (x1 - x0, y1 - y0) == found.box(number)[2:]
                tile = self._tile(level, number, keep=not whole)
                part = tile[y0 - top : y1 - top, x0 - left : x1 - left]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = part
        return out

    def _tile(self, level: int, number: int, *, keep: bool) -> Pixels:
        """A tile; kept if it is read in part, as its other parts will be asked for."""
        key = (level, number)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        found = self._levels[level]
        try:
            tile = self._decode(found, number)
        except NotPlain:
            tile = self._openslide(level, *found.box(number))
        except ValueError as e:
            x, y, width, height = found.box(number)
            self._openslide(level, x, y, width, height)  # it may know more
            raise explain(self._path, f"read at ({x}, {y}) of level {level}", e) from e
        if keep:
            with self._lock:
                self._keep(key, tile)
        return tile

    def _keep(self, key: tuple[int, int], tile: Pixels) -> None:
        if key not in self._cache:
            self._cached_bytes += tile.nbytes
        self._cache[key] = tile
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.nbytes

    def _decode(self, level: JpegLevel, number: int) -> Pixels:
        """Decode a tile, [tile_height, tile_width, 3].

        Raises:
            NotPlain: it is not there, or differs from the others in kind.
            ValueError: its data is damaged.
        """
        assert self._file is not None
        size = int(level.sizes[number])
        with self._lock:
            # Before it is read: a size of 4 GB would take as much memory.
            if level.offsets[number] + size > self._file.seek(0, os.SEEK_END):
                raise NotPlain
            self._file.seek(int(level.offsets[number]))
            data = self._file.read(size)
        if not data.startswith(START):
            raise NotPlain
        if level.rgb and data.startswith(START + JFIF):  # which says YCbCr
            raise NotPlain
        tile = decode_jpeg(level.header + data[len(START) :])
        if tile.shape != (level.tile_height, level.tile_width, 3):
            raise NotPlain
        return tile


def find_jpeg_levels(path: Path, info: SlideInfo) -> dict[int, JpegLevel]:
    """The slide's levels that are plain JPEG tiles of a TIFF."""
    if info.format not in PLAIN_FORMATS:
        return {}
    stat = path.stat()
    return _find(path, info.level_dimensions, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=MAX_FILES)
def _find(
    path: Path, sizes: tuple[tuple[int, int], ...], state: tuple[int, int]
) -> dict[int, JpegLevel]:
    """Find them in a file of this ``state``: readers open it many times."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = pages_of_levels(tiff, sizes)
            found = {number: JpegLevel.of_page(p) for number, p in pages.items()}
    except UNREADABLE:
        return {}
    return {number: level for number, level in found.items() if level is not None}
