"""Outlines of tumor refined by the slide's own colors, in place of a hard threshold.

Each method takes the probabilities and the colors at heatmap scale and answers which
pixels are tumor; the probabilities stay as they are. Pixels whose neighborhood leaves
no doubt are as the threshold says, whatever the method.

- ``crf``: a fully connected conditional random field of two classes (Kraehenbuehl and
  Koltun 2011): mean field with one kernel over places and one over places and colors,
  which is filtered in a grid of both (Barron and Poole 2016) instead of their lattice.
- ``random-walker``: random walks from what is sure, slowed down by edges of color
  (Grady 2006), by scikit-image.
- ``contour``: a geodesic active contour of morphological steps from the thresholded
  outline to edges of color (Marquez-Neila et al. 2014), by scikit-image.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit
from skimage.segmentation import (
    inverse_gaussian_gradient,
    morphological_geodesic_active_contour,
    random_walker,
)

from digipath_ray.config.run import OutcomeSpec, Refine
from digipath_ray.heatmap.heatmap import Heatmap, Map

Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Box = tuple[slice, slice]
ReadColors = Callable[[Box], Pixels]
"""Rows and columns of the heatmap -> RGB [rows, columns, 3], the mean of each px."""

TILE_PX = 512
"""Side of the squares that are refined at once."""
REACH = 6
"""Halo of a square in ``refine_um``: mean field hands influence on at every step."""
STEPS = 5
"""Of mean field: the outline hardly moves afterwards."""
UNSURE = 0.05
"""A square is left as thresholded, and its colors are not read, where all probabilities
are below this or all above 1 less this."""
SURE = 1.5
"""Random walker: logits from the threshold's beyond which a pixel is a seed."""
EVEN = 1e-6
"""Probabilities are held off 0 and 1 by this."""
SUREST = 7.0
"""The largest logit: a network is not surer than 0.999, whatever it says."""
LEAST = 1e-3
"""Weight below which nothing is known around a pixel."""
CELL = 0.82
"""Standard deviation, in cells, of two passes through the grid: a box on the way in and
out (1/12 each) and the weights 1/4, 1/2, 1/4 between neighbors (1/2)."""


def refine_heatmap(
    heatmap: Heatmap, read_colors: ReadColors, spec: OutcomeSpec
) -> Bools:
    """Tumor pixels, bool [H, W], by ``spec.refine``; memory is that of a few squares.

    Args:
        heatmap: predicted heatmap.
        read_colors: of the slide at the heatmap's pixels.
        spec: method, threshold, and its ``refine_um``, ``refine_color`` and
            ``refine_strength``.

    Raises:
        ValueError: the method is none.
    """
    refined = heatmap.above(spec.threshold)
    px = spec.refine_um / np.sqrt(heatmap.mpp_x * heatmap.mpp_y)
    for inner, outer in squares(refined.shape, round(REACH * px)):
        known = heatmap.covered[outer]
        p = heatmap.probability[outer]
        if not _has_doubt(p[known], spec.threshold):
            continue
        found = refine_square(
            p, read_colors(outer), known, spec=spec, reach_px=float(px)
        )
        rows, cols = (
            slice(i.start - o.start, i.stop - o.start)
            for i, o in zip(inner, outer, strict=True)
        )
        refined[inner] = found[rows, cols]
    return refined


def squares(shape: tuple[int, int], halo: int) -> Iterator[tuple[Box, Box]]:
    """Squares that part a map, and each with its halo, as far as the map goes."""
    height, width = shape
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
            inner = slice(top, bottom), slice(left, right)
            rows = slice(max(0, top - halo), min(height, bottom + halo))
            yield inner, (rows, slice(max(0, left - halo), min(width, right + halo)))


