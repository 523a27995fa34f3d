"""Boolean masks of known pixel size, and their PNG files.

Rows and columns are mask px; widths and radii are micrometers, converted separately in
x and y, so a call has the same effect on every scanner and with non-square pixels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.annotations.maskvalues import JPEG_ABOVE
from digipath_ray.slide.image import DAMAGED, check_whole, no_pixel_limit
from digipath_ray.storage.files import open_file

Bools = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)
UM_PER_INCH = 25_400.0
PHOTOMETRIC_TAG, SOFTWARE_TAG = 262, 305
"""TIFF tags; a photometric interpretation of 0 is "white is zero"."""
MAX_MASK_PX = 1 << 30
"""A slide of 100,000 px a side at 0.25 um/px has 10 million at 8 um/px."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """A boolean array [rows, cols] over a whole slide, with its pixel size.

    Attributes:
        array: bool [rows, cols].
        mpp_x, mpp_y: um per mask px.
    """

    array: Bools
    mpp_x: float
    mpp_y: float

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.array.dtype != np.bool_ or self.array.ndim != 2:
            raise ValueError(
                f"a mask is bool [rows, cols], not {self.array.dtype} "
                f"{list(self.array.shape)}"
            )
        if not (self.mpp_x > 0 and self.mpp_y > 0):
            raise ValueError(f"mask mpp {self.mpp_x} x {self.mpp_y}: must be positive")

    @property
    def area_mm2(self) -> float:
        """Area of the true pixels, mm2."""
        return int(self.array.sum()) * self.mpp_x * self.mpp_y / 1e6

    def like(self, array: Bools) -> Self:
        """Wrap another array on the same pixel grid."""
        return type(self)(array=array, mpp_x=self.mpp_x, mpp_y=self.mpp_y)

    def dilated(self, radius_um: float) -> Self:
        """Pixels whose center is within ``radius_um`` of a true pixel's center."""
        return self.like(
            _dilate(self.array, radius_um / self.mpp_x, radius_um / self.mpp_y)
        )

    def closed(self, width_um: float) -> Self:
        """Fill gaps up to ``width_um``, to within one pixel (binary closing).

        The array is padded by its edge values: a gap that runs out of it is filled, the
        space between a true part and the edge is not.
        """
        rx, ry = self._reach(width_um)
        pad_x, pad_y = math.ceil(rx), math.ceil(ry)
        padded = np.pad(self.array, ((pad_y, pad_y), (pad_x, pad_x)), mode="edge")
        # Erosion is the dilation of the complement.
        closed = ~_dilate(~_dilate(padded, rx, ry), rx, ry)
        return self.like(closed[pad_y:-pad_y, pad_x:-pad_x])

    def opened(self, width_um: float) -> Self:
        """Remove parts up to ``width_um`` wide, to within one pixel (binary opening).

        A part that touches the array's edge is assumed to continue beyond it.
        """
        rx, ry = self._reach(width_um)
        return self.like(_dilate(~_dilate(~self.array, rx, ry), rx, ry))

    def _reach(self, width_um: float) -> tuple[float, float]:
        # Half a pixel more: closing a gap of n px needs a radius of n/2 if n is even,
        # but (n + 1)/2 if it is odd.
        return width_um / self.mpp_x / 2 + 0.5, width_um / self.mpp_y / 2 + 0.5


def _dilate(array: Bools, radius_x: float, radius_y: float) -> Bools:
    """Dilate by an ellipse (exact, radii in px).

    The ellipse is processed row by row, the widest last; each row's horizontal dilation
    extends the previous one: about 3 radii of whole-array ORs, ten times faster than a
    distance transform at the size of slide masks.
    """
    out = np.zeros_like(array)
    wide, width = array.copy(), 0
    # The epsilon keeps a radius of 3 px at 3 where micrometers gave 2.9999.
    # Beyond the array there is nothing to shift, so both radii end at its size.
    rows = min(math.floor(radius_y + 1e-9), array.shape[0] - 1)
    for row in range(rows, -1, -1):
        # Rows far from the center have the shortest chord, so `wide` only ever grows.
        chord = math.sqrt(max(0.0, 1 - (row / radius_y) ** 2)) if row else 1.0
        while width < min(math.floor(radius_x * chord + 1e-9), array.shape[1] - 1):
            width += 1
            wide[:, width:] |= array[:, :-width]
            wide[:, :-width] |= array[:, width:]
        if row:
            out[row:] |= wide[:-row]
            out[:-row] |= wide[row:]
    return out | wide


