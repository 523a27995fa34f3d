"""Mask images that are TIFFs, read tile by tile or strip by strip."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from digipath_ray.annotations.maskbits import (
    DAMAGE,
    MAX_KEPT_PX,
    MAX_PIECE_PX,
    Bits,
    PackedBits,
    TiledBits,
    check_size,
    damaged,
    decode_piece,
    stored_piece,
)
from digipath_ray.annotations.maskcount import (
    Palette,
    Samples,
    ValueCount,
    plain_values,
)
from digipath_ray.annotations.maskvalues import Kind, Seen, Test
from digipath_ray.slide.info import SlideError
from digipath_ray.slide.sizes import check_pieces

JPEG_COMPRESSION = (6, 7)
GRAY_SHIFT = 8
"""A TIFF palette has 16 bits a color."""


TO_GRAY = "save the mask as one channel of 0 and 255"
MAX_BITS = 64
"""Of a sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TiffMask:
    """A TIFF of tiles or strips."""

    path: Path
    page: Any
    kind: Kind
    palette: Palette | None
    split: Callable[[NDArray[Any]], tuple[Samples, Samples | None]]

    @property
    def is_float(self) -> bool:
        """Whether it may hold what is not a number."""
        return np.dtype(self.page.dtype).kind == "f"

    def survey(self) -> Seen:
        """Count the values; pieces that are stored alike are decoded once."""
        page, alike = self.page, dict[Any, list[int]]()
        width, height = int(page.imagewidth), int(page.imagelength)
        across = -(-width // page.tilewidth) if page.is_tiled else 1
        with self.path.open("rb") as file:
            for index in range(len(page.dataoffsets)):
                stored = stored_piece(self.path, file, page, index)
                # Pieces at the right and lower edge are cropped.
                last = ((index + 1) % across == 0, index // across)
                at = (last[0], last[1] == (len(page.dataoffsets) - 1) // across)
                digest = blake2b(stored, digest_size=16).digest()
                if stored:
                    alike.setdefault((digest, *at), []).append(index)
            count = ValueCount(self.kind)
            for indices in alike.values():
                stored = stored_piece(self.path, file, page, indices[0])
                pixels = decode_piece(self.path, page, stored, indices[0])
                count.add(*self.split(pixels), times=len(indices))
        return count.seen(width * height, palette=self.palette)

    def bits(self, test: Test) -> Bits:
        """Its pixels, true where their value counts."""
        blank = bool(test(np.zeros(1, np.uint8))[0])

        def is_true(pixels: NDArray[Any]) -> NDArray[np.bool_]:
            return test(plain_values(self.split(pixels)[0]))

        if self.page.is_tiled:
            return TiledBits(
                path=self.path, page=self.page, is_true=is_true, blank=blank
            )
        return _packed(self.path, self.page, is_true, blank=blank)


def open_tiff(path: Path) -> TiffMask:
    """Open a TIFF of any kind, at its finest level.

    Raises:
        SlideError: no image, several of that size, damaged or too large.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = _finest_page(tiff, path)
            width, height = int(page.imagewidth), int(page.imagelength)
            page.decode  # noqa: B018 - tifffile builds it lazily, while the file is open
            check_pieces(page)
            if not 1 <= int(page.bitspersample) <= MAX_BITS:
                raise OSError(f"samples of {page.bitspersample} bits")
            if page.is_tiled:
                side = (int(page.tilewidth), int(page.tilelength))
                check_size(path, *side, limit=MAX_PIECE_PX, what="in one tile")
            else:
                check_size(path, width, height, limit=MAX_KEPT_PX, what="without tiles")
                rows = min(int(page.rowsperstrip), height)
                check_size(path, width, rows, limit=MAX_PIECE_PX, what="in one strip")
            return _layout(path, page)
    except SlideError:
        raise
    except DAMAGE as e:
        raise damaged(path, e) from e


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


def _layout(path: Path, page: Any) -> TiffMask:
    """How the samples of a TIFF page are values."""
    # Extra samples are alpha, which is visibility and not tumor.
    samples = int(page.samplesperpixel) - len(page.extrasamples)
    if samples < 1:
        raise SlideError(f"{path.name}: no channel beside transparency", TO_GRAY)
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    is_bool = int(page.bitspersample) == 1
    white_is_zero = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if is_bool and str(page.software).startswith("tifffile"):
        # tifffile writes True as 1 and calls that black, which nobody means.
        white_is_zero = False
    full = 2 ** int(page.bitspersample) - 1

    def split(pixels: NDArray[Any]) -> tuple[Samples, Samples | None]:
        values, rest = pixels[..., :samples], pixels[..., samples:]
        if white_is_zero:
            # In int64: `full` may not fit the image's own type, e.g. a signed one.
            values = full - values.astype(np.int64)
        return values, rest if rest.size else None

    kind: Kind = "bool" if is_bool else "index" if is_palette else "gray"
    if page.compression in JPEG_COMPRESSION:
        kind = "JPEG"
    return TiffMask(
        path=path,
        page=page,
        kind=kind,
        palette=(page.colormap.T >> GRAY_SHIFT).astype(np.uint8)
        if is_palette
        else None,
        split=split,
    )


def _packed(
    path: Path,
    page: Any,
    is_true: Callable[[NDArray[Any]], NDArray[np.bool_]],
    *,
    blank: bool,
) -> PackedBits:
    """Decode a TIFF of strips, strip by strip."""
    width, height = int(page.imagewidth), int(page.imagelength)
    # A sparse strip stores nothing, which reads as 0.
    packed = np.full((height, -(-width // 8)), 255 if blank else 0, np.uint8)
    rows = min(int(page.rowsperstrip), height)
    with path.open("rb") as file:
        for index in range(len(page.dataoffsets)):
            stored = stored_piece(path, file, page, index)
            if stored:
                strip = is_true(decode_piece(path, page, stored, index))
                top = index * rows  # the last strip is shorter
                packed[top : top + len(strip)] = np.packbits(strip, axis=1)
    return PackedBits(packed=packed, width=width)
