"""One reader per format: OpenSlide's formats and plain images. Wraps OpenSlide.

Level-0 coordinates are relative to the scanned bounds (MRXS, SCN, BIF, CZI), as in
QuPath. Transparent pixels are white.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import pyarrow as pa

from digipath_ray.geometry import lattice
from digipath_ray.slide.check import GENERIC, Look, is_tiff, look_at_tiff
from digipath_ray.slide.deflate import DeflateTiles, find_deflate_levels
from digipath_ray.slide.image import decode, read_header
from digipath_ray.slide.info import (
    Canvas,
    Mpp,
    Note,
    Pixels,
    ReadLevel,
    SlideError,
    SlideInfo,
    contradictions,
    on_white,
    positive_number,
    settle_mpp,
)
from digipath_ray.slide.jpeg_tiles import JpegTiles, find_jpeg_levels
from digipath_ray.slide.levels import find_alien_levels, note_of
from digipath_ray.slide.sizes import check_frames, check_side
from digipath_ray.slide.unreadable import explain, unknown_file

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide",
    ".bif", ".czi", ".dcm", ".avs", ".qptiff", ".btf", ".tf2", ".tf8",
)  # fmt: skip
PHASE_PX = 256
"""Side, level px, of the tiles in which a level of fractional downsample is read."""


class OpenFile(NamedTuple):
    """Result of a format's opener."""

    info: SlideInfo
    read_level: ReadLevel
    close: Callable[[], None]
    reader: Callable[[int], str]
    """What decodes a level: "OpenSlide", "JPEG tiles" or "Pillow"."""


def open_file(path: Path, mpp: float | None, cache_bytes: int) -> OpenFile:
    """Open a file with OpenSlide, falling back to plain images.

    Raises:
        SlideError: the file is missing, unreadable, of an unsupported format, or of
            pixels that are not 8-bit color.
    """
    if not path.exists():
        raise SlideError(f"{path}: file not found", "check the path in the manifest")
    if path.is_dir():
        raise SlideError(
            f"{path}: a directory, not a slide", "give the path of the slide file"
        )
    vendor = openslide.OpenSlide.detect_format(str(path))
    if vendor is None:
        reason = unknown_file(path)
        if reason is not None:
            raise reason
    if vendor == "dicom":
        check_frames(path)
    look = look_at_tiff(path, vendor) if is_tiff(path) else Look()
    if vendor is not None:
        return _open_openslide(path, mpp, cache_bytes, look)
    return _open_image(path, mpp, look)


