"""Deflate tiles that are whole, or refused.

A stream ends with an Adler-32 of what it holds. libtiff, and so OpenSlide and Pillow,
stop when a tile is full, and never come to it.
"""

import functools
import threading
from pathlib import Path
from typing import Any, NamedTuple

import tifffile

from digipath_ray.geometry import lattice
from digipath_ray.slide.check import GENERIC, UNREADABLE, pages_of_levels
from digipath_ray.slide.info import SlideError, SlideInfo
from digipath_ray.slide.png import check_deflate

DEFLATE = (8, 32946)
"""TIFF's numbers of the compression."""
FORMATS = (GENERIC, "aperio", "leica")
"""OpenSlide's names of the formats that may have such tiles."""


class Tiles(NamedTuple):
    """Where the tiles of a level are in a file."""

    width: int
    height: int
    columns: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class DeflateTiles:
    """Checks the tiles under what is read, each once per open file; thread-safe."""

    def __init__(self, path: Path, levels: dict[int, Tiles]) -> None:
        self._path, self._levels = path, levels
        self._whole: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Check the tiles under a rectangle, px of the level.

        Raises:
            SlideError: one is damaged.
        """
        tiles = self._levels.get(level)
        if tiles is None:
            return
        with self._path.open("rb") as file:
            for top, _, _ in lattice(y, y + height, tiles.height):
                for left, _, _ in lattice(x, x + width, tiles.width):
                    row, column = top // tiles.height, left // tiles.width
                    number = row * tiles.columns + column
                    if (level, number) in self._whole or not tiles.sizes[number]:
                        continue
                    file.seek(tiles.offsets[number])
                    try:
                        check_deflate(file.read(tiles.sizes[number]))
                    except OSError as e:
                        where = f"({left}, {top}) of level {level}"
                        raise SlideError(
                            f"{self._path.name}: cannot be read at {where}: {e}",
                            "the file is damaged or truncated: copy it again",
                        ) from e
                    with self._lock:
                        self._whole.add((level, number))


def find_deflate_levels(path: Path, info: SlideInfo) -> dict[int, Tiles]:
    """The slide's levels that are deflate tiles of a TIFF."""
    if info.format not in FORMATS:
        return {}
    stat = path.stat()
    return _find(path, info.level_dimensions, (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _find(
    path: Path, sizes: tuple[tuple[int, int], ...], state: tuple[int, int]
) -> dict[int, Tiles]:
    """Find them in a file of this ``state``: readers open it many times."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = pages_of_levels(tiff, sizes)
            return {n: _tiles(page) for n, page in pages.items() if _is_deflate(page)}
    except UNREADABLE:
        return {}


def _is_deflate(page: Any) -> bool:
    return page.is_tiled and int(page.compression) in DEFLATE and page.planarconfig == 1


def _tiles(page: Any) -> Tiles:
    return Tiles(
        width=int(page.tilewidth),
        height=int(page.tilelength),
        columns=-(-int(page.imagewidth) // int(page.tilewidth)),
        offsets=tuple(page.dataoffsets),
        sizes=tuple(page.databytecounts),
    )