def _has_doubt(p: Map, threshold: float) -> bool:
    """Whether probabilities lie on both sides of the threshold, or near it."""
    if not p.size or p.max() < min(UNSURE, threshold):
        return False
    return bool(p.min() < max(1 - UNSURE, threshold))


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """A piece of a map, and how its outline is refined.

    Attributes:
        p: probabilities [h, w].
        colors: RGB [h, w, 3].
        known: bool [h, w], pixels that were predicted; others are never tumor.
        threshold: probability that is even.
        reach_px: how far a pixel pulls at others, or the outline may move, heatmap px.
        color: difference of R, G or B that parts two tissues.
        strength: weight of colors and neighbors beside the probability.
    """

    p: Map
    colors: Pixels
    known: Bools
    threshold: float
    reach_px: float
    color: float
    strength: float

    @cached_property
    def evidence(self) -> Floats:
        """Logits [h, w], 0 at the threshold, at most SUREST."""
        held = np.clip(self.p.astype(np.float64), EVEN, 1 - EVEN)
        logits = logit(held) - logit(self.threshold)
        return np.asarray(np.clip(logits, -SUREST, SUREST))


def refine_square(
    p: Map, colors: Pixels, known: Bools, *, spec: OutcomeSpec, reach_px: float
) -> Bools:
    """Tumor pixels of a piece of a map, bool [h, w]; see :class:`Piece`.

    Raises:
        ValueError: the method is none.
    """
    methods: dict[Refine, Callable[[Piece], Bools]] = {
        "crf": random_field,
        "random-walker": walk,
        "contour": move_contour,
    }
    if spec.refine not in methods:
        raise ValueError(f"outcome.refine = {spec.refine!r}: nothing to refine by")
    piece = Piece(
        p=p,
        colors=colors,
        known=known,
        threshold=spec.threshold,
        reach_px=reach_px,
        color=spec.refine_color,
        strength=spec.refine_strength,
    )
    return np.asarray(methods[spec.refine](piece) & known)


def random_field(piece: Piece) -> Bools:
    """Mean field of a fully connected conditional random field (Potts model).

    With the probability q of tumor, the logit of a pixel becomes its evidence plus, for
    each kernel, ``strength * (2 mean - 1)``, where ``mean`` is that of q under the
    kernel. The kernel of places alone is a third as wide.

    ``reach_px`` and ``color`` are the standard deviations of the second kernel,
    ``strength`` is the logits that neighbors of one mind add.
    """
    evidence, known, near = piece.evidence, piece.known, piece.reach_px / 3
    grids = [
        ColorGrid(piece.colors, known, piece.reach_px, piece.color, shift)
        for shift in (0.0, 0.5)
    ]
    weight = ndimage.gaussian_filter(known.astype(np.float64), near)
    q: Floats = expit(evidence)
    for _ in range(STEPS):
        blurred = ndimage.gaussian_filter(np.where(known, q, 0.0), near)
        by_place = blurred / np.maximum(weight, LEAST)
        by_color = sum(grid.mean(q) for grid in grids) / len(grids)
        pull = (2 * by_place - 1) + (2 * by_color - 1)
        q = expit(evidence + piece.strength * pull)
    return np.asarray(q >= 0.5)


class ColorGrid:
    """A grid over places and colors, in which a mean over both is a few sums.

    Pixels are counted in the cell of five dimensions that they lie in; neighboring
    cells are blurred into each other along one dimension after the other; and each
    pixel takes the mean of its cell. Cells that hold no pixel do not exist.
    """

    def __init__(
        self,
        colors: Pixels,
        known: Bools,
        reach_px: float,
        color: float,
        shift: float = 0.0,
    ) -> None:
        """Lay the grid.

        Args:
            colors: RGB [h, w, 3].
            known: bool [h, w], pixels that count.
            reach_px: standard deviation of the mean over places.
            color: of that over each of R, G and B.
            shift: of the grid, in cells.
        """
        rows, cols = np.nonzero(known)
        self._known = known
        places = np.stack([rows, cols], 1) / (reach_px / CELL)
        hues = colors[known] / (color / CELL)
        cells = np.floor(np.hstack([places, hues]) + shift).astype(np.int64)
        sides = cells.max(0, initial=0) + 2  # room for the neighbor above
        steps = np.cumprod([1, *sides[:-1]])
        keys, self._cell = np.unique(cells @ steps, return_inverse=True)
        self._blurs = [_blur_along(keys, int(step)) for step in steps]
        self._count = self._blurred(np.bincount(self._cell, minlength=len(keys)))

    def mean(self, values: Floats) -> Floats:
        """Mean of [h, w] under the kernel; 0 where nothing is known."""
        sums = np.bincount(self._cell, values[self._known], minlength=len(self._count))
        means = self._blurred(sums) / np.maximum(self._count, LEAST)
        out = np.zeros(self._known.shape)
        out[self._known] = means[self._cell]
        return out

    def _blurred(self, values: NDArray[np.floating | np.integer]) -> Floats:
        out = values.astype(np.float64)
        for blur in self._blurs:
            out = blur @ out
        return out


