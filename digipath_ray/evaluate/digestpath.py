"""DigestPath 2019, the tissue task: Dice of lesions, and images told apart.

digestpath2019.grand-challenge.org/Evaluation, Task 2: the Dice similarity coefficient
for the lesions' segmentation and the area under the ROC curve for images with lesion
and without.
"""

from dataclasses import dataclass
from pathlib import Path

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
from digipath_ray.evaluate.reference import annotations_in, read_reference
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.evaluate.slidescore import auc, slide_score
from digipath_ray.run.finished import FinishedRun, FinishedSlide, Truth


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """An image: how its masks overlap, and how sure the prediction is of a lesion."""

    overlap: Overlap
    score: float

    @property
    def has_lesion(self) -> bool:
        """Whether the reference holds tumor."""
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
        lacking="it needs images with a lesion and without",
    ),
}


def evaluate_digestpath2019(
    reference: Path,
    prediction: Path,
    *,
    annotations: AnnotationSpec | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Mean Dice of the images with a lesion, Dice of all pixels together, image AUC.

    An image's score is the highest probability inside lesions of at least the minimum
    size (:func:`slide_score`). Masks hold no probabilities: their score is the part of
    the image that is called a lesion, said in a note.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id; a
            predicted image without mask there holds no lesion.
        prediction: run directory, or folder of masks named by slide_id.
        annotations: how the reference's annotations are understood.
        resamples: of the bootstrap.

    Raises:
        ValueError: something is missing or cannot be read; says what.
    """
    spec = annotations or AnnotationSpec()
    run = find_run(prediction)
    files = {} if run else annotations_in(prediction)
    predicted = run.records if run else files
    rows = read_reference(reference).with_negatives(predicted)
    check_all_predicted(rows, predicted, run)
    notes = note_not_scored(rows, predicted)
    if run:
        maps = look_at_run(run, rows, spec, lambda s, truth: _look(s, truth, run))
    else:
        found = {i: overlap_of_mask(row, files[i], spec) for i, row in rows.items()}
        maps = {ENSEMBLE: {i: _of_mask(overlap) for i, overlap in found.items()}}
        notes = (*notes, "auc: by the area that a mask calls a lesion")
    return score_maps(
        "digestpath2019",
        maps,
        MEASURES,
        units_of(with_patients(rows, run).values(), otherwise="image"),
        resamples=resamples,
        notes=notes,
    )


def _look(slide: FinishedSlide, truth: Truth, run: FinishedRun) -> ImageCase:
    return ImageCase(
        overlap=overlap_of_slide(slide, truth, run.config.outcome.threshold),
        score=slide_score(slide.heatmap, run.config),
    )


def _of_mask(overlap: Overlap) -> ImageCase:
    # An image of which the reference leaves all open has no pixels to be a part of.
    return ImageCase(overlap=overlap, score=overlap.predicted / max(overlap.pixels, 1))