def at_centers(
    array: NDArray[T],
    shape: tuple[int, int],
    *,
    mpp: tuple[float, float],
    onto: tuple[float, float],
) -> NDArray[T]:
    """A map [rows, cols] on another grid from the same corner: nearest by position.

    Args:
        array: the map.
        shape: rows and columns of the other grid.
        mpp: um per px of the map, x and y.
        onto: um per px of the other grid, x and y.
    """
    rows = ((np.arange(shape[0]) + 0.5) * onto[1] / mpp[1]).astype(int)
    cols = ((np.arange(shape[1]) + 0.5) * onto[0] / mpp[0]).astype(int)
    last_row, last_col = array.shape[0] - 1, array.shape[1] - 1
    return array[np.ix_(rows.clip(max=last_row), cols.clip(max=last_col))]


def write_mask(path: str | Path, mask: Mask) -> None:
    """Write a PNG of 0 and 255 whose pHYs chunk holds the physical pixel size."""
    # PNG stores integer px per meter: error 0.003 % at 64 um/px, none at 8.
    dpi = (UM_PER_INCH / mask.mpp_x, UM_PER_INCH / mask.mpp_y)
    Image.fromarray(mask.array.astype(np.uint8) * 255).save(path, format="PNG", dpi=dpi)


def read_mask(path: str | Path) -> Mask:
    """Read a mask written by :func:`write_mask`.

    Raises:
        ValueError: not an image, or one without physical size.
    """
    array, dpi = _decode(path)
    if dpi is None:
        raise ValueError(
            f"{path}: the mask has no physical size (pHYs); read it with "
            "read_mask_image and give the slide it covers"
        )
    return Mask(array=array, mpp_x=UM_PER_INCH / dpi[0], mpp_y=UM_PER_INCH / dpi[1])


def read_mask_image(path: str | Path) -> Bools:
    """Read any image as bool [rows, cols]: tissue is > 0, in a JPEG > 127.

    For masks of other tools, whose printing density is unrelated to the slide.

    Raises:
        ValueError: not an image, or too large for a mask.
    """
    return _decode(path)[0]


class TooLargeError(ValueError):
    """An image has more pixels than any mask."""


def _decode(path: str | Path) -> tuple[Bools, tuple[float, float] | None]:
    try:
        with no_pixel_limit(), open_file(path) as file, Image.open(file) as image:
            if image.width * image.height > MAX_MASK_PX:
                raise TooLargeError(f"{path}: too large for a mask: save it at 8 um/px")
            check_whole(image)
            # Alpha is visibility, not tissue.
            opaque = {"RGBA": "RGB", "LA": "L", "PA": "P"}.get(image.mode, image.mode)
            dpi = image.info.get("dpi")
            above = JPEG_ABOVE if image.format in ("JPEG", "MPO") else 0
            inverted = _is_inverted(image)
            values = np.asarray(image.convert(opaque))
    except TooLargeError:
        raise
    except DAMAGED as e:
        raise ValueError(f"{path}: cannot read the image: {e}") from e
    channels = (values > above).reshape(*values.shape[:2], -1)
    return np.asarray(channels.any(axis=-1) ^ inverted), dpi


def _is_inverted(image: Image.Image) -> bool:
    """Whether Pillow inverts the image against what was meant.

    tifffile writes the True of a bool array as 1 and calls that black.
    """
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    by_tifffile = str(tags.get(SOFTWARE_TAG, "")).startswith("tifffile")
    return image.mode == "1" and by_tifffile and tags.get(PHOTOMETRIC_TAG) == 0