def _blur_along(keys: NDArray[np.int64], step: int) -> scipy.sparse.csr_array:
    """Weights 1/4, 1/2, 1/4 of a cell's neighbor, itself and its other neighbor.

    Args:
        keys: of the cells that exist, ascending.
        step: from a cell's key to its neighbor's.
    """
    above = np.searchsorted(keys, keys + step)
    there = np.flatnonzero(keys[np.minimum(above, len(keys) - 1)] == keys + step)
    up = scipy.sparse.csr_array(
        (np.full(len(there), 0.25), (there, above[there])), shape=(len(keys),) * 2
    )
    return up + up.T + 0.5 * scipy.sparse.eye_array(len(keys), format="csr")


def walk(piece: Piece) -> Bools:
    """Label what is unsure by random walks from what is sure.

    Pixels farther than ``reach_px`` from the thresholded outline stay as they are; a
    difference of ``color`` slows a walk down to exp(-1/2); unsure are pixels whose
    logit is within SURE times ``strength`` of the threshold's.
    """
    evidence, known = piece.evidence, piece.known
    above = evidence >= 0
    near = _near_outline(above, known, piece.reach_px)
    unsure = near & (np.abs(evidence) < SURE * piece.strength)
    seeds = np.where(above, 2, 1)
    # Only seeds beside an unsure pixel matter; -1 leaves a pixel out.
    beside = ndimage.binary_dilation(unsure) & known
    labels = np.where(unsure, 0, np.where(beside, seeds, -1))
    if not (unsure.any() and {1, 2} <= set(np.unique(labels))):
        return above
    scaled = piece.colors / piece.color
    if not scaled.std() > 0:
        return above  # one color: nothing to go by
    # scikit-image divides beta by 10, the data's deviation and its channels' root, so
    # that the same colors would mean another thing in another square.
    beta = 0.5 * 10 * float(scaled.std()) * np.sqrt(3)
    with warnings.catch_warnings():
        # Unsure pixels that no seed reaches stay as thresholded, below.
        warnings.simplefilter("ignore")
        found = random_walker(scaled, labels, beta=beta, mode="cg_j", channel_axis=-1)
    return np.where(unsure & (found > 0), found == 2, above)


def _near_outline(above: Bools, known: Bools, reach_px: float) -> Bools:
    """Known pixels within a distance of the outline between two values."""
    edge = (above != ndimage.binary_erosion(above, border_value=1)) | (
        above != ndimage.binary_dilation(above)
    )
    if not edge.any():
        return np.zeros_like(above)
    return np.asarray((ndimage.distance_transform_edt(~edge) <= reach_px) & known)


def move_contour(piece: Piece) -> Bools:
    """Move the thresholded outline to edges of color nearby.

    Pixels farther than ``reach_px`` from it stay as they are; a gradient of ``color``
    per px halves its speed; ``strength``, rounded, is the smoothing steps at each move.
    """
    above = (piece.evidence >= 0) & piece.known
    near = _near_outline(above, piece.known, piece.reach_px)
    if not near.any():
        return above
    # A gradient needs two px each way: a map of one row or column is doubled.
    twice = tuple((0, int(side == 1)) for side in above.shape)
    start = np.pad(above, twice, mode="edge")
    gray = np.pad(piece.colors.mean(-1), twice, mode="edge")
    # 1 / sqrt(1 + alpha g): alpha such that it is 1/2 at g = color.
    edges = inverse_gaussian_gradient(gray, alpha=3 / piece.color, sigma=1.0)
    moved = morphological_geodesic_active_contour(
        edges,
        num_iter=max(1, round(piece.reach_px)),
        init_level_set=start,
        smoothing=round(piece.strength),
        threshold="auto",
        balloon=0,
    )
    height, width = above.shape
    return np.where(near, moved[:height, :width] > 0, above)
