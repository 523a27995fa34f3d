"""Binary pixels of a mask image, true where tumor.

A tiled TIFF is read window by window; other images are decoded once, in strips, into
one bit per pixel (50,000 x 50,000 px take 312 MB). Ours because neither tifffile, zarr
nor Pillow reads a mask this large in bounded memory.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from digipath_ray.slide.image import DAMAGED
from digipath_ray.slide.info import SlideError
from digipath_ray.slide.jpeg import JPEG, check_jpeg
from digipath_ray.slide.sizes import check_piece

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PIECE_PX = 3 << 30
"""Maximum pixels decoded at once: a strip, a tile or an image without either."""
MAX_KEPT_PX = 1 << 33
"""Maximum pixels of a mask without tiles: 1 GB of bits."""
DAMAGE = (*DAMAGED, RuntimeError)
"""Exceptions of the tifffile, imagecodecs and Pillow decoders on damaged files."""


class Bits(Protocol):
    """Pixels of a mask, true where tumor."""

    @property
    def width(self) -> int:
        """Mask px."""

    @property
    def height(self) -> int:
        """Mask px."""

    def take(self, rows: Indices, cols: Indices) -> Bools:
        """Pixels at ascending indices rows x cols, bool [len(rows), len(cols)]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBits:
    """A mask in memory, one bit per pixel: uint8 [height, ceil(width / 8)]."""

    packed: NDArray[np.uint8]
    width: int

    @property
    def height(self) -> int:
        """Mask px."""
        return len(self.packed)

    def take(self, rows: Indices, cols: Indices) -> Bools:
        """Pixels at ascending indices rows x cols, bool [len(rows), len(cols)]."""
        if not len(rows) or not len(cols):
            return np.zeros((len(rows), len(cols)), np.bool_)
        # Only the bytes under the window are unpacked: eight times their memory.
        first, last = int(cols[0]) // 8, int(cols[-1]) // 8
        near = np.unpackbits(self.packed[rows, first : last + 1], axis=1)
        return near[:, cols - first * 8].astype(np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class TiledBits:
    """A tiled TIFF; the file is opened for every read."""

    path: Path
    page: Any
    is_true: Callable[[NDArray[Any]], Bools]
    blank: bool = False

    @property
    def width(self) -> int:
        """Mask px."""
        return int(self.page.imagewidth)

    @property
    def height(self) -> int:
        """Mask px."""
        return int(self.page.imagelength)

    def take(self, rows: Indices, cols: Indices) -> Bools:
        """Pixels at ascending indices rows x cols, bool [len(rows), len(cols)].

        Raises:
            SlideError: the file is damaged there.
        """
        try:
            with self.path.open("rb") as file:
                return self._take(file, rows, cols)
        except OSError as e:
            raise damaged(self.path, e) from e

    def _take(self, file: Any, rows: Indices, cols: Indices) -> Bools:
        out = np.zeros((len(rows), len(cols)), np.bool_)
        for row, in_rows in _groups(rows, int(self.page.tilelength)):
            for col, in_cols in _groups(cols, int(self.page.tilewidth)):
                tile = self._tile(file, row, col)
                # Indices within the tile; a coarse window skips some of its pixels.
                top = rows[in_rows] - row * self.page.tilelength
                left = cols[in_cols] - col * self.page.tilewidth
                out[in_rows, in_cols] = tile[np.ix_(top, left)]
        return out

    def _tile(self, file: Any, row: int, col: int) -> Bools:
        page = self.page
        # Tiles are numbered row by row, with a partial last column counted.
        index = row * -(-self.width // page.tilewidth) + col
        stored = stored_piece(self.path, file, page, index)
        # A sparse tile stores nothing, which reads as 0.
        out = np.full((page.tilelength, page.tilewidth), self.blank)
        if stored:
            pixels = decode_piece(self.path, page, stored, index)
            # Tiles at the far edges of the image are cropped.
            out[: pixels.shape[0], : pixels.shape[1]] = self.is_true(pixels)
        return out


def check_size(path: Path, width: int, height: int, *, limit: int, what: str) -> None:
    """Raise if a piece of a mask has more pixels than can be decoded at once."""
    if width * height > limit:
        raise SlideError(
            f"{path.name}: {width} x {height} px {what}",
            "convert the mask to a tiled TIFF, e.g. vips tiffsave --tile "
            "--compression lzw",
        )


def damaged(path: Path, error: Exception) -> SlideError:
    """Error for a mask whose file cannot be decoded."""
    return SlideError(
        f"{path.name}: cannot be read as a mask image: {error}",
        "the file is damaged, truncated or not an image: copy it again",
    )


def stored_piece(path: Path, file: Any, page: Any, index: int) -> bytes:
    """Encoded bytes of a strip or tile; empty for a sparse one, which reads as 0."""
    start, count = page.dataoffsets[index], page.databytecounts[index]
    if not (isinstance(start, int) and isinstance(count, int)):
        raise damaged(path, TypeError(f"{count} bytes at {start}"))
    # Before it is read: a count of 4 GB would take as much memory.
    if min(start, count) < 0 or start + count > file.seek(0, os.SEEK_END):
        raise damaged(path, EOFError("the file is truncated"))
    file.seek(start)
    stored: bytes = file.read(count)
    return stored


def decode_piece(path: Path, page: Any, stored: bytes, index: int) -> NDArray[Any]:
    """Decode a strip or tile, [rows, cols, samples]."""
    try:
        check_piece(page, index, len(stored))
        if page.compression == JPEG:
            check_jpeg(stored, page.jpegtables)
        pixels, _, _ = page.decode(stored, index, jpegtables=page.jpegtables)
    except DAMAGE as e:
        raise damaged(path, e) from e
    if not page.is_tiled:
        return np.asarray(pixels[0])
    # Tiles at the right and lower edge are padded beyond the image.
    row, col = divmod(index, -(-int(page.imagewidth) // int(page.tilewidth)))
    height = int(page.imagelength) - row * int(page.tilelength)
    width = int(page.imagewidth) - col * int(page.tilewidth)
    return np.asarray(pixels[0, :height, :width])


def _groups(indices: Indices, size: int) -> Iterator[tuple[int, slice]]:
    """Group ascending indices by tile: yields the tile and the slice of indices."""
    tiles = indices // size
    # The first index starts a tile too: no tile has the number -1.
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(tiles)]):
        yield int(tiles[start]), slice(start, stop)
