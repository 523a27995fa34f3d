"""Pixels of a slide's tissue to estimate its stains from: small fields all over it.

A thumbnail would not do: at 8 um/px a pixel is nucleus and stroma at once. Nor would
the pixels as stored: of a pale slide their noise is as large as what parts the stains.
Fields are read at about 2 um/px, the same ones each time.
"""

import numpy as np
from numpy.typing import NDArray

from digipath_ray.slide.open import Pixels, Slide
from digipath_ray.stain.color import density
from digipath_ray.stain.estimate import (
    StainError,
    StainEstimate,
    StainMethod,
    estimate_stains,
    is_stained,
)
from digipath_ray.tissue.find import Tissue

FIELD_MPP = 2.0
"""Fields are read at this many um/px; coarser slides as they are."""
FIELD_PX = 64
FIELDS = 64
"""Fields read at most: 0.26 Mpx, 1 mm2. In a file that has no level near 2 um/px each
one is four tiles of 256 px to decode."""
LEAST_TISSUE = 0.5
"""Share of a field that is tissue; of less where there is no such field."""
MOST_DENSE, FEW = 1.8, 0.1
"""Fields whose median density is so many times that of all are folds or clots, if they
are at most this share: folded tissue is twice as dense, but so is tumor beside fat."""


def slide_stains(slide: Slide, tissue: Tissue, method: StainMethod) -> StainEstimate:
    """The stains of an open slide, from fields of its tissue.

    Args:
        slide: the slide.
        tissue: found on it.
        method: of the estimate.

    Raises:
        StainError: they cannot be told; says why.
        SlideError: the file is damaged there.
    """
    return estimate_stains(without_folds(read_fields(slide, tissue)), method)


def read_fields(slide: Slide, tissue: Tissue) -> list[Pixels]:
    """Fields of tissue without ink, each RGB [FIELD_PX, FIELD_PX, 3] or smaller.

    Raises:
        SlideError: the file is damaged there.
    """
    mpp_x, mpp_y = slide.info.need_mpp()
    l0_per_px = max(1.0, FIELD_MPP / mpp_x), max(1.0, FIELD_MPP / mpp_y)
    width = int(slide.info.width / l0_per_px[0])
    height = int(slide.info.height / l0_per_px[1])
    places = choose_fields(tissue, width=max(1, width), height=max(1, height))
    return [
        slide.means(l0_per_px, (slice(top, bottom), slice(left, right)))
        for top, bottom, left, right in places.tolist()
    ]


def choose_fields(tissue: Tissue, *, width: int, height: int) -> NDArray[np.int64]:
    """Where fields lie: [n, 4] of top, bottom, left and right, n <= FIELDS.

    Args:
        tissue: of the slide.
        width: of the slide, px of the fields' scale.
        height: of it.
    """
    good = tissue.mask.array & ~tissue.ink.array
    tops = np.arange(0, height, FIELD_PX)
    lefts = np.arange(0, width, FIELD_PX)
    bottoms = np.minimum(tops + FIELD_PX, height)
    rights = np.minimum(lefts + FIELD_PX, width)
    share = _box_means(
        good, (tops / height, bottoms / height), (lefts / width, rights / width)
    )
    drawn = _box_means(
        tissue.ink.array,
        (tops / height, bottoms / height),
        (lefts / width, rights / width),
    )
    share[drawn > 0] = 0
    rows, cols = np.nonzero(share >= LEAST_TISSUE)
    if len(rows) == 0:
        rows, cols = np.nonzero(share > 0)
    # In a fixed random order: all over the tissue, however many are taken.
    taken = np.random.default_rng(0).permutation(len(rows))[:FIELDS]
    r, c = rows[taken], cols[taken]
    return np.stack([tops[r], bottoms[r], lefts[c], rights[c]], axis=1)


def _box_means(
    mask: NDArray[np.bool_],
    rows: tuple[NDArray[np.float64], NDArray[np.float64]],
    cols: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Mean of a mask in boxes, [len(rows), len(cols)]; ends are shares of its sides."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    y0, x0 = (
        np.floor(ends[0] * side).astype(np.int64)
        for ends, side in zip((rows, cols), mask.shape, strict=True)
    )
    y1, x1 = (
        np.maximum(np.ceil(ends[1] * side).astype(np.int64), start + 1)
        for ends, side, start in zip((rows, cols), mask.shape, (y0, x0), strict=True)
    )
    found = sums[y1][:, x1] - sums[y0][:, x1] - sums[y1][:, x0] + sums[y0][:, x0]
    return np.asarray(found / ((y1 - y0)[:, None] * (x1 - x0)))


def without_folds(fields: list[Pixels]) -> Pixels:
    """Stained pixels [n, 3] of the fields that are not far denser than the others."""
    kept = [field.reshape(-1, 3) for field in fields]
    kept = [pixels[is_stained(pixels)] for pixels in kept]
    kept = [pixels for pixels in kept if len(pixels)]
    if not kept:
        raise StainError("no stained tissue is in the fields sampled")
    dense = np.array([np.median(density(pixels).mean(axis=1)) for pixels in kept])
    folded = dense > MOST_DENSE * np.median(dense)
    if folded.mean() > FEW:
        folded[:] = False
    return np.concatenate([p for p, f in zip(kept, folded, strict=True) if not f])
