"""Plain images (JPEG, PNG, TIFF, BMP) as single-level slides, held in memory."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

from digipath_ray.slide.check import UNREADABLE
from digipath_ray.slide.info import Pixels, SlideError, on_white, positive_number
from digipath_ray.slide.jpeg import check_jpeg
from digipath_ray.slide.png import check_deflate, check_png
from digipath_ray.slide.sizes import check_decoded
from digipath_ray.storage.files import read_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
MAX_IMAGE_PX = 1 << 30
"""At most 3 GB of pixels, plus 4 GB more while decoding."""

MAX_PICTURE_PX = 1 << 26
"""Of a run's thumbnails, whose longer side has some 2000 px."""

READABLE_MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "YCbCr",
)
EXIF_ORIENTATION = 274
TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION, TIFF_RESOLUTION_UNIT = 282, 283, 296
UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0}
STRIP_ROWS = 1024


DAMAGED = (*UNREADABLE, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow's decoders raise on damaged files, by format, and tifffile."""


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Header of an image: upright size in px, and um per px if stated."""

    format: str
    width: int
    height: int
    mpp_x: float | None
    mpp_y: float | None


def read_header(path: Path) -> ImageHeader:
    """Read the header of a plain image.

    Raises:
        SlideError: not an image, too large, or not 8-bit color.
    """
    with _opened(path) as image:
        width, height = _upright_size(image)
        if width * height > MAX_IMAGE_PX:
            raise SlideError(
                f"{path.name}: {width}x{height} px without a pyramid",
                "convert it to a tiled pyramid, e.g. vips tiffsave --tile --pyramid",
            )
        _check_pixels(path, image)
        check_claims(image)
        mpp_x, mpp_y = _tiff_mpp(image)
        return ImageHeader(
            format=str(image.format),
            width=width,
            height=height,
            mpp_x=mpp_x,
            mpp_y=mpp_y,
        )


def decode(path: Path) -> Pixels:
    """Decode a plain image, RGB [height, width, 3], upright, on white.

    Raises:
        SlideError: the file is damaged.
    """
    with _opened(path) as image:
        check_whole(image)
        if _orientation(image) != 1:
            ImageOps.exif_transpose(image, in_place=True)
        width, height = image.size
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            out[top:bottom] = _rgb(image.crop((0, top, width, bottom)))
        return out


_LIMIT_LOCK = threading.Lock()
_limits: list[int | None] = []
"""Pillow's own limit, once per block of :func:`no_pixel_limit` that is open."""


@contextmanager
def no_pixel_limit() -> Iterator[None]:
    """Disable Pillow's global size limit; the caller enforces its own.

    The lock guards only the switch, so threads still decode concurrently; the last
    one to leave restores the limit.
    """
    with _LIMIT_LOCK:
        _limits.append(_limits[0] if _limits else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _LIMIT_LOCK:
            limit = _limits.pop()
            if not _limits:
                Image.MAX_IMAGE_PIXELS = limit


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image without decoding; MAX_IMAGE_PX is the only size limit."""
    try:
        with no_pixel_limit(), Image.open(path) as image:
            yield image
    except SlideError:
        raise
    except DAMAGED as e:
        raise SlideError(
            f"{path.name}: cannot decode the image: {e}",
            "the file is damaged, truncated or not an image: copy it again",
        ) from e


def check_whole(image: Image.Image) -> None:
    """Refuse damaged JPEG, PNG and deflate, alone or in a TIFF; Pillow shows them.

    Args:
        image: any image, not yet decoded.

    Raises:
        OSError: its data is damaged.
    """
    check_claims(image)
    file: Any = image.fp  # type: ignore[attr-defined]
    start = file.tell()
    file.seek(0)
    if image.format in ("JPEG", "MPO"):
        check_jpeg(file.read())
    elif image.format == "PNG":
        check_png(file)
    elif image.format == "TIFF":
        page = tifffile.TiffFile(file).pages.first
        compression = str(image.info.get("compression")).removeprefix("tiff_")
        pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
        whole = file.seek(0, io.SEEK_END)
        for offset, size in pieces:
            if offset + size > whole:
                raise OSError("cut short: its pixels go on beyond its end")
            file.seek(offset)
            if compression == "jpeg":
                check_jpeg(file.read(size), page.jpegtables)
            elif size and compression in ("adobe_deflate", "deflate"):
                check_deflate(file.read(size))
    file.seek(start)


def check_claims(image: Image.Image) -> None:
    """Refuse an image whose size cannot be in a file of its length.

    Raises:
        OSError: names both.
    """
    file: Any = image.fp  # type: ignore[attr-defined]
    start = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(start)
    stored = image.info.get("compression", "")
    compression = {
        "JPEG": "jpeg",
        "MPO": "jpeg",
        "PNG": "zip",
        "TIFF": str(stored),
        "BMP": "raw" if stored == 0 else "",
    }.get(str(image.format), "")
    values = image.width * image.height * len(image.getbands())
    check_decoded(compression, values // 8 if image.mode == "1" else values, size)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if upright; Pillow applies it to TIFFs itself."""
    # For a PNG without EXIF in its header, getexif would decode all pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    return int(image.getexif().get(EXIF_ORIENTATION, 1))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _check_pixels(path: Path, image: Image.Image) -> None:
    # Pillow drops the low bytes of 16-bit color, which turns 12-bit pixels black.
    tiles: list[Any] = getattr(image, "tile", [])
    deep = any("16" in str(_raw_mode(tile)) for tile in tiles)
    if image.mode in READABLE_MODES and not deep:
        return
    kind = "16-bit" if deep else image.mode
    raise SlideError(
        f"{path.name}: {kind} pixels, not 8-bit color", "convert it to 8-bit RGB"
    )


def _raw_mode(tile: Any) -> object:
    """Pillow's raw mode of a stored tile, e.g. "RGB;16B"."""
    return tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args


def _rgb(image: Image.Image) -> Pixels:
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    return on_white(np.asarray(image.convert("RGBA")))


def _tiff_mpp(image: Image.Image) -> tuple[float | None, float | None]:
    """Um per px in x and y from a TIFF's resolution tags.

    JPEG, PNG and BMP state a printing density, never a scanner's.
    """
    if image.format != "TIFF":
        return None, None
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    um = UM_PER_TIFF_UNIT.get(tags.get(TIFF_RESOLUTION_UNIT))
    per_unit = [
        positive_number(tags.get(t)) for t in (TIFF_X_RESOLUTION, TIFF_Y_RESOLUTION)
    ]
    mpp_x, mpp_y = (um / n if um and n else None for n in per_unit)
    return mpp_x, mpp_y


def read_picture(path: Path) -> Pixels:
    """A small picture, RGB [height, width, 3], e.g. the thumbnail of a run.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or no picture of at most MAX_PICTURE_PX.
    """
    data = read_bytes(path)
    try:
        return decode_picture(data)
    except OSError as e:
        raise ValueError(f"{path}: cannot read the picture: {e}") from e


def decode_picture(data: bytes) -> Pixels:
    """The same from its bytes.

    Raises:
        OSError: it is damaged, or no picture of at most MAX_PICTURE_PX.
    """
    try:
        with no_pixel_limit(), Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PICTURE_PX:
                raise OSError(f"{image.width} x {image.height} px is no thumbnail")
            check_whole(image)
            return np.asarray(image.convert("RGB"))
    except DAMAGED as e:
        raise OSError(str(e)) from e