def _open_openslide(
    path: Path, given_mpp: float | None, cache_bytes: int, look: Look
) -> OpenFile:
    try:
        handle = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as e:
        raise explain(path, "opened", e) from e
    handle.set_cache(openslide.OpenSlideCache(cache_bytes))
    alien = _alien_levels(path, handle)
    info = _openslide_info(path, handle, given_mpp, look, alien)
    levels = [i for i in range(handle.level_count) if i not in alien]
    offset = (info.canvas.offset_x, info.canvas.offset_y) if info.canvas else (0, 0)

    def region(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        d = info.level_downsamples[level]
        l0 = (round(x * d) + offset[0], round(y * d) + offset[1])
        try:
            image = handle.read_region(l0, levels[level], (int(width), int(height)))
        except openslide.OpenSlideError as e:
            raise explain(path, f"read at ({l0[0]}, {l0[1]})", e) from e
        # Zero-copy through Arrow; np.asarray(image) would copy twice.
        return on_white(np.asarray(pa.array(image).values).reshape(height, width, 4))

    deflate = DeflateTiles(path, find_deflate_levels(path, info))
    plain = find_jpeg_levels(path, info) if info.canvas is None else {}
    tiles = JpegTiles(path, plain, region, cache_bytes)

    def direct(level: int) -> bool:
        return info.level_downsamples[level].is_integer() and tiles.knows(level)

    def read_level(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if direct(level):
            return tiles.read(level, x, y, width, height)
        deflate.check(level, x, y, width, height)
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

    def close() -> None:
        tiles.close()
        handle.close()

    return OpenFile(
        info, read_level, close, lambda n: "JPEG tiles" if direct(n) else "OpenSlide"
    )


def _openslide_info(
    path: Path,
    handle: Any,
    given_mpp: float | None,
    look: Look,
    alien: dict[int, str],
) -> SlideInfo:
    """Metadata of a slide from OpenSlide, without the ``alien`` levels."""
    p = handle.properties
    vendor = str(p.get(openslide.PROPERTY_NAME_VENDOR, "openslide"))
    mpp = _settle(
        given_mpp,
        p.get(openslide.PROPERTY_NAME_MPP_X),
        p.get(openslide.PROPERTY_NAME_MPP_Y),
        look,
    )
    power = positive_number(p.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    canvas, (width, height) = _bounds(handle, vendor)
    for sides in ((width, height), *handle.level_dimensions):
        check_side(path.name, *sides)
    kept = [i for i in range(handle.level_count) if i not in alien]
    downsamples = tuple(float(handle.level_downsamples[i]) for i in kept)
    dimensions = tuple((int(w), int(h)) for w, h in handle.level_dimensions)
    ome = look.mpp_x if look.source == "OME-XML" else None
    notes = [*look.notes, *note_of(alien, dimensions)]
    notes += contradictions(mpp, power, vendor, ome)
    paths = int(positive_number(p.get("dicom.NumberOfOpticalPaths")) or 1)
    if paths > 1:
        text = f"{paths} optical paths: only the first is read"
        notes.append(Note(flag="several images", text=text))
    dimensions = tuple(dimensions[i] for i in kept)
    if canvas is not None:
        dimensions = tuple(
            (max(1, int(width / d)), max(1, int(height / d))) for d in downsamples
        )
    return SlideInfo(
        path=str(path),
        format=vendor,
        width=width,
        height=height,
        mpp_x=mpp.x,
        mpp_y=mpp.y,
        mpp_source=mpp.source,
        file_mpp=mpp.file,
        level_dimensions=dimensions,
        level_downsamples=downsamples,
        objective_power=power,
        canvas=canvas,
        notes=tuple(notes),
    )


def _bounds(handle: Any, vendor: str) -> tuple[Canvas | None, tuple[int, int]]:
    """Where the scanned bounds lie in the canvas, and their (width, height)."""
    p = handle.properties
    whole_width, whole_height = (int(n) for n in handle.dimensions)
    # OpenSlide 4.0.1 states bounds where a generic TIFF lacks tiles at its edge; its
    # own size and other programs' positions count from the whole image.
    if vendor == GENERIC:
        return None, (whole_width, whole_height)
    x = int(p.get(openslide.PROPERTY_NAME_BOUNDS_X, 0))
    y = int(p.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0))
    width = int(p.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, whole_width))
    height = int(p.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, whole_height))
    if (x, y, width, height) == (0, 0, whole_width, whole_height):
        return None, (whole_width, whole_height)
    canvas = Canvas(offset_x=x, offset_y=y, width=whole_width, height=whole_height)
    return canvas, (width, height)


def _alien_levels(path: Path, handle: Any) -> dict[int, str]:
    """OpenSlide's levels that do not show what level 0 shows, with the reason."""
    if handle.level_count == 1:
        return {}
    sizes = [(int(w), int(h)) for w, h in handle.level_dimensions]
    if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) != GENERIC:
        return find_alien_levels(sizes, None)
    stat = path.stat()
    return _compare_levels(path, tuple(sizes), (stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=1 << 12)
def _compare_levels(
    path: Path, sizes: tuple[tuple[int, int], ...], state: tuple[int, int]
) -> dict[int, str]:
    """Alien levels by their pictures; ``state`` of the file is only remembered by."""
    # A handle of its own: one that met a damaged tile fails all later reads.
    with openslide.OpenSlide(str(path)) as other:

        def read(level: int, x: int, y: int, width: int, height: int) -> Pixels:
            d = other.level_downsamples[level]
            at = (round(x * d), round(y * d))
            image = other.read_region(at, level, (width, height))
            return on_white(np.asarray(image))

        try:
            return find_alien_levels(sizes, read)
        except openslide.OpenSlideError:  # said where that tile is read
            return find_alien_levels(sizes, None)


def _settle(given: float | None, x: object, y: object, look: Look) -> Mpp:
    """The mpp that is given, else OpenSlide's or Pillow's, else another header's."""
    mpp = settle_mpp(given, x, y)
    if mpp.file is None:
        return settle_mpp(given, look.mpp_x, look.mpp_y)
    return mpp


def _open_image(path: Path, given_mpp: float | None, look: Look) -> OpenFile:
    header = read_header(path)
    mpp = _settle(given_mpp, header.mpp_x, header.mpp_y, look)
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
        notes=look.notes,
    )
    decoded: list[Pixels] = []

    def read_level(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        if not decoded:
            decoded.append(decode(path))
        return decoded[0][y : y + height, x : x + width].copy()

    return OpenFile(info, read_level, decoded.clear, lambda _: "Pillow")
