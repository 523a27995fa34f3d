"""Binary pixels of a mask image, true where tumor.

A tiled TIFF is read window by window; other images are decoded once, in strips, into
one bit per pixel (50,000 x 50,000 px take 312 MB). Ours because neither tifffile, zarr
nor Pillow reads a mask this large in bounded memory.
"""

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from digipath_ray.slide.image import no_pixel_limit
from digipath_ray.slide.info import SlideError

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_ABOVE = 127.0
"""JPEG leaves noise near 0 and near 255: tumor is 128 and above."""
MAX_PIECE_PX = 3 << 30
"""Maximum pixels decoded at once: a strip, a tile or an image without either."""
MAX_KEPT_PX = 1 << 33
"""Maximum pixels of a mask without tiles: 1 GB of bits."""
DAMAGE = (OSError, ValueError, RuntimeError, struct.error, SyntaxError, EOFError)
"""Exceptions of the tifffile and Pillow decoders on damaged files."""


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
    is_tumor: Callable[[NDArray[Any]], Bools]

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
            raise _damaged(self.path, e) from e

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
        stored = _stored(self.path, file, page, index)
        out = np.zeros((page.tilelength, page.tilewidth), np.bool_)
        if stored:
            pixels = _decoded(self.path, page, stored, index)
            # tifffile crops tiles at the far edges of the image.
            out[: pixels.shape[0], : pixels.shape[1]] = self.is_tumor(pixels)
        return out


def open_bits(path: Path, above: float | None) -> Bits:
    """Open the pixels of a mask image.

    Args:
        path: a TIFF of any kind, or any image that Pillow opens. A pyramid is read at
            its finest level. Palette colors are looked up, alpha is ignored, and of
            several channels the maximum counts.
        above: threshold: tumor is above this value. Default 0; 127 for JPEGs and
            JPEG-compressed TIFFs.

    Raises:
        SlideError: not an image, damaged or too large.
    """
    with path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGIC
    return _open_tiff(path, above) if is_tiff else _open_image(path, above)


def _check_size(path: Path, width: int, height: int, *, limit: int, what: str) -> None:
    if width * height > limit:
        raise SlideError(
            f"{path.name}: {width} x {height} px {what}",
            "convert the mask to a tiled TIFF, e.g. vips tiffsave --tile "
            "--compression lzw",
        )


def _open_tiff(path: Path, above: float | None) -> Bits:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = _finest_page(tiff, path)
            width, height = int(page.imagewidth), int(page.imagelength)
            is_tumor = _tumor_test(page, above)
            if page.is_tiled:
                side = (int(page.tilewidth), int(page.tilelength))
                _check_size(path, *side, limit=MAX_PIECE_PX, what="in one tile")
                page.decode  # noqa: B018 - tifffile builds it lazily, while the file is open
                return TiledBits(path=path, page=page, is_tumor=is_tumor)
            _check_size(path, width, height, limit=MAX_KEPT_PX, what="without tiles")
            rows = min(int(page.rowsperstrip), height)
            _check_size(path, width, rows, limit=MAX_PIECE_PX, what="in one strip")
            return _packed(path, page, is_tumor)
    except SlideError:
        raise
    except (tifffile.TiffFileError, *DAMAGE) as e:
        raise _damaged(path, e) from e


def _damaged(path: Path, error: Exception) -> SlideError:
    return SlideError(
        f"{path.name}: cannot be read as a mask image: {error}",
        "the file is damaged, truncated or not an image: copy it again",
    )


def _finest_page(tiff: tifffile.TiffFile, path: Path) -> Any:
    """Largest image of a TIFF.

    Raises:
        SlideError: several images have that size, or its channels are stored
            separately.
    """
    pages = [p.aspage() for series in tiff.series for p in series.levels[0].pages if p]
    if not pages:
        raise SlideError(f"{path.name}: the TIFF contains no image", "copy it again")
    page = max(pages, key=lambda p: p.imagewidth * p.imagelength)
    size = (page.imagewidth, page.imagelength)
    if sum((p.imagewidth, p.imagelength) == size for p in pages) > 1:
        raise SlideError(
            f"{path.name}: several masks of {size[0]} x {size[1]} px in one file",
            "save the tumor mask to a separate file",
        )
    if page.planarconfig != 1 or page.imagedepth != 1:
        raise SlideError(
            f"{path.name}: channels or planes are stored separately",
            "save the mask with one channel",
        )
    return page


