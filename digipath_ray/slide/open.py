"""The ``Slide`` that everything else uses: opened, and read at any mpp.

Level-0 coordinates are relative to the scanned bounds (MRXS, SCN), as in QuPath.
Transparent pixels and pixels outside the slide are white.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.config.run import Edge
from digipath_ray.geometry import Frame, lattice
from digipath_ray.slide.file import SLIDE_SUFFIXES, open_file
from digipath_ray.slide.image import IMAGE_SUFFIXES
from digipath_ray.slide.info import Pixels, ReadLevel, SlideError, SlideInfo
from digipath_ray.storage.cache import local_copy
from digipath_ray.storage.files import is_url, place

__all__ = [
    "IMAGE_SUFFIXES",
    "SLIDE_SUFFIXES",
    "Pixels",
    "Slide",
    "SlideError",
    "SlideInfo",
    "mirror",
    "open_slide",
]

TILE_CACHE_BYTES = 256 << 20
"""Cache of decoded tiles per open slide: one row of tiles of the widest slides."""
STRIP_PX = 16 << 20
"""Level px decoded at once for a thumbnail."""
ROUNDING_PX = 1e-6
"""Of a position in a level."""
RESAMPLE_PX = 128
"""Side, model px, of the squares in which a slide is resampled."""

ReadRectangle = Callable[[int, int, int, int], Pixels]


class Slide:
    """An open slide. Use as a context manager; not shared between processes."""

    def __init__(
        self,
        info: SlideInfo,
        read_level: ReadLevel,
        close: Callable[[], None],
        reader: Callable[[int], str],
    ) -> None:
        self.info = info
        self.on_progress: Callable[[], None] = lambda: None
        self.version: str | None = None
        self.fetched_bytes = 0
        self.read_inside = read_level
        self.reader = reader
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._close()

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """RGB [height, width, 3] of a rectangle in px of ``level``; white outside.

        Raises:
            SlideError: the file is damaged there. OpenSlide then fails all later reads
                of this slide too.
        """
        lv_width, lv_height = self.info.level_dimensions[level]
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, lv_width), min(y + height, lv_height)
        if (x0, y0, x1, y1) == (x, y, x + width, y + height):
            return self.read_inside(level, x, y, width, height)
        out: Pixels = np.full((height, width, 3), 255, np.uint8)
        if x1 > x0 and y1 > y0:
            inside = self.read_inside(level, x0, y0, x1 - x0, y1 - y0)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return out

    def read(
        self, frame: Frame, x: int, y: int, width: int, height: int, *, edge: Edge
    ) -> Pixels:
        """RGB [height, width, 3] of a rectangle in model px of ``frame``.

        Adjacent rectangles read separately are bit-identical to one read of both.
        Outside the slide is white, or the slide's mirror image, by ``edge``.

        Raises:
            SlideError: the file is damaged there.
        """

        def read_plain(x: int, y: int, width: int, height: int) -> Pixels:
            if frame.native:
                return self._read_edged(frame.level, x, y, width, height, edge)
            return self._resample(frame, x, y, width, height, edge)

        if edge == "white":
            return read_plain(x, y, width, height)
        size = frame.md_size(self.info.width, self.info.height)
        return _mirrored(read_plain, size, x, y, width, height)

    def _read_edged(
        self, level: int, x: int, y: int, width: int, height: int, edge: Edge
    ) -> Pixels:
        def read_stored(x: int, y: int, width: int, height: int) -> Pixels:
            return self.read_level(level, x, y, width, height)

        if edge == "white":
            return read_stored(x, y, width, height)
        size = self.info.level_dimensions[level]
        return _mirrored(read_stored, size, x, y, width, height)

    def _resample(
        self, frame: Frame, x: int, y: int, width: int, height: int, edge: Edge
    ) -> Pixels:
        """Assemble a rectangle from resampled squares of a fixed lattice.

        Pillow rounds the box to float32, so the value of a resampled pixel depends on
        the rectangle read; a square of the lattice is always the same.
        """
        out: Pixels = np.empty((height, width, 3), np.uint8)
        columns = [
            (c, *_span(c[0], frame.lv_per_md_x))
            for c in lattice(x, x + width, RESAMPLE_PX)
        ]
        _, _, first, _ = columns[0]
        _, _, last_start, last_width = columns[-1]
        for md_y, y0, y1 in lattice(y, y + height, RESAMPLE_PX):
            top, lv_y, lv_height = _span(md_y, frame.lv_per_md_y)
            # A row of squares is read at once: each stored px is decoded once.
            band = self._read_edged(
                frame.level,
                first,
                lv_y,
                last_start + last_width - first,
                lv_height,
                edge,
            )
            bottom = top + RESAMPLE_PX * frame.lv_per_md_y
            for (md_x, x0, x1), left, lv_x, lv_width in columns:
                stored = band[:, lv_x - first : lv_x - first + lv_width]
                right = left + RESAMPLE_PX * frame.lv_per_md_x
                square = np.asarray(
                    Image.fromarray(stored).resize(
                        (RESAMPLE_PX, RESAMPLE_PX),
                        Image.Resampling.BILINEAR,
                        box=(left, top, right, bottom),
                    )
                )
                cut = square[y0 - md_y : y1 - md_y, x0 - md_x : x1 - md_x]
                out[y0 - y : y1 - y, x0 - x : x1 - x] = cut
        return out

    def thumbnail(self, mpp: float) -> tuple[Pixels, float, float]:
        """The whole slide at about ``mpp``: [height, width, 3], exact um/px in x, y.

        Every px is the mean of the level px under it.

        Raises:
            SlideError: the mpp is unknown, or the file is damaged.
        """
        mpp_x, mpp_y = self.info.need_mpp()
        um_x, um_y = self.info.width * mpp_x, self.info.height * mpp_y
        width, height = max(1, round(um_x / mpp)), max(1, round(um_y / mpp))
        level = self._finer_level(mpp / max(mpp_x, mpp_y))
        lv_width, lv_height = self.info.level_dimensions[level]
        whole = slice(0, height), slice(0, width)
        shrunk = self._shrink(level, lv_width / width, lv_height / height, whole)
        return shrunk, um_x / width, um_y / height

    def means(self, l0_per_px: tuple[float, float], box: tuple[slice, slice]) -> Pixels:
        """Part of the slide at another scale, [rows, columns, 3]; white outside.

        Every px is the mean of the level px under it.

        Args:
            l0_per_px: level-0 px per px, x and y.
            box: rows and columns, in px from the slide's top-left corner.

        Raises:
            SlideError: the file is damaged there.
        """
        level = self._finer_level(min(l0_per_px))
        down = self.info.level_downsamples[level]
        return self._shrink(level, l0_per_px[0] / down, l0_per_px[1] / down, box)

    def _finer_level(self, downsample: float) -> int:
        """The coarsest level that is not coarser."""
        known = self.info.level_downsamples
        finer = [i for i, d in enumerate(known) if d <= downsample * 1.01]
        return max(finer, key=lambda i: known[i], default=0)

    def _shrink(
        self, level: int, scale_x: float, scale_y: float, box: tuple[slice, slice]
    ) -> Pixels:
        """Rows and columns of a shrunken level, decoded in strips.

        Args:
            level: to shrink.
            scale_x: px of it per px, from left to right.
            scale_y: from top to bottom.
            box: rows and columns.
        """
        rows, cols = box
        width = cols.stop - cols.start
        left, right = cols.start * scale_x, cols.stop * scale_x
        # What is only beyond by rounding is not read.
        x0, x1 = int(np.floor(left)), int(np.ceil(right - ROUNDING_PX))
        x1 = max(x0 + 1, x1)
        step = max(1, int(STRIP_PX / (x1 - x0) / scale_y))
        out: Pixels = np.empty((rows.stop - rows.start, width, 3), np.uint8)
        for row in range(rows.start, rows.stop, step):
            stop = min(row + step, rows.stop)
            top, bottom = row * scale_y, stop * scale_y
            y0 = int(np.floor(top))
            y1 = max(y0 + 1, int(np.ceil(bottom - ROUNDING_PX)))
            strip = Image.fromarray(self.read_level(level, x0, y0, x1 - x0, y1 - y0))
            cut = (
                left - x0,
                top - y0,
                min(right - x0, float(x1 - x0)),
                min(bottom - y0, float(y1 - y0)),
            )
            shrunk = strip.resize((width, stop - row), Image.Resampling.BOX, box=cut)
            out[row - rows.start : stop - rows.start] = np.asarray(shrunk)
            self.on_progress()
        return out


def mirror(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Reflect indices into [0, length) at both ends, repeating the edge."""
    forth = np.mod(index, 2 * length)
    folded: NDArray[np.int64] = np.minimum(forth, 2 * length - 1 - forth)
    return folded


