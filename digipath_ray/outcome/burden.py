"""Tumor burden: viable tumor area divided by the area of the whole tumor region.

Where the networks know the whole tumor (``whole_classes``), the whole region is what
they say, thresholded and cleaned as the viable tumor is, which is part of it in any
case. Else it is the convex hull of all viable tumor. Both are intersected with the
tissue.
The paper's notebook divides the viable area before morphology by the hull's, which may
exceed 1, and any stray blob extends the hull. Here the same viable area defines the
hull and the numerator, and small pieces are dropped.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import (
    inverse_gaussian_gradient,
    morphological_geodesic_active_contour,
)
from skimage.transform import downscale_local_mean

from digipath_ray.annotations.outlines import Shape
from digipath_ray.config.classes import NO_HULL, WHOLE
from digipath_ray.config.run import OutcomeSpec
from digipath_ray.heatmap.heatmap import Heatmap, on_heatmap
from digipath_ray.outcome.hull import CORNERS, convex_hull, fill
from digipath_ray.outcome.lesions import NEIGHBORS
from digipath_ray.outcome.qupath import trace
from digipath_ray.tissue.mask import Mask

Bools = NDArray[np.bool_]
CONTOUR_UM = 64.0
"""Minimum pixels of the map for the active contour."""
CONTOUR_PX = 256
"""Maximum longer side of that map: the contour moves one px per step."""
STOP = 0.5
"""Edge map value (1 in flat areas, 0.16 on a border) at which the contour stops."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Burden:
    """Tumor burden of a slide, and the masks it was measured on.

    Attributes:
        viable: viable tumor after morphology, inside ``whole``; heatmap px.
        whole: the whole tumor region.
        burden: area of ``viable`` / area of ``whole``, 0 to 1; None if no tumor was
            found.
        viable_mm2: area of ``viable``.
        whole_mm2: area of ``whole``.
        note: reason if there is no burden.
        whole_from: what the whole region is: "hull", "refined hull" or "networks"; None
            without tumor.
        hull: around all viable tumor, before intersection with the tissue: the convex
            hull, or its refinement; heatmap px, x right and y down from the corner.
            None where the networks know the whole tumor.
    """

    viable: Mask
    whole: Mask
    burden: float | None
    viable_mm2: float
    whole_mm2: float
    note: str | None
    hull: Shape | None
    whole_from: str | None = None


def measure_burden(
    heatmap: Heatmap, tissue: Mask | Bools, spec: OutcomeSpec, *, threshold: float
) -> Burden:
    """Measure the tumor burden of a slide.

    Args:
        heatmap: predicted heatmap.
        tissue: undilated tissue mask, or bool [H, W] on the heatmap's grid.
        spec: widths of the morphology, minimum piece, whether to refine the hull.
        threshold: minimum probability of viable tumor.

    Raises:
        ValueError: the tissue is not on the heatmap's grid, or a hull is to be refined
            where there is none.
    """
    found, note = find_viable(heatmap, spec, threshold=threshold)
    if note is not None:
        return _no_burden(found, note)
    known, hull = heatmap.channel(WHOLE), None
    if known is not None:
        if spec.refine_hull:
            raise ValueError(NO_HULL)
        there = np.asarray((known >= threshold) & heatmap.covered)
        cleaned, _ = clean(found.like(there), spec)
        region, whole_from = cleaned.array | found.array, "networks"
    else:
        hull = convex_hull(found.array, CORNERS)
        region, whole_from = fill(hull, found.array.shape), "hull"
        if spec.refine_hull:
            region, whole_from = refine(found, region), "refined hull"
            hull = trace(region)
    whole = found.like(region & _tissue(heatmap, tissue) & heatmap.covered)
    viable = found.like(found.array & whole.array)
    if not viable.array.any():
        return _no_burden(viable, "all viable tumor is outside the tissue mask")
    return Burden(
        viable=viable,
        whole=whole,
        burden=viable.area_mm2 / whole.area_mm2,
        viable_mm2=viable.area_mm2,
        whole_mm2=whole.area_mm2,
        note=None,
        hull=hull,
        whole_from=whole_from,
    )


def _no_burden(nothing: Mask, note: str) -> Burden:
    return Burden(
        viable=nothing,
        whole=nothing,
        burden=None,
        viable_mm2=0.0,
        whole_mm2=0.0,
        note=note,
        hull=None,
    )


