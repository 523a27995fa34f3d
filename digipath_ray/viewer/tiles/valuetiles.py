"""Random access to the tiles of a heatmap's OME-TIFF, on disk or in a bucket.

Opening reads only the TIFF directories; then a tile is one small read.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile

from digipath_ray.heatmap.file import (
    TILE_PX,
    WEIGHT,
    check_stored,
    explained,
    read_header,
)
from digipath_ray.heatmap.heatmap import Map
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url

BLOCK_BYTES = 1 << 16
"""Block size of reads from a bucket while parsing the directories."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """Tile index of one channel at one level.

    Attributes:
        page: TIFF page, to decode tiles.
        offsets, counts: byte range of each tile, row by row.
        width, height: px.
    """

    page: Any
    offsets: Sequence[int]
    counts: Sequence[int]
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueTiles:
    """A heatmap file with random access to tiles.

    Attributes:
        path: path of the file or object.
        channels: names, without the weight.
        mpp_x, mpp_y: um per px of the finest level.
        levels: planes of each level, finest first; the weight is the last plane.
    """

    path: Path
    channels: tuple[str, ...]
    mpp_x: float
    mpp_y: float
    levels: tuple[tuple[Plane, ...], ...]

    @property
    def width(self) -> int:
        """Width, heatmap px."""
        return self.levels[0][0].width

    @property
    def height(self) -> int:
        """Height, heatmap px."""
        return self.levels[0][0].height

    def read(self, channel: str, level: int, col: int, row: int) -> Map | None:
        """Read a tile of at most 256 x 256 px, [height, width]; None if missing.

        Raises:
            ValueError: the file is damaged.
            OSError: the file cannot be read.
        """
        if not 0 <= level < len(self.levels):
            return None
        index = -1 if channel == WEIGHT else self.channels.index(channel)
        plane = self.levels[level][index]
        across = -(-plane.width // TILE_PX)
        if not (0 <= col < across and 0 <= row < -(-plane.height // TILE_PX)):
            return None
        number = row * across + col
        data = read_range(self.path, plane.offsets[number], plane.counts[number])
        with explained(self.path):
            decoded, _, _ = plane.page.decode(data, number)
        tile = np.zeros((TILE_PX, TILE_PX), np.float32)
        # None: a sparse tile, which stores nothing and reads as 0.
        if decoded is not None:
            # Without the axes of depth and samples, both 1.
            inside = np.asarray(decoded).reshape(decoded.shape[-3:-1])
            tile[: inside.shape[0], : inside.shape[1]] = inside
        # Tiles are stored whole; the page wants only what lies on the map.
        rows = min(TILE_PX, plane.height - row * TILE_PX)
        cols = min(TILE_PX, plane.width - col * TILE_PX)
        return tile[:rows, :cols]


def read_range(path: Path, start: int, count: int) -> bytes:
    """Read a byte range of a file or object.

    Raises:
        OSError: it cannot be read.
    """
    if is_url(path):
        where: Any = path
        return bytes(where.fs.cat_file(where.path, start=start, end=start + count))
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def open_value_tiles(path: Path) -> ValueTiles:
    """Open a file of :func:`digipath_ray.heatmap.file.write_heatmap`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a heatmap OME-TIFF.
    """
    with explained(path), _open(path) as file, tifffile.TiffFile(file) as tiff:
        text = tiff.ome_metadata
        series = [] if text is None else tiff.series[0].levels
        for level in series:
            check_stored(level, tiff.filehandle.size)
        levels = tuple(tuple(_plane(page) for page in level.pages) for level in series)
    header = read_header(path, text)
    planes = len(header.channels) + 1
    if {len(level) for level in levels} != {planes}:
        raise ValueError(f"{path}: damaged: not {planes} channels in every level")
    keys = [plane.page for level in levels for plane in level]
    tiled = all((k.tilewidth, k.tilelength) == (TILE_PX, TILE_PX) for k in keys)
    if not (tiled and all(key.dtype == np.float32 for key in keys)):
        raise ValueError(f"{path}: not a heatmap: no float32 in tiles of {TILE_PX} px")
    return ValueTiles(
        path=path,
        channels=header.channels,
        mpp_x=header.mpp_x,
        mpp_y=header.mpp_y,
        levels=levels,
    )


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, ObjectBlocks(path)) if is_url(path) else path.open("rb")


class ObjectBlocks(io.RawIOBase):
    """Seekable reader of an object; each block is fetched once."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, bucket.head(path).size
        self._blocks: dict[int, bytes] = {}
        self._at = 0

    def readable(self) -> bool:
        """Always True."""
        return True

    def seekable(self) -> bool:
        """Always True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek to a byte; returns the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = start[whence] + offset
        return self._at

    def tell(self) -> int:
        """Current position."""
        return self._at

    def readinto(self, into: Any) -> int:
        """Read into a buffer; returns the number of bytes."""
        view = memoryview(into).cast("B")
        stop = min(self._at + len(view), self._size)
        done = 0
        while self._at < stop:
            number, first = divmod(self._at, BLOCK_BYTES)
            part = self._block(number)[first : first + stop - self._at]
            view[done : done + len(part)] = part
            done, self._at = done + len(part), self._at + len(part)
        return done

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            count = min(BLOCK_BYTES, self._size - start)
            self._blocks[number] = read_range(self._path, start, count)
        return self._blocks[number]


def _plane(page: Any) -> Plane:
    key = page.keyframe
    return Plane(
        page=key,
        offsets=tuple(page.dataoffsets),
        counts=tuple(page.databytecounts),
        width=int(key.imagewidth),
        height=int(key.imagelength),
    )