def _mirrored(
    read: ReadRectangle, size: tuple[int, int], x: int, y: int, width: int, height: int
) -> Pixels:
    """Read a rectangle of an image of ``size``, mirrored beyond its edges."""
    if x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]:
        return read(x, y, width, height)
    cols = mirror(np.arange(x, x + width), size[0])
    rows = mirror(np.arange(y, y + height), size[1])
    x0, y0 = int(cols.min()), int(rows.min())
    inside = read(x0, y0, int(cols.max()) + 1 - x0, int(rows.max()) + 1 - y0)
    return inside[np.ix_(rows - y0, cols - x0)]


def _span(md_start: int, lv_per_md: float) -> tuple[float, int, int]:
    """Extent along one axis that a resampled square needs from a level.

    Returns:
        Offset of the square in the px read, first level px, and number of level px.
    """
    start, stop = md_start * lv_per_md, (md_start + RESAMPLE_PX) * lv_per_md
    # Margin for the triangle kernel, whose radius is max(scale, 1) level px.
    margin = int(np.ceil(max(lv_per_md, 1.0))) + 1
    first = int(np.floor(start)) - margin
    return start - first, first, int(np.ceil(stop)) + margin - first


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    cache_bytes: int = TILE_CACHE_BYTES,
    version: str | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> Slide:
    """Open a slide with OpenSlide, else as a plain image (JPEG, PNG, TIFF, BMP).

    Args:
        path: file of the slide; for MRXS the .mrxs, for DICOM any .dcm of the series. A
            slide in a bucket is copied to this node for as long as it is open.
        mpp: um per level-0 px; overrides the file's.
        cache_bytes: size of OpenSlide's tile cache.
        version: required version of a slide in a bucket.
        on_progress: called while a slide is downloaded.

    Raises:
        SlideError: the file is missing or of an unsupported format.
        OSError: the slide's bucket cannot be read, or the cache is too small.
        ValueError: ``mpp`` is not positive.
    """
    if mpp is not None and not 0 < mpp < float("inf"):
        raise ValueError(f"mpp = {mpp}: must be positive, um per level-0 px")
    if not is_url(path):
        return Slide(*open_file(Path(path), mpp, cache_bytes))
    url = str(place(path))
    with ExitStack() as stack:
        try:
            held = local_copy(url, version=version, on_progress=on_progress)
            copy = stack.enter_context(held)
        except FileNotFoundError as e:
            raise SlideError(str(e), "check the path in the manifest") from e
        opened = open_file(copy.path, mpp, cache_bytes)
        stack.callback(opened.close)
        info, close = replace(opened.info, path=url), stack.pop_all().close
        whole = Slide(info, opened.read_level, close, opened.reader)
    whole.version, whole.fetched_bytes = copy.version, copy.fetched_bytes
    return whole
