"""Counts the values of a mask image, piece by piece."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations.maskvalues import (
    JPEG_ABOVE,
    JPEG_GRAY,
    JPEG_SPECKS,
    MANY,
    Kind,
    Seen,
    Value,
    plain,
)

Samples = NDArray[Any]
"""Pixels of an image, [rows, cols, channels]."""
CODE = 1 << 16
"""Base of a color's code: a channel has up to 16 bits."""
Palette = NDArray[np.uint8]
"""Color of each index, [n, 3]."""


class ValueCount:
    """A running count of a mask's values."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._codes: Counter[float] = Counter()
        self._invalid = 0
        self._gray = 0
        self._alpha: set[int] = set()

    def add(
        self, samples: Samples, alpha: Samples | None = None, times: int = 1
    ) -> None:
        """Count a piece, [rows, cols, channels], that the mask holds several times."""
        if alpha is not None and len(self._alpha) < 2:
            self._alpha |= {int(alpha.min()), int(alpha.max())}
        if self.kind == "JPEG":
            low, high = JPEG_GRAY
            middle = (samples >= low) & (samples <= high)
            self._gray += times * int(np.count_nonzero(middle.any(axis=-1)))
            samples = np.where(samples > JPEG_ABOVE, np.uint8(255), np.uint8(0))
        codes = _codes(samples)
        if codes.dtype.kind == "f":
            invalid = np.isnan(codes)
            self._invalid += times * int(np.count_nonzero(invalid))
            codes = codes[~invalid]
        # Once there are too many to be a label image their number does not matter.
        if len(self._codes) > MANY:
            return
        values, numbers = np.unique(codes, return_counts=True)
        for value, n in zip(values.tolist(), numbers.tolist(), strict=True):
            self._codes[value] += times * n

    def seen(self, pixels: int, *, palette: Palette | None = None) -> Seen:
        """What was counted of an image.

        Args:
            pixels: all its pixels; those that are in no piece are 0.
            palette: of an indexed image.
        """
        codes = Counter(self._codes)
        missing = pixels - codes.total() - self._invalid
        if missing > 0 and len(codes) <= MANY:
            codes[0] += missing
        counts: Counter[Value] = Counter()
        for code, n in codes.items():
            if self.kind != "JPEG" or n > JPEG_SPECKS * pixels or code >= 0:
                counts[_value(code)] += n
        kind: Kind = self.kind
        if kind == "gray" and any(isinstance(value, tuple) for value in counts):
            kind = "color"
        index_0 = None
        if palette is not None and len(palette):
            red, green, blue = palette[0].tolist()
            index_0 = (red, green, blue)
        return Seen(
            kind=kind,
            counts=counts,
            pixels=pixels,
            invalid=self._invalid,
            see_through=len(self._alpha) > 1,
            index_0=index_0,
            gray=self._gray / max(pixels, 1),
        )


def plain_values(samples: Samples) -> NDArray[Any]:
    """One value for each pixel: of several channels the largest."""
    values = samples[..., 0] if samples.shape[-1] == 1 else samples.max(axis=-1)
    return np.asarray(values)


def brightness(palette: Palette, used: Counter[Value]) -> NDArray[np.uint8] | None:
    """Gray value of each index where the palette has no other color in use.

    Black may have any index in such a palette. A palette of colors is that of a label
    image, whose indices are its classes.
    """
    indices = [int(v) for v in used if isinstance(v, float | int)]
    colors = palette[[i for i in indices if i < len(palette)]]
    if (colors != colors[:, :1]).any():
        return None
    return np.asarray(palette.max(axis=1))


def as_gray(seen: Seen, gray: NDArray[np.uint8]) -> Seen:
    """Counts of indices as counts of their gray values."""
    counts: Counter[Value] = Counter()
    for index, n in seen.counts.items():
        counts[int(gray[int(plain(index))])] += n
    return replace(seen, kind="gray", counts=counts)


def _codes(samples: Samples) -> NDArray[Any]:
    """A number for each pixel: its gray value, or a negative one for a color."""
    if samples.shape[-1] == 1:
        return np.asarray(samples[..., 0])
    first = samples[..., 0]
    if samples.dtype.kind == "f":
        return np.asarray(samples.max(axis=-1))
    colored = (samples != samples[..., :1]).any(axis=-1)
    if not colored.any():
        return np.asarray(first)
    wide = samples.astype(np.int64)
    code = (wide[..., 0] * CODE + wide[..., 1]) * CODE + wide[..., -1]
    return np.where(colored, -code, wide[..., 0])


def _value(code: float) -> Value:
    """The gray value or color of a code."""
    if code >= 0 or -code < CODE:
        # A negative number of a signed mask, or a gray value.
        return code if not float(code).is_integer() else int(code)
    rest, blue = divmod(int(-code), CODE)
    red, green = divmod(rest, CODE)
    return red, green, blue
