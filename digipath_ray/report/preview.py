"""Preview of a slide: the stained tissue, and a tumor map overlay.

Both are data URIs, cropped to the tissue and shrunk so that a page holds hundreds.
Positions are um from the slide's top-left corner, as in the tables.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage.segmentation import find_boundaries

from digipath_ray.figures.figure import probability_colors
from digipath_ray.heatmap.file import DAMAGED, check_stored
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.image import read_picture
from digipath_ray.storage.files import open_file
from digipath_ray.tissue.mask import Mask, read_mask

PAGE_BYTES = 14_000_000
"""Maximum bytes of all previews of a page: 500 slides take about 15 MB."""
MOST_BYTES, LEAST_BYTES = 120_000, 12_000
"""Minimum and maximum bytes of a preview."""
STAINED_SHARE = 0.8
"""Fraction of the bytes for the stained image; the map compresses well."""
LADDER = ((760, 80), (640, 75), (560, 70), (480, 65), (420, 55), (360, 45), (280, 40))
"""Longer side (px) and JPEG quality, tried in turn until the preview fits."""
MARGIN = 0.04
"""Margin around the tissue, as a fraction of its size."""
STEPS = 12
"""Shades of the map: fewer make a smaller file, more are indistinguishable."""
OUTLINE, WHOLE = STEPS + 1, STEPS + 2
"""Palette entries of the outlines: threshold, and whole tumor region."""
OUTLINE_COLOR, WHOLE_COLOR = (31, 35, 41, 255), (0, 96, 160, 255)

Indices = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of a slide, um from its top-left corner."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def around(cls, mask: Mask, *, width_um: float, height_um: float) -> Self:
        """Window around the tissue with a margin; the whole slide without tissue."""
        rows, cols = (np.flatnonzero(mask.array.any(axis=a)) for a in (1, 0))
        if not len(rows):
            return cls(x=0, y=0, width=width_um, height=height_um)
        left, right = cols[0] * mask.mpp_x, (cols[-1] + 1) * mask.mpp_x
        top, bottom = rows[0] * mask.mpp_y, (rows[-1] + 1) * mask.mpp_y
        margin = MARGIN * max(right - left, bottom - top)
        x, y = max(0.0, left - margin), max(0.0, top - margin)
        return cls(
            x=float(x),
            y=float(y),
            width=float(min(width_um, right + margin) - x),
            height=float(min(height_um, bottom + margin) - y),
        )


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Preview of a slide.

    Attributes:
        window: part of the slide.
        stained: data URI of a JPEG.
        tumor: data URI of a PNG, transparent outside tumor; None without heatmap.
    """

    window: Window
    stained: str
    tumor: str | None


