"""A boolean image that knows its physical size, and its PNG file.

Rows and columns are mask px; widths and radii are micrometers, x and y apart, so the
same call means the same on every scanner and for pixels that are not square.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.storage.files import open_file

Bools = NDArray[np.bool_]
UM_PER_INCH = 25_400.0
MAX_MASK_PX = 1 << 30
"""A slide of 100,000 px a side at 0.25 um/px has 10 million at 8 um/px."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """A boolean array [rows, cols] over a whole slide, with the size of its pixels.

    Attributes:
        array: bool [rows, cols].
        mpp_x, mpp_y: um per mask px.
    """

    array: Bools
    mpp_x: float
    mpp_y: float

    def __post_init__(self) -> None:
        """Check the fields."""
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
        """Another array on the same pixels."""
        return type(self)(array=array, mpp_x=self.mpp_x, mpp_y=self.mpp_y)

    def dilated(self, radius_um: float) -> Self:
        """Every pixel whose center is within ``radius_um`` of a true pixel's center."""
        return self.like(
            _dilate(self.array, radius_um / self.mpp_x, radius_um / self.mpp_y)
        )

    def closed(self, width_um: float) -> Self:
        """Gaps up to ``width_um`` filled, to within one pixel (binary closing).

        At its edge the array goes on as it ends there: a gap that runs out of it is
        filled, what lies between a true part and the edge is not.
        """
        rx, ry = self._reach(width_um)
        pad_x, pad_y = math.ceil(rx), math.ceil(ry)
        padded = np.pad(self.array, ((pad_y, pad_y), (pad_x, pad_x)), mode="edge")
        closed = ~_dilate(~_dilate(padded, rx, ry), rx, ry)
        return self.like(closed[pad_y:-pad_y, pad_x:-pad_x])

    def opened(self, width_um: float) -> Self:
        """Parts up to ``width_um`` wide removed, to within one pixel (binary opening).

        A part that touches the array's edge may go on beyond it, and is measured so.
        """
        rx, ry = self._reach(width_um)
        return self.like(_dilate(~_dilate(~self.array, rx, ry), rx, ry))

    def _reach(self, width_um: float) -> tuple[float, float]:
        # Half a pixel more: a gap of n px is closed from a radius of n/2 on if n is
        # even, but only from (n + 1)/2 on if it is odd.
        return width_um / self.mpp_x / 2 + 0.5, width_um / self.mpp_y / 2 + 0.5


def _dilate(array: Bools, radius_x: float, radius_y: float) -> Bools:
    """The union of the array shifted to every pixel of an ellipse (exact, radii in px).

    Row by row of the ellipse, the widest last, each row's horizontal dilation growing
    from the one before: about 3 radii of whole-array ORs, ten times faster than a
    distance transform at the sizes of a slide's mask.
    """
    out = np.zeros_like(array)
    wide, width = array.copy(), 0
    rows = min(math.floor(radius_y + 1e-9), array.shape[0] - 1)
    for row in range(rows, -1, -1):
        chord = math.sqrt(max(0.0, 1 - (row / radius_y) ** 2)) if row else 1.0
        while width < min(math.floor(radius_x * chord + 1e-9), array.shape[1] - 1):
            width += 1
            wide[:, width:] |= array[:, :-width]
            wide[:, :-width] |= array[:, width:]
        if row:
            out[row:] |= wide[:-row]
            out[:-row] |= wide[row:]
    return out | wide


def write_mask(path: str | Path, mask: Mask) -> None:
    """Write a PNG of 0 and 255 whose pHYs chunk holds the physical pixel size."""
    # PNG counts whole px per meter: 0.003 % off at 64 um/px, nothing at 8.
    dpi = (UM_PER_INCH / mask.mpp_x, UM_PER_INCH / mask.mpp_y)
    Image.fromarray(mask.array.astype(np.uint8) * 255).save(path, format="PNG", dpi=dpi)


def read_mask(path: str | Path) -> Mask:
    """A mask as :func:`write_mask` writes it.

    Raises:
        ValueError: no image, or one that does not state its physical size.
    """
    array, dpi = _decode(path)
    if dpi is None:
        raise ValueError(
            f"{path}: a mask without a physical size (pHYs); read it with "
            "read_mask_image and say which slide it covers"
        )
    return Mask(array=array, mpp_x=UM_PER_INCH / dpi[0], mpp_y=UM_PER_INCH / dpi[1])


def read_mask_image(path: str | Path) -> Bools:
    """Bool [rows, cols] of any image: tissue is where a value is above 0.

    For masks made elsewhere, whose printing density says nothing about the slide.

    Raises:
        ValueError: no image, or one too large to be a mask.
    """
    return _decode(path)[0]


def _decode(path: str | Path) -> tuple[Bools, tuple[float, float] | None]:
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # ours is the limit
    try:
        with open_file(path) as file, Image.open(file) as image:
            if image.width * image.height > MAX_MASK_PX:
                raise ValueError(f"{path}: too large for a mask: save it at 8 um/px")
            # Alpha says what is seen, not what is tissue.
            opaque = {"RGBA": "RGB", "LA": "L", "PA": "P"}.get(image.mode, image.mode)
            dpi = image.info.get("dpi")
            values = np.asarray(image.convert(opaque))
    except (OSError, SyntaxError) as e:
        raise ValueError(f"{path}: not an image that can be read: {e}") from e
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    channels = (values > 0).reshape(*values.shape[:2], -1)
    return np.asarray(channels.any(axis=-1)), dpi
