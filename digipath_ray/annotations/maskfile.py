"""Mask images of any format: their values, and their pixels as bits."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from digipath_ray.annotations.maskbits import (
    DAMAGE,
    MAX_KEPT_PX,
    MAX_PIECE_PX,
    TIFF_MAGIC,
    Bits,
    PackedBits,
    TiledBits,
    damaged,
    decode_piece,
    stored_piece,
)
from digipath_ray.annotations.maskcount import (
    Palette,
    Samples,
    ValueCount,
    as_gray,
    brightness,
    plain_values,
)
from digipath_ray.annotations.maskvalues import (
    Decision,
    Kind,
    MaskRule,
    Seen,
    Test,
    check_background,
    decide,
    decide_unseen,
)
from digipath_ray.slide.image import no_pixel_limit
from digipath_ray.slide.info import SlideError

_COUNTED: dict[tuple[str, int, int], Seen] = {}
MAX_COUNTED = 4096
"""Masks whose values are remembered."""
JPEG_COMPRESSION = (6, 7)
GRAY_SHIFT = 8
"""A TIFF palette has 16 bits a color."""


class MaskFile(Protocol):
    """An open mask image."""

    @property
    def kind(self) -> Kind:
        """How its pixels are stored."""

    @property
    def palette(self) -> Palette | None:
        """Colors of the indices, if its pixels are such."""

    @property
    def is_float(self) -> bool:
        """Whether it may hold what is not a number."""

    def survey(self) -> Seen:
        """Count its values."""

    def bits(self, test: Test) -> Bits:
        """Its pixels, true where their value counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPixels:
    """A mask image whose values are understood.

    Attributes:
        tumor: its pixels, true where tumor.
        ignored: true where neither tumor nor normal; None if nowhere.
        seen: its values; None if they were taken on trust.
        decision: what they mean.
    """

    tumor: Bits
    ignored: Bits | None
    seen: Seen | None
    decision: Decision


def open_mask(path: Path, rule: MaskRule, *, trusted: bool = False) -> MaskPixels:
    """Open the pixels of a mask image.

    Args:
        path: a TIFF of any kind, or any image that Pillow opens. A pyramid is read at
            its finest level. Palettes are read by index, or by brightness where they
            have no other color; of several channels the maximum counts.
        rule: what the user says of masks.
        trusted: do not count the values again: they were found to be clear.

    Raises:
        SlideError: not an image, damaged, too large, or of unclear values.
    """
    image = _open(path)
    seen = None
    if image.palette is not None or not trusted:
        seen = _survey(path, image)
    gray = None
    if image.palette is not None and seen is not None:
        gray = brightness(image.palette, seen.counts)
        seen = seen if gray is None else as_gray(seen, gray)
    decision = (
        decide(path.name, seen, rule)
        if seen is not None
        else decide_unseen(image.kind, rule, may_be_nan=image.is_float)
    )
    tumor = image.bits(_through(gray, decision.is_tumor))
    if seen is not None and decision.by_itself and not trusted:
        _check_border(path, seen, decision, tumor)
    ignored = decision.is_ignored
    return MaskPixels(
        tumor=tumor,
        ignored=None if ignored is None else image.bits(_through(gray, ignored)),
        seen=seen,
        decision=decision,
    )


def count_values(path: Path) -> Seen:
    """Values of a mask image, whatever they mean.

    Raises:
        SlideError: not an image, damaged or too large.
    """
    return _survey(path, _open(path))


def _open(path: Path) -> MaskFile:
    with path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGIC
    return _open_tiff(path) if is_tiff else _open_image(path)


def _through(gray: NDArray[np.uint8] | None, counts: Test) -> Test:
    """A test of gray values as one of the indices of a palette."""
    return counts if gray is None else lambda indices: counts(gray[indices])


def _survey(path: Path, image: MaskFile) -> Seen:
    """Values of a mask; counted once in a process as long as the file is the same."""
    state = path.stat()
    key = (str(path.absolute()), state.st_mtime_ns, state.st_size)
    if key not in _COUNTED:
        if len(_COUNTED) >= MAX_COUNTED:
            _COUNTED.pop(next(iter(_COUNTED)), None)
        _COUNTED[key] = image.survey()
    return _COUNTED[key]