def preview_bytes(slides: int) -> int:
    """Maximum bytes per preview for a number of slides."""
    return min(MOST_BYTES, max(LEAST_BYTES, PAGE_BYTES // max(slides, 1)))


def draw_preview(
    run: RunDirectory, slide: Mapping[str, Any], *, threshold: float, budget: int
) -> Preview | None:
    """Draw the preview of a slide; None without thumbnail.

    Args:
        run: run directory.
        slide: row of the slide in SLIDES.
        threshold: probability of the outline.
        budget: maximum bytes of the preview in the page.

    Raises:
        ValueError: a file is damaged.
    """
    slide_id = slide["slide_id"]
    if not run.thumbnail(slide_id).is_file():
        return None
    size_um = slide["width"] * slide["mpp_x"], slide["height"] * slide["mpp_y"]
    window = find_window(run.mask(slide_id), size_um)
    whole_slide = Image.fromarray(read_picture(run.thumbnail(slide_id)))
    thumbnail = cut_thumbnail(whole_slide, window, size_um)
    # Base64 encodes three bytes in four characters.
    stained, size = compress(thumbnail, int(budget * STAINED_SHARE * 3 / 4))
    tumor = None
    if run.heatmap(slide_id).is_file():
        whole, refined = (
            read_mask(path) if path.is_file() else None
            for path in (run.whole(slide_id), run.refined(slide_id))
        )
        shades = draw_map(
            run.heatmap(slide_id),
            window,
            size,
            threshold=threshold,
            whole=whole,
            refined=refined,
        )
        tumor = png_uri(shades)
    return Preview(window=window, stained=stained, tumor=tumor)


def find_window(mask: Path, size_um: tuple[float, float]) -> Window:
    """Window of the tissue in a mask file; the whole slide if the file is missing."""
    width_um, height_um = size_um
    if not mask.is_file():
        return Window(x=0, y=0, width=width_um, height=height_um)
    window = Window.around(read_mask(mask), width_um=width_um, height_um=height_um)
    if window.width <= 0 or window.height <= 0:
        raise ValueError(f"{mask}: its tissue lies beyond the slide: damaged")
    return window


def cut_thumbnail(
    thumbnail: Image.Image, window: Window, size_um: tuple[float, float]
) -> Image.Image:
    """Crop a thumbnail of the whole slide to a window."""
    per_x, per_y = thumbnail.width / size_um[0], thumbnail.height / size_um[1]
    left, top = int(window.x * per_x), int(window.y * per_y)
    right = max(left + 1, round((window.x + window.width) * per_x))
    bottom = max(top + 1, round((window.y + window.height) * per_y))
    return thumbnail.crop((left, top, right, bottom))


def compress(image: Image.Image, most_bytes: int) -> tuple[str, tuple[int, int]]:
    """Encode the largest JPEG data URI within a size; also returns its px size."""
    for longer_px, quality in LADDER:
        smaller = image.copy()
        smaller.thumbnail((longer_px, longer_px), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        smaller.save(buffer, format="JPEG", quality=quality, optimize=True)
        if buffer.tell() <= most_bytes:
            break
    return data_uri("image/jpeg", buffer.getvalue()), smaller.size


def draw_map(
    path: Path,
    window: Window,
    size: tuple[int, int],
    *,
    threshold: float,
    whole: Mask | None,
    refined: Mask | None = None,
) -> Indices:
    """Palette entries [height, width] of a heatmap file in a window.

    Args:
        path: heatmap file.
        window: window to draw.
        size: width and height, px.
        threshold: probability of the outline.
        whole: mask of the whole tumor region, also outlined.
        refined: mask of the tumor, outlined in place of the threshold's.
    """
    um_per_px = max(window.width / size[0], window.height / size[1])
    probability, predicted = read_overview(path, um_per_px=um_per_px)
    # The weight: 0 where no patch looked, which must not be shown as no tumor.
    there = look_up(predicted.array, predicted.mpp, window, size) > 0
    p = look_up(probability.array, probability.mpp, window, size)
    p = np.where(there, p, 0)
    # Rounded up: 0 alone is transparent.
    shades = np.ceil(p.clip(0, 1) * STEPS).astype(np.uint8)
    tumor = (p >= threshold) & there
    if refined is not None:
        mpp = refined.mpp_x, refined.mpp_y
        tumor = look_up(refined.array, mpp, window, size)
    shades[find_boundaries(tumor, mode="inner")] = OUTLINE
    if whole is not None:
        inside = look_up(whole.array, (whole.mpp_x, whole.mpp_y), window, size)
        shades[find_boundaries(inside, mode="inner")] = WHOLE
    return shades


@dataclass(frozen=True, kw_only=True, eq=False)
class Overview:
    """Coarse level of a map: float32 [rows, cols], and um per px in x and y."""

    array: NDArray[np.float32]
    mpp: tuple[float, float]


def read_overview(path: Path, *, um_per_px: float) -> tuple[Overview, Overview]:
    """Read probability and weight at the coarsest level that is fine enough.

    Raises:
        ValueError: not a heatmap of this package.
    """
    try:
        with open_file(path) as file, tifffile.TiffFile(file) as tiff:
            series = tiff.series[0]
            per_cm = [series.pages[0].tags[t].value for t in (282, 283)]
            mpp = [1e4 * denominator / numerator for numerator, denominator in per_cm]
            finest = series.levels[0].shape[-2:]
            fine = [
                level
                for level in series.levels
                if max(mpp) * finest[0] / level.shape[-2] <= um_per_px
            ]
            level = fine[-1] if fine else series.levels[0]
            check_stored(level, tiff.filehandle.size)
            planes = (level.pages[0].asarray(), level.pages[-1].asarray())
            if any(p.dtype != np.float32 or p.ndim != 2 for p in planes):
                raise ValueError("its channels are no maps of float32")
    except DAMAGED as e:
        raise ValueError(f"{path}: not a heatmap of digipath run: {e}") from e
    # By the level's number, not its size: an odd side is rounded up at every level.
    factor = 2 ** series.levels.index(level)
    scale = (mpp[0] * factor, mpp[1] * factor)
    probability, weight = (
        Overview(array=cast(NDArray[np.float32], plane), mpp=scale) for plane in planes
    )
    return probability, weight


def look_up(
    array: NDArray[Any], mpp: tuple[float, float], window: Window, size: tuple[int, int]
) -> NDArray[Any]:
    """Sample an array at the pixel centers of a window, [height, width]."""
    width, height = size
    x = window.x + (np.arange(width) + 0.5) * window.width / width
    y = window.y + (np.arange(height) + 0.5) * window.height / height
    # A window may end a little beyond the map, by the rounding of its last px.
    rows = (y / mpp[1]).astype(int).clip(max=array.shape[0] - 1)
    cols = (x / mpp[0]).astype(int).clip(max=array.shape[1] - 1)
    return array[np.ix_(rows, cols)]


def palette() -> tuple[bytes, bytes]:
    """RGB and opacity of every palette entry."""
    # Entry i stands for (i - 1, i] / STEPS, so its color is that of the middle.
    shades = probability_colors()([(i - 0.5) / STEPS for i in range(STEPS + 1)])
    colors = np.concatenate(
        [(shades * 255).round(), [OUTLINE_COLOR, WHOLE_COLOR]]
    ).astype(np.uint8)
    # Entry 0 is transparent.
    colors[0] = 0
    return colors[:, :3].tobytes(), colors[:, 3].tobytes()


def png_uri(shades: Indices) -> str:
    """Encode palette entries as a PNG data URI."""
    image = Image.fromarray(shades, mode="P")
    rgb, opacity = palette()
    image.putpalette(rgb)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=opacity, optimize=True)
    return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, data: bytes) -> str:
    """Encode bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
