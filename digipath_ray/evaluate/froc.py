"""CAMELYON16's free-response ROC (FROC), as in the organizers' code.

The script (Evaluation_FROC.py of computationalpathologygroup/Camelyon16, and a later
one distributed with the data) scores on a mask at level 5, 7.776 um per px.
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
"""Slides on which false positives are counted; the script uses all."""

TRUTH_MPP = 0.243 * 2**5
GROWN_UM = 75.0
"""Five tumor cells, um; lesions are grown by half of it on each side."""
ITC_UM = 200.0 + GROWN_UM
"""Grown lesions with a shorter major axis, um, are isolated tumor cells."""
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which the sensitivity is averaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LesionTruth:
    """Reference lesions of a slide.

    Attributes:
        labels: int [h, w], 0 for background, cropped to the lesions.
        row: first row of the crop, px of the slide at ``mpp``.
        col: first column of the crop, likewise.
        itc: labels of isolated tumor cells, which are not scored.
        count: number of other lesions.
        mpp: um per px.
    """

    labels: NDArray[np.integer]
    row: int
    col: int
    itc: frozenset[int]
    count: int
    mpp: float

    def label_at(self, x_um: float, y_um: float) -> int:
        """Label of the lesion at a point, um from the slide's corner; 0 if none."""
        row = math.floor(y_um / self.mpp) - self.row
        col = math.floor(x_um / self.mpp) - self.col
        height, width = self.labels.shape
        inside = 0 <= row < height and 0 <= col < width
        return int(self.labels[row, col]) if inside else 0


def find_truth(tumor: Bools, *, mpp: float = TRUTH_MPP) -> LesionTruth:
    """Find the lesions of a reference mask (computeEvaluationMask, computeITCList).

    A pixel belongs to a lesion if its distance to the mask is below 75 / (2 mpp) px,
    37.5 um; holes are filled, and lesions are 8-connected. A lesion is isolated tumor
    cells if the major axis of the grown shape is below 275 um.

    Args:
        tumor: mask of the whole slide, bool [rows, cols].
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
    """Grow the tumor by ``reach`` px, cropped; also returns the crop's corner.

    Component by component, to limit the memory of the distance transform.
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
    """Matched detections of a slide.

    Attributes:
        tumor: whether the slide contains tumor.
        false: confidences of the detections outside all lesions.
        lesions: maximum confidence of each lesion's detections; 0 if missed.
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
    """Match detections with lesions (compute_FP_TP_Probs).

    A lesion's score is its best hit; further hits on it and hits on isolated tumor
    cells are ignored. A detection on no lesion is a false positive. It belongs to the
    pixel that contains it, as in the first script; the later one rounds to the nearest.

    Args:
        detections: detections of the slide.
        truth: its lesions; None without tumor.
        mpp_x: um per level-0 px.
        mpp_y: likewise.
    """
    if truth is None:
        false = np.array([d.confidence for d in detections], np.float64)
        return SlideHits(tumor=False, false=false, lesions=np.zeros(0))
    wrong: list[float] = []
    best = dict.fromkeys(range(1, truth.count + len(truth.itc) + 1), 0.0)
    for confidence, x, y in detections:
        # Center of the level-0 px, so that rounding cannot move it.
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
    """FROC curve: ascending false positives per slide, and sensitivities.

    The first point is (0, 0); the others are at each distinct confidence, inclusive
    (computeFROC). The script drops the lowest, which is the 0 of a missed lesion or of
    isolated tumor cells; if there are none, it would be a detection's, and is kept
    here. None without lesions, or without slides to count false positives on.
    """
    counted = [s for s in slides if fp == "all-slides" or not s.tumor]
    lesions = np.concatenate([s.lesions for s in slides])
    if not len(lesions) or not counted:
        return None
    false = np.sort(np.concatenate([s.false for s in counted]))
    found = np.sort(lesions)
    levels = np.unique(np.concatenate([false, found]))
    # A confidence of 0 is a lesion without detection, not an operating point.
    levels = levels[levels > 0][::-1]
    # Detections at or above each level; "left" makes the level itself count.
    above = [len(values) - np.searchsorted(values, levels) for values in (false, found)]
    rates = np.concatenate([[0.0], above[0] / len(counted)])
    return rates, np.concatenate([[0.0], above[1] / len(found)])


def read_sensitivities(rates: Floats, sensitivities: Floats) -> Floats:
    """Sensitivities at :data:`RATES`, as in compute_score.

    At each rate, the sensitivity of the first point with at least as many false
    positives, or of the curve's end.
    """
    at = np.searchsorted(rates, RATES, side="left")
    return sensitivities[np.minimum(at, len(rates) - 1)]


def froc_score(slides: Sequence[SlideHits], fp: FalsePositives = "all-slides") -> float:
    """Score of the challenge: mean of the sensitivities at :data:`RATES`.

    NaN without a curve.
    """
    curve = froc_curve(slides, fp)
    return math.nan if curve is None else float(read_sensitivities(*curve).mean())
