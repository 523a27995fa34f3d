"""Detections against lesions: CAMELYON16's free-response ROC, as its organizers' code.

Their script (Evaluation_FROC.py of computationalpathologygroup/Camelyon16, and the
later one that comes with the data) scores on a mask at level 5, 7.776 um per px.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.ndimage
import skimage.measure
from numpy.typing import NDArray

from digipath_ray.evaluate.detections import Detection

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

FalsePositives = Literal["all-slides", "normal-slides"]
"""Whose false positives count, over how many slides: the script's way is all."""

TRUTH_MPP = 0.243 * 2**5
GROWN_UM = 75.0
"""Five tumor cells: lesions grow by half of it on each side."""
ITC_UM = 200.0 + GROWN_UM
"""A grown lesion whose major axis is shorter is isolated tumor cells."""
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which the sensitivity is read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LesionTruth:
    """The lesions of a slide that are to be found.

    Attributes:
        labels: int [h, w], 0 none, of the part of the slide that holds any.
        row: where that part begins, px of the slide at ``mpp``.
        col: as ``row``.
        itc: labels of isolated tumor cells, which count neither way.
        count: of the other lesions.
        mpp: um per px.
    """

    labels: NDArray[np.integer]
    row: int
    col: int
    itc: frozenset[int]
    count: int
    mpp: float

    def label_at(self, x_um: float, y_um: float) -> int:
        """The label of the lesion at a point, um from the slide's corner; 0: none."""
        row = math.floor(y_um / self.mpp) - self.row
        col = math.floor(x_um / self.mpp) - self.col
        height, width = self.labels.shape
        inside = 0 <= row < height and 0 <= col < width
        return int(self.labels[row, col]) if inside else 0


def find_truth(tumor: Bools, *, mpp: float = TRUTH_MPP) -> LesionTruth:
    """The lesions of a reference mask (computeEvaluationMask and computeITCList).

    A pixel belongs to a lesion where its distance to the mask is below
    75 / (2 mpp) px, 37.5 um; holes are filled and what touches, also by a corner, is
    one lesion. A lesion is isolated tumor cells where the major axis of that grown
    shape is below 275 um.

    Args:
        tumor: bool [rows, cols] of the whole slide.
        mpp: um per px.
    """
    reach = GROWN_UM / (2 * mpp)
    near, row, col = _grow(tumor, reach)
    filled = scipy.ndimage.binary_fill_holes(near)
    labels = skimage.measure.label(filled, connectivity=2)
    regions = skimage.measure.regionprops(labels)
    itc = {r.label for r in regions if r.axis_major_length * mpp < ITC_UM}
    return LesionTruth(
        labels=labels,
        row=row,
        col=col,
        itc=frozenset(itc),
        count=len(regions) - len(itc),
        mpp=mpp,
    )


def _grow(tumor: Bools, reach: float) -> tuple[Bools, int, int]:
    """Pixels closer than ``reach`` px to the tumor, in its surroundings; their corner.

    Piece by piece, so that a distance is stored for a piece's surroundings only.
    """
    pieces, _ = scipy.ndimage.label(tumor)
    boxes = scipy.ndimage.find_objects(pieces)
    if not boxes:
        return np.zeros((1, 1), np.bool_), 0, 0
    margin = math.ceil(reach)
    grown = [_pad(box, margin, tumor.shape) for box in boxes]
    row, col = (min(box[axis].start for box in grown) for axis in (0, 1))
    end_row, end_col = (max(box[axis].stop for box in grown) for axis in (0, 1))
    out = np.zeros((end_row - row, end_col - col), np.bool_)
    for number, box in enumerate(grown, start=1):
        distance = scipy.ndimage.distance_transform_edt(pieces[box] != number)
        rows, cols = box
        out[rows.start - row : rows.stop - row, cols.start - col : cols.stop - col] |= (
            distance < reach
        )
    return out, row, col


def _pad(
    box: tuple[slice, slice], margin: int, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    rows, cols = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(box, shape, strict=True)
    )
    return rows, cols


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideHits:
    """What the detections of a slide come to.

    Attributes:
        tumor: whether the slide holds tumor.
        false: confidences of the detections outside all lesions.
        lesions: highest confidence of each lesion's detections; 0 where it is missed.
    """

    tumor: bool
    false: Floats
    lesions: Floats


def match(
    detections: Sequence[Detection],
    truth: LesionTruth | None,
    *,
    mpp_x: float = 1.0,
    mpp_y: float = 1.0,
) -> SlideHits:
    """Detections matched with the lesions they hit (compute_FP_TP_Probs).

    A lesion's score is its best hit's, further hits on it are nothing, nor are hits on
    isolated tumor cells. A detection on no lesion is a false positive. It lies in the
    pixel that holds it, as in the first script; the later one rounds to the next.

    Args:
        detections: of the slide.
        truth: its lesions; None where it holds no tumor.
        mpp_x: um per level-0 px.
        mpp_y: as ``mpp_x``.
    """
    if truth is None:
        false = np.array([d.confidence for d in detections], np.float64)
        return SlideHits(tumor=False, false=false, lesions=np.zeros(0))
    wrong: list[float] = []
    best = dict.fromkeys(range(1, truth.count + len(truth.itc) + 1), 0.0)
    for confidence, x, y in detections:
        # The middle of the level-0 px, so that rounding cannot move it.
        label = truth.label_at((x + 0.5) * mpp_x, (y + 0.5) * mpp_y)
        if label == 0:
            wrong.append(confidence)
        else:
            best[label] = max(best[label], confidence)
    found = [score for label, score in best.items() if label not in truth.itc]
    return SlideHits(
        tumor=True,
        false=np.array(wrong, np.float64),
        lesions=np.array(found, np.float64),
    )


def froc_curve(
    slides: Sequence[SlideHits], fp: FalsePositives = "all-slides"
) -> tuple[Floats, Floats] | None:
    """False positives per slide, ascending, and the sensitivity at each.

    The first point is (0, 0); the others are of each confidence that occurs, what is at
    or above it counting (computeFROC). The script leaves out the lowest, which is the 0
    of a lesion that was missed or of isolated tumor cells; where there are none of
    these it would be a detection's, and is kept here. None where there is no lesion to
    be found, or no slide that false positives are counted on.
    """
    counted = [s for s in slides if fp == "all-slides" or not s.tumor]
    lesions = np.concatenate([s.lesions for s in slides])
    if not len(lesions) or not counted:
        return None
    false = np.sort(np.concatenate([s.false for s in counted]))
    found = np.sort(lesions)
    levels = np.unique(np.concatenate([false, found]))
    levels = levels[levels > 0][::-1]
    above = [len(values) - np.searchsorted(values, levels) for values in (false, found)]
    rates = np.concatenate([[0.0], above[0] / len(counted)])
    return rates, np.concatenate([[0.0], above[1] / len(found)])


def read_sensitivities(rates: Floats, sensitivities: Floats) -> Floats:
    """The sensitivities at :data:`RATES`, read as compute_score does.

    At each rate that of the first point, coming from few false positives, which has at
    least as many; where the curve ends before, that of its end.
    """
    at = np.searchsorted(rates, RATES, side="left")
    return sensitivities[np.minimum(at, len(rates) - 1)]


def froc_score(slides: Sequence[SlideHits], fp: FalsePositives = "all-slides") -> float:
    """The challenge's score: the mean of the sensitivities at :data:`RATES`.

    NaN where there is no curve.
    """
    curve = froc_curve(slides, fp)
    return math.nan if curve is None else float(read_sensitivities(*curve).mean())
