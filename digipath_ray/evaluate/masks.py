"""Dice and Jaccard of masks against reference masks, per image and pooled.

A run is compared on its heatmap's grid, with the reference sampled at pixel centers;
masks are compared on the reference's grid. Pixels that the reference ignores (neither
tumor nor normal) are excluded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations import (
    Account,
    Annotation,
    MaskAnnotation,
    Window,
)
from digipath_ray.annotations.maskimage import fit_mask
from digipath_ray.cohort.drawn import check_label, read_row
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.bootstrap import (
    ENSEMBLE,
    RESAMPLES,
    Measure,
    score_maps,
    units_of,
)
from digipath_ray.evaluate.predicted import (
    check_all_predicted,
    find_run,
    maps_of,
    note_not_scored,
    with_patients,
)
from digipath_ray.evaluate.reference import (
    annotations_in,
    is_drawn,
    note_annotations,
    read_own_size,
    read_reference,
    size_of_file,
)
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.overlap import dice
from digipath_ray.run.finished import FinishedRun, FinishedSlide
from digipath_ray.run.truth import Truth, read_truth

Bools = NDArray[np.bool_]
Found = TypeVar("Found")

STRIP_PX = 16 << 20
"""Maximum pixels compared at once."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Pixel counts of a prediction's tumor, the reference's tumor, and both.

    ``pixels`` counts all compared pixels.
    """

    both: int
    predicted: int
    reference: int
    pixels: int

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); 1 if both are empty."""
        return dice(self.both, self.predicted, self.reference)

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|; 1 if both are empty."""
        either = self.predicted + self.reference - self.both
        return self.both / either if either else 1.0

    @property
    def has_lesion(self) -> bool:
        """Whether the reference contains tumor."""
        return self.reference > 0


def count_overlap(
    predicted: Bools, reference: Bools, ignored: Bools | None = None
) -> Overlap:
    """Count the overlap of two masks of equal shape, without ignored pixels."""
    known = np.ones_like(reference) if ignored is None else ~ignored
    predicted, reference = predicted & known, reference & known
    return Overlap(
        both=int(np.count_nonzero(predicted & reference)),
        predicted=int(np.count_nonzero(predicted)),
        reference=int(np.count_nonzero(reference)),
        pixels=int(np.count_nonzero(known)),
    )


def pool(overlaps: Sequence[Overlap]) -> Overlap:
    """Sum the overlaps of all images."""
    return Overlap(
        both=sum(o.both for o in overlaps),
        predicted=sum(o.predicted for o in overlaps),
        reference=sum(o.reference for o in overlaps),
        pixels=sum(o.pixels for o in overlaps),
    )


def overlap_of_slide(slide: FinishedSlide, truth: Truth, threshold: float) -> Overlap:
    """Overlap of a heatmap's pixels at or above a threshold with the truth.

    A pixel not covered by any patch counts as predicted normal.
    """
    heatmap = slide.heatmap
    predicted = heatmap.above(threshold)
    return count_overlap(predicted, truth.tumor, truth.ignored)


def overlap_of_mask(
    row: SlideRow, file: Path, spec: AnnotationSpec, accounts: dict[str, Account]
) -> Overlap:
    """Overlap of a predicted mask with a slide's reference.

    On the reference's grid if it is a mask, else on the prediction's, which is taken as
    level 0 if the slide is missing.

    Args:
        row: slide with its reference.
        file: predicted mask.
        spec: how to interpret the reference, and masks of either.
        accounts: gets what the reference's annotation holds.

    Raises:
        SlideError: one of the two cannot be read, or aspect ratios differ.
    """
    own = read_own_size(row.slide_id, file, spec, is_prediction=True)
    if row.annotation is None:
        return Overlap(
            both=0,
            predicted=round(own.area_px),
            reference=0,
            pixels=own.width * own.height,
        )
    if is_drawn(row.annotation):
        size = size_of_file(row) or own
        reference = read_row(row, size, spec)
        accounts[row.slide_id] = reference.account
        drawn = fit_mask(own, size, name=file.name)
        return pool(list(_strips(drawn, reference, at=drawn)))
    mask = read_own_size(row.slide_id, Path(row.annotation), spec)
    check_label(row, mask)
    accounts[row.slide_id] = mask.account
    # Checked to be of the reference's proportions, and read at its size.
    predicted = fit_mask(own, mask, name=file.name)
    return pool(list(_strips(predicted, mask, at=mask)))


def _strips(
    predicted: Annotation, reference: Annotation, *, at: MaskAnnotation
) -> Iterator[Overlap]:
    """Yield the overlaps of strips of rows, in bounded memory."""
    x, y = at.l0_per_px
    width, height = max(1, round(at.width / x)), max(1, round(at.height / y))
    rows = max(1, STRIP_PX // width)
    for top in range(0, height, rows):
        strip = Window(
            0, top * y, width, min(rows, height - top), l0_per_px_x=x, l0_per_px_y=y
        )
        yield count_overlap(
            predicted.tumor(strip), reference.tumor(strip), reference.ignored(strip)
        )


def look_at_run(
    run: FinishedRun,
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    look: Callable[[FinishedSlide, Truth], Found],
    accounts: dict[str, Account],
) -> dict[str, dict[str, Found]]:
    """Evaluate each slide for the ensemble and each member.

    Args:
        run: predicted run.
        rows: slides of the reference; those missing from the run are skipped.
        spec: how to interpret annotations.
        look: evaluates a slide with its heatmap, given the truth.
        accounts: gets what the annotations hold, by slide_id.

    Returns:
        ENSEMBLE and member names -> slide_id -> result.
    """
    found: dict[str, dict[str, Found]] = {ENSEMBLE: {}}
    for slide_id, row in rows.items():
        if slide_id not in run.records:
            continue
        maps = maps_of(run.slide(slide_id))
        whole = maps[ENSEMBLE]
        record = replace(whole.record, annotation=row.annotation, label=row.label)
        truth = read_truth(replace(whole, record=record), spec)
        if truth.account is not None:
            accounts[slide_id] = truth.account
        for name, slide in maps.items():
            found.setdefault(name, {})[slide_id] = look(slide, truth)
    return found


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return float(np.mean(values))


NO_LESION = "no image of the reference contains tumor"
NO_IMAGE = "there are no images"
MEASURES = {
    "dice": Measure[Overlap](
        statistic=lambda overlaps: mean([o.dice for o in overlaps]),
        lacking=NO_LESION,
        only=lambda overlap: overlap.has_lesion,
    ),
    "jaccard": Measure[Overlap](
        statistic=lambda overlaps: mean([o.jaccard for o in overlaps]),
        lacking=NO_LESION,
        only=lambda overlap: overlap.has_lesion,
    ),
    "dice_pooled": Measure[Overlap](
        statistic=lambda overlaps: pool(overlaps).dice, lacking=NO_IMAGE
    ),
    "jaccard_pooled": Measure[Overlap](
        statistic=lambda overlaps: pool(overlaps).jaccard, lacking=NO_IMAGE
    ),
}


def evaluate_masks(
    reference: Path,
    prediction: Path,
    *,
    annotations: AnnotationSpec | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Compute Dice and Jaccard of masks by their plain definitions.

    ``dice`` and ``jaccard`` are means over images whose reference contains tumor;
    ``dice_pooled`` and ``jaccard_pooled`` pool the pixels of all images, which includes
    false alarms on the others.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id.
        prediction: run directory, or folder of masks named by slide_id.
        annotations: how to interpret the reference's annotations.
        resamples: bootstrap resamples.

    Raises:
        ValueError: something is missing or cannot be read.
    """
    spec = annotations or AnnotationSpec()
    rows = read_reference(reference).rows
    run = find_run(prediction)
    files = {} if run else annotations_in(prediction)
    check_all_predicted(rows, run.records if run else files, run)
    accounts: dict[str, Account] = {}
    if run:
        threshold = run.config.outcome.threshold
        maps = look_at_run(
            run,
            rows,
            spec,
            lambda s, truth: overlap_of_slide(s, truth, threshold),
            accounts,
        )
    else:
        found = {
            i: overlap_of_mask(row, files[i], spec, accounts) for i, row in rows.items()
        }
        maps = {ENSEMBLE: found}
    return score_maps(
        "masks",
        maps,
        MEASURES,
        units_of(with_patients(rows, run).values(), otherwise="image"),
        resamples=resamples,
        notes=[
            *note_annotations(accounts),
            *note_not_scored(rows, run.records if run else files),
        ],
    )