def _check_border(path: Path, seen: Seen, decision: Decision, bits: Bits) -> None:
    """Raise if what counts as tumor looks like a white background."""
    plain = {v: max(v) if isinstance(v, tuple) else v for v in seen.counts}
    counted = decision.is_tumor(np.array([*plain.values(), 0.0]))[:-1]
    of = sum(n for n, c in zip(seen.counts.values(), counted, strict=True) if c)
    rows, cols = np.arange(bits.height), np.arange(bits.width)
    ends = [bits.take(rows[[i]], cols) for i in (0, -1)]
    ends += [bits.take(rows, cols[[i]]) for i in (0, -1)]
    border = np.concatenate([end.ravel() for end in ends])
    check_background(
        path.name, seen, tumor=of / seen.pixels, border=float(border.mean())
    )


# --- TIFF


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tiff:
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


def _check_size(path: Path, width: int, height: int, *, limit: int, what: str) -> None:
    if width * height > limit:
        raise SlideError(
            f"{path.name}: {width} x {height} px {what}",
            "convert the mask to a tiled TIFF, e.g. vips tiffsave --tile "
            "--compression lzw",
        )


def _open_tiff(path: Path) -> _Tiff:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = _finest_page(tiff, path)
            width, height = int(page.imagewidth), int(page.imagelength)
            page.decode  # noqa: B018 - tifffile builds it lazily, while the file is open
            if page.is_tiled:
                side = (int(page.tilewidth), int(page.tilelength))
                _check_size(path, *side, limit=MAX_PIECE_PX, what="in one tile")
            else:
                _check_size(
                    path, width, height, limit=MAX_KEPT_PX, what="without tiles"
                )
                rows = min(int(page.rowsperstrip), height)
                _check_size(path, width, rows, limit=MAX_PIECE_PX, what="in one strip")
            return _layout(path, page)
    except SlideError:
        raise
    except (tifffile.TiffFileError, *DAMAGE) as e:
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


def _layout(path: Path, page: Any) -> _Tiff:
    """How the samples of a TIFF page are values."""
    # Extra samples are alpha, which is visibility and not tumor.
    samples = int(page.samplesperpixel) - len(page.extrasamples)
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
    return _Tiff(
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


# --- other images


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """An image that was decoded as a whole."""

    kind: Kind
    palette: Palette | None
    samples: Samples
    alpha: Samples | None

    @property
    def is_float(self) -> bool:
        """Whether it may hold what is not a number."""
        return self.samples.dtype.kind == "f"

    def survey(self) -> Seen:
        """Count the values."""
        count = ValueCount(self.kind)
        count.add(self.samples, self.alpha)
        height, width = self.samples.shape[:2]
        return count.seen(width * height, palette=self.palette)

    def bits(self, test: Test) -> Bits:
        """Its pixels, true where their value counts."""
        packed = np.packbits(test(plain_values(self.samples)), axis=1)
        return PackedBits(packed=packed, width=self.samples.shape[1])


def _open_image(path: Path) -> _Decoded:
    try:
        with no_pixel_limit(), Image.open(path) as image:
            _check_size(path, *image.size, limit=MAX_PIECE_PX, what="without tiles")
            is_jpeg = image.format in ("JPEG", "MPO")
            ImageOps.exif_transpose(image, in_place=True)
            return _decoded(image, is_jpeg=is_jpeg)
    except SlideError:
        raise
    except DAMAGE as e:
        raise damaged(path, e) from e


def _decoded(image: Image.Image, *, is_jpeg: bool) -> _Decoded:
    mode, palette = image.mode, None
    kind: Kind = "JPEG" if is_jpeg else "gray"
    if mode in ("P", "PA"):
        colors = image.getpalette("RGB") or []
        palette = np.array(colors, np.uint8).reshape(-1, 3)
        kind = "index"
    elif mode == "1":
        kind = "bool"
    elif mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif mode == "La":
        image = image.convert("LA")
    elif mode == "RGBa":
        image = image.convert("RGBA")
    values = np.asarray(image)
    samples = values.reshape(*values.shape[:2], -1)
    alpha = None
    if image.mode in ("LA", "RGBA", "PA"):
        samples, alpha = samples[..., :-1], samples[..., -1:]
    return _Decoded(
        kind=kind,
        palette=palette,
        samples=samples,
        alpha=alpha,
    )
