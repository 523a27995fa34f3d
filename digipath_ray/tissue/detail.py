"""Detail of gray pixels: energy of their Laplacian, and means over blocks and windows.

Tissue has detail at every scale, so that in focus the energy at a px and at two of them
are alike, whatever stain and contrast; blur takes the finer one first.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import downscale_local_mean

from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import Bools

Floats = NDArray[np.float32]

ROUNDING = 20 / 36
"""Energy that rounding the mean of three channels to 8 bits adds: variance (1/12)/3 per
px, times the Laplacian's 20."""


def gray_of(rgb: Pixels) -> Floats:
    """Mean of the three channels [rows, cols, 3], gray levels."""
    r, g, b = (rgb[..., i].astype(np.float32) for i in range(3))
    return np.asarray((r + g + b) / np.float32(3))


def energy(gray: Floats) -> Floats:
    """Squared Laplacian [rows, cols] of gray levels."""
    return np.asarray(ndimage.laplace(gray) ** 2)


def binned(image: Floats, rows: int, cols: int) -> Floats:
    """Means of rows x cols pixel blocks; an incomplete last block is dropped."""
    height, width = image.shape[0] // rows * rows, image.shape[1] // cols * cols
    # Cropped, because skimage would fill an incomplete block with zeros.
    return np.asarray(downscale_local_mean(image[:height, :width], (rows, cols)))


def local_mean(values: Floats, where: Bools, window: tuple[int, ...]) -> Floats:
    """Mean over the ``where`` pixels of a window around each; 0 if it has none."""
    weight = where.astype(np.float32)
    total = ndimage.uniform_filter(values * weight, window, mode="constant")
    count = ndimage.uniform_filter(weight, window, mode="constant")
    # Sums of a running window do not end at exactly 0.
    some = count > 0.5 / np.prod(window)
    return np.where(some, total / np.maximum(count, 1e-6), 0.0).astype(np.float32)
