"""One reader per format: OpenSlide's formats and plain images. Wraps OpenSlide.

Level-0 coordinates are relative to the scanned bounds (MRXS, SCN), as in QuPath.
Transparent pixels are white.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import pyarrow as pa

from digipath_ray.slide.image import IMAGE_SUFFIXES, decode, read_header
from digipath_ray.slide.info import (
    Pixels,
    SlideError,
    SlideInfo,
    on_white,
    positive_number,
    settle_mpp,
)

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide",
    ".bif", ".czi", ".dcm",
)  # fmt: skip
TEXT_BYTES = 512
"""Leading bytes examined to detect a plain-text file."""
PHASE_PX = 256
"""Side, level px, of the tiles in which a level of fractional downsample is read."""

NO_SLIDE = "not a slide that OpenSlide can open, nor a plain image"

ReadLevel = Callable[[int, int, int, int, int], Pixels]
"""(level, x, y, width, height) in px of and inside the level -> RGB [H, W, 3]."""


class OpenFile(NamedTuple):
    """Result of a format's opener."""

    info: SlideInfo
    read_level: ReadLevel
    close: Callable[[], None]


def open_file(path: Path, mpp: float | None, cache_bytes: int) -> OpenFile:
    """Open a file with OpenSlide, falling back to plain images.

    Raises:
        SlideError: the file is missing or of an unsupported format.
    """
    if not path.exists():
        raise SlideError(f"{path}: file not found", "check the path in the manifest")
    if path.is_dir():
        raise SlideError(
            f"{path}: a directory, not a slide", "give the path of the slide file"
        )
    if openslide.OpenSlide.detect_format(str(path)) is not None:
        return _open_openslide(path, mpp, cache_bytes)
    _refuse_text(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _open_image(path, mpp)
    raise SlideError(
        f"{path.name}: {NO_SLIDE}",
        "the file is damaged or its format is unsupported: copy it again or convert it",
    )


def _refuse_text(path: Path) -> None:
    """Reject an empty file or plain text."""
    try:
        with path.open("rb") as file:
            start = file.read(TEXT_BYTES)
    except OSError as e:
        raise SlideError(
            f"{path.name}: cannot read the file: {e.strerror}",
            "check the file's owner and permissions",
        ) from e
    if not start:
        raise SlideError(f"{path.name}: the file is empty", "copy it again")
    if start.isascii() and all(c >= 32 or c in b"\t\n\r\f" for c in start):
        raise SlideError(
            f"{path.name}: a text file, not a slide",
            "give the slide itself, not a list of slides or a Git LFS pointer",
        )


def _open_openslide(path: Path, given_mpp: float | None, cache_bytes: int) -> OpenFile:
    try:
        handle = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as e:
        raise _damaged(path, "opened", e) from e
    handle.set_cache(openslide.OpenSlideCache(cache_bytes))
    info, offset = _openslide_info(path, handle, given_mpp)

    def region(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        d = info.level_downsamples[level]
        l0 = (round(x * d) + offset[0], round(y * d) + offset[1])
        try:
            image = handle.read_region(l0, level, (int(width), int(height)))
        except openslide.OpenSlideError as e:
            raise _damaged(path, f"read at ({l0[0]}, {l0[1]})", e) from e
        # Zero-copy through Arrow; np.asarray(image) would copy twice.
        return on_white(np.asarray(pa.array(image).values).reshape(height, width, 4))

    def read_level(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if info.level_downsamples[level].is_integer():
            return region(level, x, y, width, height)
        # OpenSlide takes integer level-0 px and interpolates between level px. Reads
        # start at lattice points, so a px has the same value in every rectangle.
        out: Pixels = np.empty((height, width, 3), np.uint8)
        for lv_y, y0, y1 in lattice(y, y + height, PHASE_PX):
            for lv_x, x0, x1 in lattice(x, x + width, PHASE_PX):
                square = region(level, lv_x, lv_y, x1 - lv_x, y1 - lv_y)
                cut = square[y0 - lv_y :, x0 - lv_x :]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = cut
        return out

    return OpenFile(info, read_level, handle.close)


def _openslide_info(
    path: Path, handle: Any, given_mpp: float | None
) -> tuple[SlideInfo, tuple[int, int]]:
    """Metadata of a slide from OpenSlide, and the (x, y) of its bounds."""
    p = handle.properties
    mpp = settle_mpp(
        given_mpp,
        p.get(openslide.PROPERTY_NAME_MPP_X),
        p.get(openslide.PROPERTY_NAME_MPP_Y),
    )
    whole_width, whole_height = handle.dimensions
    offset_x = int(p.get(openslide.PROPERTY_NAME_BOUNDS_X, 0))
    offset_y = int(p.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0))
    width = int(p.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, whole_width))
    height = int(p.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, whole_height))
    downsamples = tuple(float(d) for d in handle.level_downsamples)
    dimensions = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
    if (offset_x, offset_y, width, height) != (0, 0, whole_width, whole_height):
        dimensions = tuple(
            (max(1, int(width / d)), max(1, int(height / d))) for d in downsamples
        )
    info = SlideInfo(
        path=str(path),
        format=str(p.get(openslide.PROPERTY_NAME_VENDOR, "openslide")),
        width=width,
        height=height,
        mpp_x=mpp.x,
        mpp_y=mpp.y,
        mpp_source=mpp.source,
        file_mpp=mpp.file,
        level_dimensions=dimensions,
        level_downsamples=downsamples,
        objective_power=positive_number(p.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
    )
    return info, (offset_x, offset_y)


def _damaged(path: Path, what: str, error: Exception) -> SlideError:
    return SlideError(
        f"{path.name}: cannot be {what}: {error}",
        "the file is damaged or truncated: copy it again",
    )


def _open_image(path: Path, given_mpp: float | None) -> OpenFile:
    header = read_header(path)
    mpp = settle_mpp(given_mpp, header.mpp_x, header.mpp_y)
    info = SlideInfo(
        path=str(path),
        format=header.format,
        width=header.width,
        height=header.height,
        mpp_x=mpp.x,
        mpp_y=mpp.y,
        mpp_source=mpp.source,
        file_mpp=mpp.file,
        level_dimensions=((header.width, header.height),),
        level_downsamples=(1.0,),
        objective_power=None,
    )
    decoded: list[Pixels] = []

    def read_level(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if not decoded:
            decoded.append(decode(path))
        return decoded[0][y : y + height, x : x + width].copy()

    return OpenFile(info, read_level, decoded.clear)


def lattice(start: int, stop: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Yield the multiples of ``step`` whose cells overlap [start, stop), and where."""
    for origin in range(start // step * step, stop, step):
        yield origin, max(start, origin), min(stop, origin + step)