def _tumor_test(page: Any, above: float | None) -> Callable[[NDArray[Any]], Bools]:
    """Build the test for tumor on pixels [rows, cols, samples] of a TIFF page."""
    if above is None:
        above = JPEG_ABOVE if page.compression in (6, 7) else 0.0
    limit = above
    # Extra samples are alpha, which is visibility and not tumor.
    samples = int(page.samplesperpixel) - len(page.extrasamples)
    white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    # A TIFF palette has 16 bits a color; `above` is on the scale of 8.
    colors = np.max(page.colormap, axis=0) >> 8 if is_palette else None
    full = 2 ** int(page.bitspersample) - 1

    def is_tumor(pixels: NDArray[Any]) -> Bools:
        values = pixels[..., :samples].max(axis=-1)
        if colors is not None:
            values = colors[values]
        if white_is_zero:
            # In int64: `full` may not fit the image's own type, e.g. a signed one.
            return np.asarray(full - values.astype(np.int64) > limit)
        return np.asarray(values > limit)

    return is_tumor


def _stored(path: Path, file: Any, page: Any, index: int) -> bytes:
    """Encoded bytes of a strip or tile; empty for a sparse one, which reads as 0."""
    file.seek(page.dataoffsets[index])
    stored: bytes = file.read(page.databytecounts[index])
    if len(stored) < page.databytecounts[index]:
        raise _damaged(path, EOFError("the file is truncated"))
    return stored


def _decoded(path: Path, page: Any, stored: bytes, index: int) -> NDArray[Any]:
    """Decode a strip or tile, [rows, cols, samples]."""
    try:
        pixels, _, _ = page.decode(stored, index, jpegtables=page.jpegtables)
    except DAMAGE as e:
        raise _damaged(path, e) from e
    return np.asarray(pixels[0])


def _packed(
    path: Path, page: Any, is_tumor: Callable[[NDArray[Any]], Bools]
) -> PackedBits:
    """Decode a TIFF of strips, strip by strip."""
    width, height = int(page.imagewidth), int(page.imagelength)
    packed = np.zeros((height, -(-width // 8)), np.uint8)
    rows = min(int(page.rowsperstrip), height)
    with path.open("rb") as file:
        for index in range(len(page.dataoffsets)):
            stored = _stored(path, file, page, index)
            if stored:
                strip = is_tumor(_decoded(path, page, stored, index))
                # A sparse strip stores nothing: its zeros stay. The last is shorter.
                top = index * rows
                packed[top : top + len(strip)] = np.packbits(strip, axis=1)
    return PackedBits(packed=packed, width=width)


def _open_image(path: Path, above: float | None) -> Bits:
    try:
        with no_pixel_limit(), Image.open(path) as image:
            _check_size(path, *image.size, limit=MAX_PIECE_PX, what="without tiles")
            if above is None:
                above = JPEG_ABOVE if image.format in ("JPEG", "MPO") else 0.0
            ImageOps.exif_transpose(image, in_place=True)
            values = np.asarray(_values(image))
    except SlideError:
        raise
    except DAMAGE as e:
        raise _damaged(path, e) from e
    channels = values.reshape(*values.shape[:2], -1)
    packed = np.packbits(channels.max(axis=-1) > above, axis=1)
    return PackedBits(packed=packed, width=values.shape[1])


def _values(image: Image.Image) -> Image.Image:
    """Image of plain values: palette colors looked up, alpha dropped."""
    if image.mode in ("P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
        return image.convert("RGB")
    return image.convert("L") if image.mode in ("1", "LA", "La") else image


def _groups(indices: Indices, size: int) -> Iterator[tuple[int, slice]]:
    """Group ascending indices by tile: yields the tile and the slice of indices."""
    tiles = indices // size
    # The first index starts a tile too: no tile has the number -1.
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(tiles)]):
        yield int(tiles[start]), slice(start, stop)
