"""What a run found on drawn slides, held against the tumor that was drawn."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from digipath_ray.heatmap.canvas import Heatmap, on_heatmap
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import Mask, read_mask_image


@dataclass(frozen=True, kw_only=True)
class Score:
    """A slide's heatmap and the truth, in mm2.

    Attributes:
        label: what was planted.
        metastasis: what was found.
        tumor_mm2: drawn.
        found_mm2: at the threshold or above; shared_mm2: of it, what is tumor.
        tissue_mm2: of the tissue mask.
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
        """What was found where no tumor is, by the tissue."""
        return (self.found_mm2 - self.shared_mm2) / self.tissue_mm2


def dice_of(scores: Sequence[Score]) -> float:
    """The Dice coefficient over all slides together; NaN where no tumor was drawn."""
    if not sum(s.tumor_mm2 for s in scores):
        return float("nan")
    both = sum(s.tumor_mm2 + s.found_mm2 for s in scores)
    return 2 * sum(s.shared_mm2 for s in scores) / both


def score_run(run: RunDirectory, manifest: Path, *, threshold: float) -> list[Score]:
    """The scores of a drawn cohort's finished slides, in the manifest's order."""
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
        score = Score(
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
    """The drawn tumor [H, W] at the heatmap's pixels; none without an annotation."""
    height, width = heatmap.weight.shape
    if not annotation:
        return np.zeros((height, width), np.bool_)
    array = read_mask_image(folder / annotation)
    scale_y, scale_x = height / array.shape[0], width / array.shape[1]
    mask = Mask(
        array=array, mpp_x=heatmap.mpp_x * scale_x, mpp_y=heatmap.mpp_y * scale_y
    )
    return on_heatmap(mask, heatmap)
