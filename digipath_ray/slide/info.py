"""Slide metadata, and the error for slides that cannot be used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.geometry import mpp_from_magnification

Pixels = NDArray[np.uint8]
"""RGB [height, width, 3]."""
ReadLevel = Callable[[int, int, int, int, int], Pixels]
"""(level, x, y, width, height) in px of and inside the level -> RGB [H, W, 3]."""

MIN_FILE_MPP, MAX_FILE_MPP = 0.02, 20.0
"""Plausible um per px of a microscope; excludes printing densities (72 dpi: 353)."""
APPARENT_FACTOR = 1.5
"""Between Aperio's mpp and the usual one at its AppMag, from which they contradict."""
OBJECTIVE_FACTOR = 3.0
"""The same for an objective: lenses of cameras make 20x as fine as 0.22 um/px."""
OTHER_HEADER = 0.03
"""Relative difference of two headers' mpp from which they contradict."""


class SlideError(ValueError):
    """A slide cannot be used; ``hint`` tells the fix."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return (SlideError, (str(self), self.hint))


@dataclass(frozen=True, kw_only=True)
class Note:
    """What to know of a slide's file.

    Attributes:
        flag: name of the quality flag it raises; None if it takes nobody's attention.
        text: a sentence.
    """

    flag: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The scanner's whole canvas, in which only the scanned bounds hold pixels.

    Attributes:
        offset_x, offset_y: left top corner of the bounds in the canvas, level-0 px.
        width, height: of the canvas, level-0 px.
    """

    offset_x: int
    offset_y: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class SlideInfo:
    """Metadata of a slide file; sizes in level-0 px, mpp in um per px.

    Attributes:
        path: path of the slide file.
        format: OpenSlide's vendor name, or Pillow's format of a plain image.
        width: level-0 px of the scanned bounds, or of the slide if it has none.
        height: likewise.
        mpp_x: um per level-0 px; None if neither the file nor the user states it.
        mpp_y: likewise.
        mpp_source: "given", "file" or "none".
        file_mpp: the file's own mpp in x, even if the user overrides it.
        level_dimensions: (width, height) of every level, px of that level.
        level_downsamples: level-0 px per level px.
        objective_power: nominal magnification, 20 or 40, if the file states it.
        canvas: where the bounds lie, if the slide is part of a larger canvas.
        notes: what to know of the file.
    """

    path: str
    format: str
    width: int
    height: int
    mpp_x: float | None
    mpp_y: float | None
    mpp_source: str
    file_mpp: float | None
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    objective_power: float | None
    canvas: Canvas | None = None
    notes: tuple[Note, ...] = ()

    def need_mpp(self) -> tuple[float, float]:
        """The slide's mpp in x and y, um per level-0 px.

        Raises:
            SlideError: the mpp is unknown.
        """
        if self.mpp_x is None or self.mpp_y is None:
            likely = ""
            if self.objective_power:
                likely = (
                    f" (its objective power of {self.objective_power:g}x suggests "
                    f"{mpp_from_magnification(self.objective_power):g})"
                )
            raise SlideError(
                "the file has no plausible micrometers per pixel (mpp)",
                f"give --slide-mpp, or a column mpp in the manifest{likely}",
            )
        return self.mpp_x, self.mpp_y


@dataclass(frozen=True, kw_only=True)
class Mpp:
    """Um per level-0 px of a slide, and its source, as in ``SlideInfo``."""

    x: float | None
    y: float | None
    source: str
    file: float | None


def settle_mpp(given: float | None, file_x: object, file_y: object) -> Mpp:
    """Resolve the mpp: the user's value, else the file's.

    An invalid or implausible value in the file counts as missing; an axis without a
    value takes the other axis's.
    """
    x, y = _plausible(file_x), _plausible(file_y)
    x, y = x or y, y or x
    if given is not None:
        return Mpp(x=given, y=given, source="given", file=x)
    return Mpp(x=x, y=y, source="file" if x else "none", file=x)


def contradictions(
    mpp: Mpp, power: float | None, vendor: str, other_x: float | None
) -> list[Note]:
    """What else the file says that contradicts its mpp.

    Args:
        mpp: of the slide.
        power: objective power by the file.
        vendor: OpenSlide's name of the format.
        other_x: um per px by another header of the file.
    """
    found = []
    if mpp.x and power:
        usual = mpp_from_magnification(power)
        factor = max(mpp.x / usual, usual / mpp.x)
        if factor > (APPARENT_FACTOR if vendor == "aperio" else OBJECTIVE_FACTOR):
            found.append(
                Note(
                    flag="mpp contradicts objective",
                    text=f"{mpp.x:.4g} um/px and {power:g}x contradict each other, "
                    f"{power:g}x is usually {usual:g}: give the right one as "
                    "--slide-mpp, or a column mpp in the manifest",
                )
            )
    if mpp.file and other_x and abs(other_x / mpp.file - 1) > OTHER_HEADER:
        found.append(
            Note(
                flag="two mpp in the file",
                text=f"two headers of the file contradict each other: {mpp.file:.4g} "
                f"and {other_x:.4g} um/px; the first is used unless you give another",
            )
        )
    return found


def positive_number(text: object) -> float | None:
    """Parse a file property as a positive, finite number, or None."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _plausible(text: object) -> float | None:
    value = positive_number(text)
    return value if value and MIN_FILE_MPP <= value <= MAX_FILE_MPP else None


def on_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Composite RGBA [height, width, 4] on white, RGB [height, width, 3]."""
    if rgba[..., 3].min(initial=255) == 255:
        out = np.empty((*rgba.shape[:2], 3), np.uint8)
        for channel in range(3):  # four times as fast as copying rgba[..., :3]
            out[..., channel] = rgba[..., channel]
        return out
    image = Image.fromarray(rgba)
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return np.array(white)
