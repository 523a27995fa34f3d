"""Mask images as annotations: PAIP TIFFs, DigestPath JPEGs and others.

A mask may be of any size, as long as it has the slide's aspect ratio; it is sampled by
nearest neighbor.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from digipath_ray.annotations.account import Account
from digipath_ray.annotations.maskbits import Bits, Bools, Indices
from digipath_ray.annotations.maskfile import MaskPixels, open_mask
from digipath_ray.annotations.maskvalues import MaskRule, account_of_mask
from digipath_ray.annotations.window import SlideSize, Window
from digipath_ray.config.run import Origin
from digipath_ray.slide.frames import canvas_of, mask_origin
from digipath_ray.slide.info import Canvas, SlideError

MAX_ASPECT_ERROR = 0.02
STRIP_PX = 16 << 20
"""Mask pixels read at once when a whole mask is scanned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskAnnotation:
    """An :class:`~digipath_ray.annotations.Annotation` read from a mask image.

    Attributes:
        bits: the mask's pixels.
        width: slide width, level-0 px.
        height: slide height, level-0 px.
        skipped: always empty for a mask.
        ignored_bits: pixels that are neither tumor nor normal; None if there are none.
        account: which values of the mask count.
        canvas: what the mask covers, if that is more than the slide.
    """

    bits: Bits
    width: int
    height: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    canvas: Canvas | None = None
    ignored_bits: Bits | None = None
    account: Account = field(default_factory=Account)

    @property
    def l0_per_px(self) -> tuple[float, float]:
        """Level-0 px per mask px, in x and y."""
        covered = self.canvas or self
        return covered.width / self.bits.width, covered.height / self.bits.height

    @property
    def offset(self) -> tuple[int, int]:
        """Left top corner of the slide in what the mask covers, level-0 px."""
        return (self.canvas.offset_x, self.canvas.offset_y) if self.canvas else (0, 0)

    @cached_property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px; reads the whole mask."""
        cols = self._on_slide(np.arange(self.bits.width), axis=0)
        strips = (self._on_slide(rows, axis=1) for rows in self._strips())
        count = sum(
            int(np.count_nonzero(self.bits.take(rows, cols)))
            for rows in strips
            if len(rows) and len(cols)
        )
        return count * self.l0_per_px[0] * self.l0_per_px[1]

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given the um per level-0 px."""
        return self.area_px * mpp_x * mpp_y / 1e6

    def tumor(self, window: Window) -> Bools:
        """Tumor pixels (nearest mask px) of a window, bool [height, width]."""
        w, bits, (scale_x, scale_y) = window, self.bits, self.l0_per_px
        x, y = w.x + self.offset[0], w.y + self.offset[1]
        cols, in_cols = _nearest(x, w.width, w.l0_per_px_x, scale_x, bits.width)
        rows, in_rows = _nearest(y, w.height, w.l0_per_px_y, scale_y, bits.height)
        out = np.zeros(window.shape, np.bool_)
        out[in_rows, in_cols] = bits.take(rows, cols)
        if self.canvas is not None:  # it goes on beyond the slide
            out &= self._is_slide(w.y, w.height, w.l0_per_px_y, self.height)[:, None]
            out &= self._is_slide(w.x, w.width, w.l0_per_px_x, self.width)
        return out

    def ignored(self, window: Window) -> Bools:
        """Pixels of a window without known tissue, bool [height, width]."""
        if self.ignored_bits is None:
            return np.zeros(window.shape, np.bool_)
        return replace(self, bits=self.ignored_bits).tumor(window)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """Pixels that cover any tumor mask px, bool [rows, cols]."""
        window = Window.over(self, l0_per_px_x, l0_per_px_y)
        bits, (scale_x, scale_y) = self.bits, self.l0_per_px
        left_px, top_px = self.offset[0] / scale_x, self.offset[1] / scale_y
        left, right = _under(window.width, l0_per_px_x / scale_x, bits.width, left_px)
        top, bottom = _under(window.height, l0_per_px_y / scale_y, bits.height, top_px)
        out = np.zeros(window.shape, np.bool_)
        cols = np.arange(bits.width)
        for rows in self._strips():
            strip = bits.take(rows, cols)
            if not strip.any():
                continue
            any_x = _any_between(strip, left, right, axis=1)
            first, stop = rows[0], rows[-1] + 1
            here = (bottom > first) & (top < stop)
            ends = [(v[here] - first).clip(0, len(rows)) for v in (top, bottom)]
            out[here] |= _any_between(any_x, ends[0], ends[1], axis=0)
        return out

    @staticmethod
    def _is_slide(start: float, length: int, l0_per_px: float, side: int) -> Bools:
        """Which px of a window along an axis have their center on the slide."""
        centers = start + (np.arange(length) + 0.5) * l0_per_px
        return np.asarray((centers >= 0) & (centers < side))

    def _on_slide(self, indices: Indices, *, axis: int) -> Indices:
        """Those mask columns (axis 0) or rows (1) whose centers lie on the slide."""
        center = (indices + 0.5) * self.l0_per_px[axis] - self.offset[axis]
        side = (self.width, self.height)[axis]
        return indices[(center >= 0) & (center < side)]

    def _strips(self) -> Iterator[Indices]:
        """Rows of the mask, in strips of bounded memory."""
        rows = max(1, STRIP_PX // self.bits.width)
        # Whole rows of tiles, so that no tile is decoded twice.
        tile = getattr(getattr(self.bits, "page", None), "tilelength", 1)
        rows = max(tile, rows // tile * tile)
        for top in range(0, self.bits.height, rows):
            yield np.arange(top, min(top + rows, self.bits.height))


def read_mask_annotation(
    path: Path,
    slide: SlideSize,
    rule: MaskRule,
    *,
    origin: Origin | None = None,
    trusted: bool = False,
) -> MaskAnnotation:
    """Read a mask image that covers the slide, or its canvas, from edge to edge.

    Args:
        path: any image; see :func:`digipath_ray.annotations.maskfile.open_mask`.
        slide: width and height, level-0 px.
        rule: what the user says of masks.
        origin: what the mask covers, the canvas or the bounds; None goes by its size.
        trusted: do not count the values again: they were found to be clear.

    Raises:
        SlideError: another aspect ratio than the slide, unclear values, not an image,
            damaged or too large.
    """
    pixels = open_mask(path, rule, trusted=trusted)
    found = annotation_of_mask(pixels, width=slide.width, height=slide.height)
    return fit_mask(found, slide, origin=origin, name=path.name)


def fit_mask(
    mask: MaskAnnotation, slide: SlideSize, *, origin: Origin | None = None, name: str
) -> MaskAnnotation:
    """The mask over a slide, its canvas or another mask, by what its size fits.

    Raises:
        SlideError: another aspect ratio than the slide, or its canvas fits as well.
    """
    bits, canvas = mask.bits, canvas_of(slide)
    try:
        covers = mask_origin(
            (bits.width, bits.height),
            (slide.width, slide.height),
            canvas,
            tolerance=MAX_ASPECT_ERROR,
            origin=origin,
        )
    except SlideError as e:
        raise SlideError(
            f"{name}: {e}", f"say which: --origin canvas or bounds; or {e.hint}"
        ) from e
    if covers is None:
        its = f", its canvas {canvas.width} x {canvas.height} px" if canvas else ""
        raise SlideError(
            f"{name}: the mask is {bits.width} x {bits.height} px, the slide "
            f"{slide.width} x {slide.height} px{its}: aspect ratios differ by more "
            "than 2 %",
            "give a mask that covers exactly this slide, edge to edge",
        )
    whole = canvas if covers == "canvas" else None
    frame = whole or slide
    # The account was made as if the mask covered a slide of its former size.
    factor = (frame.width * frame.height) / (mask.width * mask.height)
    return replace(
        mask,
        width=slide.width,
        height=slide.height,
        canvas=whole,
        account=mask.account.scaled(factor),
    )


def annotation_of_mask(
    pixels: MaskPixels, *, width: int, height: int
) -> MaskAnnotation:
    """A mask's pixels as the annotation of a slide of a size, level-0 px."""
    account, bits = Account(kind="mask image"), pixels.tumor
    if pixels.seen is not None:
        scale = width * height / (bits.width * bits.height)
        account = account_of_mask(
            pixels.seen, pixels.decision, area_px=width * height, l0_per_px=scale
        )
    return MaskAnnotation(
        bits=bits,
        width=width,
        height=height,
        ignored_bits=pixels.ignored,
        account=account,
    )


def _nearest(
    start: float, length: int, l0_per_px: float, l0_per_mask: float, size: int
) -> tuple[Indices, slice]:
    """Mask px under a window's pixels along an axis, and the slice on the mask."""
    centers = start + (np.arange(length) + 0.5) * l0_per_px
    index = np.floor(centers / l0_per_mask).astype(np.int64)
    first, last = np.searchsorted(index, [0, size])
    return index[first:last], slice(int(first), int(last))


def _under(
    length: int, mask_per_px: float, size: int, start_px: float
) -> tuple[Indices, Indices]:
    """Range of mask px under each map pixel along an axis, from a mask px on."""
    edges = np.round(start_px + np.arange(length + 1) * mask_per_px, 6)
    start = np.floor(edges[:-1]).astype(np.int64).clip(0, size - 1)
    stop = np.ceil(edges[1:]).astype(np.int64).clip(1, size)
    return start, stop


def _any_between(array: Bools, start: Indices, stop: Indices, *, axis: int) -> Bools:
    """Whether any value is true in each range [start, stop) along an axis."""
    one_more = [(0, 0), (0, 0)]
    one_more[axis] = (0, 1)  # padding, so that a range may end at the array's end
    padded = np.pad(array, one_more)
    pairs = np.stack([start, stop], axis=1).ravel()
    both = np.logical_or.reduceat(padded, pairs, axis=axis)
    return both[::2] if axis == 0 else both[:, ::2]
