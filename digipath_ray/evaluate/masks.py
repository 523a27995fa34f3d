"""Masks against reference masks: Dice and Jaccard, image by image and pooled.

A run is compared at its heatmap's pixels, where the reference is what it says at their
centers; masks are compared at the reference's pixels. What the reference leaves open
(neither tumor nor normal) is left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from digipath_ray.annotations import (
    Annotation,
    MaskAnnotation,
    Window,
    read_annotation,
)
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
    read_own_size,
    read_reference,
    read_row,
    size_of_file,
)
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.run.finished import FinishedRun, FinishedSlide, Truth, read_truth

Bools = NDArray[np.bool_]
Found = TypeVar("Found")

STRIP_PX = 16 << 20
"""Pixels of two masks that are compared at once."""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many pixels are tumor in a prediction, in its reference, and in both.

    ``pixels`` are all that were compared.
    """

    both: int
    predicted: int
    reference: int
    pixels: int

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); 1 where both are empty."""
        total = self.predicted + self.reference
        return 2 * self.both / total if total else 1.0

    @property
    def jaccard(self) -> float:
        """|A and B| / |A or B|; 1 where both are empty."""
        either = self.predicted + self.reference - self.both
        return self.both / either if either else 1.0

    @property
    def has_lesion(self) -> bool:
        """Whether the reference holds tumor."""
        return self.reference > 0


def count_overlap(
    predicted: Bools, reference: Bools, ignored: Bools | None = None
) -> Overlap:
    """The overlap of two masks of one shape, without the pixels that are ignored."""
    known = np.ones_like(reference) if ignored is None else ~ignored
    predicted, reference = predicted & known, reference & known
    return Overlap(
        both=int(np.count_nonzero(predicted & reference)),
        predicted=int(np.count_nonzero(predicted)),
        reference=int(np.count_nonzero(reference)),
        pixels=int(np.count_nonzero(known)),
    )


def pool(overlaps: Sequence[Overlap]) -> Overlap:
    """The overlap of all images as if they were one."""
    return Overlap(
        both=sum(o.both for o in overlaps),
        predicted=sum(o.predicted for o in overlaps),
        reference=sum(o.reference for o in overlaps),
        pixels=sum(o.pixels for o in overlaps),
    )


def overlap_of_slide(slide: FinishedSlide, truth: Truth, threshold: float) -> Overlap:
    """The overlap of a heatmap's pixels at or above a threshold with the truth.

    A pixel that no patch covers is predicted to be no tumor.
    """
    heatmap = slide.heatmap
    predicted = heatmap.above(threshold)
    return count_overlap(predicted, truth.tumor, truth.ignored)


def overlap_of_mask(row: SlideRow, file: Path, spec: AnnotationSpec) -> Overlap:
    """The overlap of a predicted mask with a slide's reference.

    At the pixels of the reference if it is a mask as well, else at the prediction's,
    which are the slide's at level 0 where the slide is not there to be asked.

    Args:
        row: the slide with its reference.
        file: the predicted mask.
        spec: how the reference is understood.

    Raises:
        SlideError: one of the two cannot be read, or they differ in proportions.
    """
    own = read_own_size(row.slide_id, file)
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
        predicted = replace(own, width=size.width, height=size.height)
        return pool(list(_strips(predicted, reference, at=predicted)))
    mask = read_own_size(row.slide_id, Path(row.annotation), above=spec.mask_above)
    return pool(list(_strips(read_annotation(file, slide=mask), mask, at=mask)))


def _strips(
    predicted: Annotation, reference: Annotation, *, at: MaskAnnotation
) -> Iterator[Overlap]:
    """The overlaps of strips of a mask's rows, as many at a time as memory has."""
    x, y = at.l0_per_px
    width, height = at.bits.width, at.bits.height
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
) -> dict[str, dict[str, Found]]:
    """What is found on each slide by the ensemble and by each member.

    Args:
        run: the prediction.
        rows: slides of the reference; those that the run lacks are passed over.
        spec: how annotations are understood.
        look: what to find on a slide with its heatmap, given the truth.

    Returns:
        ENSEMBLE and the members' names -> slide_id -> what was found.
    """
    found: dict[str, dict[str, Found]] = {ENSEMBLE: {}}
    for slide_id, row in rows.items():
        if slide_id not in run.records:
            continue
        maps = maps_of(run.slide(slide_id))
        whole = maps[ENSEMBLE]
        record = replace(whole.record, annotation=row.annotation)
        truth = read_truth(replace(whole, record=record), spec)
        for name, slide in maps.items():
            found.setdefault(name, {})[slide_id] = look(slide, truth)
    return found


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(values))


NO_LESION = "no image of the reference holds tumor"
NO_IMAGE = "there is no image"
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
    """Dice and Jaccard of masks; no challenge's, the plain definitions.

    ``dice`` and ``jaccard`` are means over the images whose reference holds tumor,
    ``dice_pooled`` and ``jaccard_pooled`` count the pixels of all images together, so
    that false alarms on the others weigh in.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id.
        prediction: run directory, or folder of masks named by slide_id.
        annotations: how the reference's annotations are understood.
        resamples: of the bootstrap.

    Raises:
        ValueError: something is missing or cannot be read; says what.
    """
    spec = annotations or AnnotationSpec()
    rows = read_reference(reference).rows
    run = find_run(prediction)
    files = {} if run else annotations_in(prediction)
    check_all_predicted(rows, run.records if run else files, run)
    if run:
        threshold = run.config.outcome.threshold
        maps = look_at_run(
            run, rows, spec, lambda s, truth: overlap_of_slide(s, truth, threshold)
        )
    else:
        found = {i: overlap_of_mask(row, files[i], spec) for i, row in rows.items()}
        maps = {ENSEMBLE: found}
    return score_maps(
        "masks",
        maps,
        MEASURES,
        units_of(with_patients(rows, run).values(), otherwise="image"),
        resamples=resamples,
        notes=note_not_scored(rows, run.records if run else files),
    )
