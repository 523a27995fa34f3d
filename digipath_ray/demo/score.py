"""Score of a run on synthetic slides against the drawn tumor."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap, on_heatmap
from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.overlap import dice
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import Mask, read_mask_image


@dataclass(frozen=True, kw_only=True)
class SlideScore:
    """Heatmap of a slide compared with the truth, mm2.

    Attributes:
        label: true metastasis type.
        metastasis: predicted metastasis type.
        tumor_mm2: true tumor.
        found_mm2: predicted at the threshold or above; shared_mm2: its overlap with the
            tumor.
        tissue_mm2: area of the tissue mask.
    """

    slide_id: str
    label: str
    metastasis: str
    tumor_mm2: float
    found_mm2: float
    shared_mm2: float
    tissue_mm2: float

    @property
    def false_share(self) -> float:
        """False-positive area as a fraction of the tissue."""
        return (self.found_mm2 - self.shared_mm2) / self.tissue_mm2


def dice_of(scores: Sequence[SlideScore]) -> float:
    """Dice coefficient pooled over all slides; NaN if no tumor was drawn."""
    tumor_mm2 = sum(s.tumor_mm2 for s in scores)
    if not tumor_mm2:
        return float("nan")
    shared_mm2 = sum(s.shared_mm2 for s in scores)
    return dice(shared_mm2, tumor_mm2, sum(s.found_mm2 for s in scores))


def score_run(
    run: RunDirectory, manifest: Path, *, threshold: float
) -> list[SlideScore]:
    """Score the finished slides of a synthetic cohort, in manifest order."""
    done = run.read_done()
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["slide_id"] in done]
    found = []
    for row in rows:
        outcome = done[row["slide_id"]].outcome
        heatmap = read_heatmap(run.heatmap(row["slide_id"]))
        truth = truth_on(heatmap, manifest.parent, row["annotation"])
        shown = heatmap.probability >= threshold
        px_mm2 = heatmap.mpp_x * heatmap.mpp_y / 1e6
        score = SlideScore(
            slide_id=row["slide_id"],
            label=row["label"],
            metastasis=type_of_size(outcome["largest_um"]).label,
            tumor_mm2=float(truth.sum()) * px_mm2,
            found_mm2=float(shown.sum()) * px_mm2,
            shared_mm2=float((shown & truth).sum()) * px_mm2,
            tissue_mm2=outcome["tissue_mm2"],
        )
        found.append(score)
    return found


def truth_on(heatmap: Heatmap, folder: Path, annotation: str) -> NDArray[np.bool_]:
    """True tumor [H, W] on the heatmap's grid; all False without an annotation."""
    height, width = heatmap.weight.shape
    if not annotation:
        return np.zeros((height, width), np.bool_)
    array = read_mask_image(folder / annotation)
    scale_y, scale_x = height / array.shape[0], width / array.shape[1]
    mask = Mask(
        array=array, mpp_x=heatmap.mpp_x * scale_x, mpp_y=heatmap.mpp_y * scale_y
    )
    return on_heatmap(mask, heatmap)
