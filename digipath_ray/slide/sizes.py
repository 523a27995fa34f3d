"""What a header claims, held against the file, before memory is taken for it.

OpenSlide aborts the whole process where a tile does not fit in memory, divides by zero
where it has no width, and shows tiles that are not there as glass.
"""

from pathlib import Path
from typing import Any

from digipath_ray.slide.info import SlideError
from digipath_ray.storage.dicom import read_frame_size
from digipath_ray.storage.series import files_of_series

MAX_SIDE_PX = 1 << 20
"""Of a level: 26 cm at 0.25 um/px; the largest glass slides are 15 cm."""
MAX_TILE_PX = 1 << 24
"""Of a stored tile, 4096 x 4096; scanners write 240 to 2048 px a side."""
BYTES_PER_BYTE = {
    "raw": 4,
    "none": 4,
    "packbits": 128,
    "jpeg": 1024,
    "zip": 1100,
    "deflate": 1100,
    "adobe_deflate": 1100,
    "lzw": 4096,
}
"""At most so many decoded bytes of a stored one, by compression: deflate reaches 1032,
a code of 12 bits in LZW stands for up to 4096, a JPEG needs a bit for 64 values; raw
samples may have 2 bits, or share their color."""
TILE_TAGS = frozenset((322, 323))
"""Width and length of tiles, in a TIFF's directory."""
DAMAGED = "the file is damaged: copy it again"


def check_pages(path: Path, pages: list[Any]) -> None:
    """Refuse a TIFF whose images or tiles are of absurd size, or have too few tiles.

    Args:
        path: the file.
        pages: tifffile's pages.

    Raises:
        SlideError: names the sizes.
    """
    for number, page in enumerate(pages):
        what = f"{path.name}: image {number} of its TIFF"
        try:
            width, height = int(page.imagewidth), int(page.imagelength)
        except (TypeError, ValueError) as e:
            raise SlideError(f"{what}: a size that is no number", DAMAGED) from e
        check_side(what, width, height)
        # Of no width they are strips to tifffile, but not to libtiff.
        if page.is_tiled or not TILE_TAGS.isdisjoint(page.tags.keys()):
            _check_tiles(what, page)


def check_frames(path: Path) -> None:
    """Refuse a DICOM slide whose frames are of absurd size, in any file of its series.

    Raises:
        SlideError: names the size.
    """
    for file in dict.fromkeys([path, *files_of_series(path)]):
        rows, columns = read_frame_size(file) or (1, 1)
        if min(rows, columns) < 1 or rows * columns > MAX_TILE_PX:
            raise SlideError(f"{file.name}: frames of {columns} x {rows} px", DAMAGED)


def check_side(what: str, width: int, height: int) -> None:
    """Refuse a level or an image without pixels, or larger than any slide.

    Raises:
        SlideError: names its size.
    """
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise SlideError(
            f"{what}: {width} x {height} px is no size of a slide", DAMAGED
        )


def _check_tiles(what: str, page: Any) -> None:
    try:
        tile_width, tile_height = int(page.tilewidth), int(page.tilelength)
    except (TypeError, ValueError) as e:
        raise SlideError(f"{what}: a size of tiles that is no number", DAMAGED) from e
    if min(tile_width, tile_height) < 1 or tile_width * tile_height > MAX_TILE_PX:
        raise SlideError(f"{what}: tiles of {tile_width} x {tile_height} px", DAMAGED)
    try:
        check_pieces(page)
    except OSError as e:
        raise SlideError(f"{what}: {e}", DAMAGED) from e


def check_decoded(compression: str, decoded: int, size: int) -> None:
    """Refuse an image that cannot be in a file of its length.

    Args:
        compression: of its pixels, as Pillow calls them, or tifffile in lower case;
            of others nothing is known.
        decoded: bytes of its pixels.
        size: bytes that are stored.

    Raises:
        OSError: more than what is stored can hold.
    """
    most = BYTES_PER_BYTE.get(compression.removeprefix("tiff_"))
    if most is not None and decoded > most * (size + 1024):
        raise OSError(
            f"its header names {decoded:,} bytes of pixels, which {size:,} stored "
            "bytes cannot hold"
        )


def check_piece(page: Any, index: int, stored: int) -> None:
    """Refuse a strip or tile of a TIFF that decodes to more than it can hold.

    Raises:
        OSError: names both.
    """
    height, width = page.chunks[:2]
    if not page.is_tiled:  # the last strip is shorter
        height = min(height, int(page.imagelength) - index * int(page.rowsperstrip))
    bits = height * width * int(page.samplesperpixel) * int(page.bitspersample)
    name = str(getattr(page.compression, "name", "")).lower()
    check_decoded(name, bits // 8, stored)


def check_pieces(page: Any) -> None:
    """Refuse an image of a TIFF that lists fewer tiles or strips than its size takes.

    Raises:
        OSError: names the numbers.
    """
    width, height = int(page.imagewidth), int(page.imagelength)
    piece_width, piece_height = width, min(int(page.rowsperstrip), height)
    if page.is_tiled:
        piece_width, piece_height = int(page.tilewidth), int(page.tilelength)
    if min(width, height, piece_width, piece_height) < 1:
        raise OSError(f"{width} x {height} px in pieces of {piece_width} px")
    needed = -(-width // piece_width) * -(-height // piece_height)
    listed = min(len(page.dataoffsets), len(page.databytecounts))
    if listed < needed:
        raise OSError(
            f"{width} x {height} px are {needed} tiles or strips, of which the file "
            f"lists {listed}"
        )
