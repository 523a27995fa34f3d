"""DigestPath 2019, tissue task: Dice of lesions and image classification (AUC).

digestpath2019.grand-challenge.org/Evaluation, Task 2: the Dice similarity coefficient
for the lesion segmentation, and the area under the ROC curve for images with and
without lesion.
"""

from dataclasses import dataclass
from pathlib import Path

from digipath_ray.annotations import Account
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.bootstrap import (
    ENSEMBLE,
    RESAMPLES,
    Measure,
    score_maps,
    units_of,
)
from digipath_ray.evaluate.masks import (
    NO_IMAGE,
    NO_LESION,
    Overlap,
    look_at_run,
    mean,
    overlap_of_mask,
    overlap_of_slide,
    pool,
)
from digipath_ray.evaluate.predicted import (
    check_all_predicted,
    find_run,
    note_not_scored,
    with_patients,
)
from digipath_ray.evaluate.reference import (
    annotations_in,
    note_annotations,
    read_reference,
)
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.evaluate.slidescore import auc, slide_score
from digipath_ray.run.finished import FinishedRun, FinishedSlide
from digipath_ray.run.truth import Truth


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """An image: overlap of its masks, and its lesion score."""

    overlap: Overlap
    score: float

    @property
    def has_lesion(self) -> bool:
        """Whether the reference contains tumor."""
        return self.overlap.has_lesion


MEASURES = {
    "dice": Measure[ImageCase](
        statistic=lambda cases: mean([c.overlap.dice for c in cases]),
        lacking=NO_LESION,
        only=lambda case: case.has_lesion,
    ),
    "dice_pooled": Measure[ImageCase](
        statistic=lambda cases: pool([c.overlap for c in cases]).dice,
        lacking=NO_IMAGE,
    ),
    "auc": Measure[ImageCase](
        statistic=lambda cases: auc(
            [c.has_lesion for c in cases], [c.score for c in cases]
        ),
        lacking="needs images with and without lesions",
    ),
}


def evaluate_digestpath2019(
    reference: Path,
    prediction: Path,
    *,
    annotations: AnnotationSpec | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Compute mean Dice of images with a lesion, pooled Dice, and image AUC.

    An image's score is the maximum probability inside lesions of at least the minimum
    size (:func:`slide_score`). Masks have no probabilities: their score is the lesion
    fraction of the image, as a note states.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id; a
            predicted image without a mask in it has no lesion.
        prediction: run directory, or folder of masks named by slide_id.
        annotations: how to interpret the reference's annotations.
        resamples: bootstrap resamples.

    Raises:
        ValueError: something is missing or cannot be read.
    """
    spec = annotations or AnnotationSpec()
    run = find_run(prediction)
    files = {} if run else annotations_in(prediction)
    predicted = run.records if run else files
    rows = read_reference(reference).with_negatives(predicted)
    check_all_predicted(rows, predicted, run)
    accounts: dict[str, Account] = {}
    notes = tuple(note_not_scored(rows, predicted))
    if run:
        maps = look_at_run(
            run, rows, spec, lambda s, truth: _look(s, truth, run), accounts
        )
    else:
        found = {
            i: overlap_of_mask(row, files[i], spec, accounts) for i, row in rows.items()
        }
        maps = {ENSEMBLE: {i: _of_mask(overlap) for i, overlap in found.items()}}
        notes = (*notes, "auc: by the lesion area of the mask")
    return score_maps(
        "digestpath2019",
        maps,
        MEASURES,
        units_of(with_patients(rows, run).values(), otherwise="image"),
        resamples=resamples,
        notes=[*note_annotations(accounts), *notes],
    )


def _look(slide: FinishedSlide, truth: Truth, run: FinishedRun) -> ImageCase:
    return ImageCase(
        overlap=overlap_of_slide(slide, truth, run.config.outcome.threshold),
        score=slide_score(slide.heatmap, run.config),
    )


def _of_mask(overlap: Overlap) -> ImageCase:
    # An image that the reference ignores entirely has no pixels to divide by.
    return ImageCase(overlap=overlap, score=overlap.predicted / max(overlap.pixels, 1))