def _tissue(heatmap: Heatmap, tissue: Mask | Bools) -> Bools:
    at_pixels = on_heatmap(tissue, heatmap) if isinstance(tissue, Mask) else tissue
    if at_pixels.shape != heatmap.weight.shape:
        raise ValueError(
            f"tissue of shape {list(at_pixels.shape)} does not match the heatmap's "
            f"{list(heatmap.weight.shape)}: pass the Mask itself"
        )
    return at_pixels


def find_viable(
    heatmap: Heatmap, spec: OutcomeSpec, *, threshold: float
) -> tuple[Mask, str | None]:
    """Viable tumor: thresholded, closed, opened, small pieces removed.

    Returns:
        The mask, and the reason if it is empty.
    """
    above = heatmap.above(threshold)
    viable = Mask(array=above, mpp_x=heatmap.mpp_x, mpp_y=heatmap.mpp_y)
    if not above.any():
        return viable, f"no tumor found: no probability reaches {threshold:g}"
    kept, largest_mm2 = clean(viable, spec)
    if kept.array.any():
        return kept, None
    return kept, (
        f"no tumor found: the largest piece, {largest_mm2:.3g} mm2 after morphology, "
        f"is below {spec.min_viable_mm2:g} mm2"
    )


def clean(mask: Mask, spec: OutcomeSpec) -> tuple[Mask, float]:
    """Close and open a mask, and drop small pieces.

    Returns:
        The mask, and the area of the largest piece before any was dropped, mm2.
    """
    if spec.viable_close_um > 0:
        mask = mask.closed(spec.viable_close_um)
    if spec.viable_open_um > 0:
        mask = mask.opened(spec.viable_open_um)
    return _drop_small(mask, spec.min_viable_mm2)


def _drop_small(mask: Mask, least_mm2: float) -> tuple[Mask, float]:
    """Keep 8-connected pieces of a minimum area; also returns the largest area, mm2."""
    labels, _ = ndimage.label(mask.array, NEIGHBORS)
    pixels = np.bincount(labels[mask.array], minlength=1)
    areas_mm2 = pixels * (mask.mpp_x * mask.mpp_y / 1e6)
    # Rounded, so that 5,000 px of 1e-4 mm2 are exactly 0.5.
    large = np.round(areas_mm2, 9) >= least_mm2
    large[0] = False
    return mask.like(large[labels]), float(areas_mm2.max(initial=0))


def refine(viable: Mask, hull: Bools) -> Bools:
    """Shrink the convex hull to the viable tumor, like an elastic band.

    A geodesic active contour (Marquez-Neila et al. 2014) starts from the hull and moves
    inward until it meets the outer border of the viable tumor. It only moves in from
    outside, so enclosed areas such as necrosis stay included; a region-based contour
    (Chan-Vese) would exclude them, and the burden would be 1.

    Args:
        viable: viable tumor.
        hull: its convex hull, bool [H, W].

    Returns:
        Bool [H, W], a subset of the hull that contains the viable tumor.
    """
    # The contour works on the box of the hull; everything outside stays False.
    rows, cols = ndimage.find_objects(hull.astype(np.uint8))[0]
    inside = viable.like(viable.array[rows, cols])
    height, width = inside.array.shape
    longer_um = max(height * viable.mpp_y, width * viable.mpp_x)
    side_um = max(CONTOUR_UM, longer_um / CONTOUR_PX)
    px_y = max(1, round(side_um / viable.mpp_y))
    px_x = max(1, round(side_um / viable.mpp_x))
    start = _coarse(hull[rows, cols], px_y, px_x) >= 0.5
    # A rim of glass, so that tumor at the edge of the box has a border there too.
    share = np.pad(_coarse(inside.array, px_y, px_x), 1)
    band = morphological_geodesic_active_contour(
        inverse_gaussian_gradient(share, sigma=1.0),
        num_iter=max(share.shape),
        init_level_set=np.pad(start, 1),
        threshold=STOP,
        balloon=-1,
    )[1:-1, 1:-1]
    # Back to heatmap px; the last blocks overhang the box.
    fine = band.repeat(px_y, axis=0).repeat(px_x, axis=1)[:height, :width] > 0
    refined = np.zeros_like(hull)
    # Refill enclosed areas that the contour entered through a thin wall.
    refined[rows, cols] = ndimage.binary_fill_holes(
        inside.array | (fine & hull[rows, cols])
    )
    return refined


def _coarse(pixels: Bools, px_y: int, px_x: int) -> NDArray[np.float64]:
    """Fraction of true pixels in blocks of px_y x px_x, padded with False."""
    return np.asarray(downscale_local_mean(pixels, (px_y, px_x)))
