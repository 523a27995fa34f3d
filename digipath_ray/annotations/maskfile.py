"""Mask images of any format: their values, and their pixels as bits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from digipath_ray.annotations.maskbits import (
    DAMAGE,
    MAX_PIECE_PX,
    TIFF_MAGIC,
    Bits,
    PackedBits,
    check_size,
    damaged,
)
from digipath_ray.annotations.maskcount import (
    Palette,
    Samples,
    ValueCount,
    as_gray,
    brightness,
    plain_values,
)
from digipath_ray.annotations.masktiff import open_tiff
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
from digipath_ray.slide.image import check_whole, no_pixel_limit
from digipath_ray.slide.info import SlideError

_COUNTED: dict[tuple[str, int, int], Seen] = {}
MAX_COUNTED = 4096
"""Masks whose values are remembered."""


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
    return open_tiff(path) if is_tiff else _open_image(path)


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
            check_size(path, *image.size, limit=MAX_PIECE_PX, what="without tiles")
            check_whole(image)
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
