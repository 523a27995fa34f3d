"""CAMELYON16: lesion detection (FROC) and slide classification (AUC).

camelyon16.grand-challenge.org/Evaluation; Bejnordi et al., JAMA 2017;318:2199.

The organizers' masks are 1 where tissue and 2 where tumor is. Their script has no
ignored class: ignored areas are not lesions, and a detection there is a false positive.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from digipath_ray.annotations import Account, Window
from digipath_ray.annotations.maskfile import count_values
from digipath_ray.cohort.drawn import read_row
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.bootstrap import (
    ENSEMBLE,
    RESAMPLES,
    Measure,
    score_maps,
    units_of,
)
from digipath_ray.evaluate.detections import (
    Detection,
    find_detections,
    read_detections,
    write_detections,
)
from digipath_ray.evaluate.froc import (
    TRUTH_MPP,
    FalsePositives,
    LesionTruth,
    SlideHits,
    find_truth,
    froc_score,
    match,
)
from digipath_ray.evaluate.predicted import (
    check_all_predicted,
    find_run,
    maps_of,
    note_not_scored,
    with_patients,
)
from digipath_ray.evaluate.reference import (
    Extent,
    extent_of_record,
    extent_of_row,
    is_drawn,
    note_annotations,
    read_reference,
)
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.evaluate.slidescore import auc, slide_score
from digipath_ray.run.finished import FinishedRun

ORGANIZERS_TISSUE, ORGANIZERS_TUMOR = 1, 2
"""Values of the organizers' masks."""
MASK_MPP = 0.243
"""Um per px of CAMELYON16's slides, and so of the challenge's masks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideCase:
    """A slide: the hits of its detections, and its tumor score.

    ``outside`` counts detections outside the slide, if its size is known.
    """

    hits: SlideHits
    score: float
    outside: int = 0


def truth_of(
    row: SlideRow, extent: Extent, spec: AnnotationSpec, accounts: dict[str, Account]
) -> LesionTruth | None:
    """Lesions of an annotated slide, rasterized at :data:`TRUTH_MPP`.

    A pixel is tumor if its center is. None if the annotation has no tumor. ``accounts``
    gets what it holds.

    Raises:
        SlideError: the annotation cannot be read.
    """
    annotation = read_row(row, extent, spec)
    accounts[row.slide_id] = annotation.account
    steps = TRUTH_MPP / extent.mpp_x, TRUTH_MPP / extent.mpp_y
    tumor = annotation.tumor(Window.over(extent, *steps))
    return find_truth(tumor) if tumor.any() or annotation.area_px > 0 else None


def evaluate_camelyon16(
    reference: Path,
    prediction: Path,
    *,
    fp: FalsePositives = "all-slides",
    annotations: AnnotationSpec | None = None,
    mask_mpp: float = MASK_MPP,
    detections: Path | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Compute FROC and slide AUC.

    Detections of a run are peaks of its heatmaps (:func:`find_detections`); a slide's
    score is the maximum probability inside lesions of at least the minimum size
    (:func:`slide_score`). For CSV files, a slide's score is its maximum confidence.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id; a
            predicted slide without a mask in it has no tumor.
        prediction: run directory, or folder of ``<slide_id>.csv``.
        fp: false positives of all slides per slide, as in the organizers' script, or of
            the slides without tumor per such slide.
        annotations: how to interpret the reference's annotations.
        mask_mpp: um per px of slides with only a mask.
        detections: folder to write a run's detections to, as the challenge's CSVs.
        resamples: bootstrap resamples.

    Raises:
        ValueError: something is missing or cannot be read.
    """
    if not 0.01 <= mask_mpp <= 100:
        raise ValueError(f"mask mpp {mask_mpp:g}: give um per px, 0.01 to 100")
    spec = annotations or AnnotationSpec()
    run = find_run(prediction)
    files = {} if run else detections_in(prediction)
    predicted = run.records if run else files
    rows = read_reference(reference).with_negatives(predicted)
    check_all_predicted(rows, predicted, run)
    spec, masks_note = with_organizers_values(rows.values(), spec)
    accounts: dict[str, Account] = {}
    if run:
        maps = look_at_run(run, rows, spec, detections, accounts)
    else:
        cases = look_at_files(files, rows, spec, mask_mpp=mask_mpp, accounts=accounts)
        maps = {ENSEMBLE: cases}
    return score_maps(
        "camelyon16",
        maps,
        measures(fp),
        units_of(with_patients(rows, run).values(), otherwise="slide"),
        resamples=resamples,
        notes=[
            *notes_on(rows.values(), maps),
            *masks_note,
            *note_annotations(accounts),
            *note_not_scored(rows, predicted),
        ],
    )


def with_organizers_values(
    rows: Iterable[SlideRow], spec: AnnotationSpec
) -> tuple[AnnotationSpec, list[str]]:
    """How masks are read, and a note on it, if the user says nothing of them.

    Where a mask of the reference holds 1 and 2, they are the organizers': 1 is tissue
    in all of them, also in those of slides without tumor, which hold no 2.

    Raises:
        SlideError: a mask cannot be read.
    """
    if spec.mask_values or spec.mask_above is not None:
        return spec, []
    masks = [
        Path(row.annotation)
        for row in rows
        if row.annotation is not None and not is_drawn(row.annotation)
    ]
    values = {path.name: set(count_values(path).counts) for path in masks}
    labels = {name: found - {0} for name, found in values.items()}
    both = {ORGANIZERS_TISSUE, ORGANIZERS_TUMOR}
    if both in labels.values():
        return replace(spec, mask_values=(f"tumor={ORGANIZERS_TUMOR}",)), [
            "the masks are the organizers': 1 is tissue, 2 is tumor"
        ]
    ones = [name for name, found in labels.items() if found == {ORGANIZERS_TISSUE}]
    if ones:
        return spec, [
            f"1 is taken for tumor: {len(ones)} masks hold 0 and 1 alone, e.g. "
            f"{ones[0]}, and none 2; if they are the organizers', where 1 is tissue, "
            "give --mask-values tumor=2"
        ]
    return spec, []


def measures(fp: FalsePositives) -> dict[str, Measure[SlideCase]]:
    """The two scores of the challenge."""
    return {
        "froc": Measure(
            statistic=lambda cases: froc_score([c.hits for c in cases], fp),
            lacking="needs a lesion larger than isolated tumor cells, and a slide "
            f"to count false positives on ({fp})",
        ),
        "auc": Measure(
            statistic=lambda cases: auc(
                [c.hits.tumor for c in cases], [c.score for c in cases]
            ),
            lacking="needs slides with and without tumor",
        ),
    }


def look_at_run(
    run: FinishedRun,
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    out: Path | None,
    accounts: dict[str, Account],
) -> dict[str, dict[str, SlideCase]]:
    """Score a run: ENSEMBLE and members -> slide_id -> case; writes the CSVs."""
    maps: dict[str, dict[str, SlideCase]] = {ENSEMBLE: {}}
    for slide_id, row in rows.items():
        extent = extent_of_record(run.records[slide_id].slide)
        truth = truth_of(row, extent, spec, accounts) if row.annotation else None
        for name, slide in maps_of(run.slide(slide_id)).items():
            found = find_detections(slide)
            if out is not None and name == ENSEMBLE:
                write_detections(out / f"{slide_id}.csv", found)
            maps.setdefault(name, {})[slide_id] = SlideCase(
                hits=match(found, truth, mpp_x=extent.mpp_x, mpp_y=extent.mpp_y),
                score=slide_score(slide.heatmap, run.config),
            )
    return maps


def look_at_files(
    files: Mapping[str, Path],
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    *,
    mask_mpp: float,
    accounts: dict[str, Account],
) -> dict[str, SlideCase]:
    """Score the challenge's CSVs: slide_id -> case."""
    cases = {}
    for slide_id, row in rows.items():
        found = read_detections(files[slide_id])
        hits, outside = match(found, None), 0
        if row.annotation is not None:
            extent = extent_of_row(row, spec, mpp=mask_mpp)
            truth = truth_of(row, extent, spec, accounts)
            hits = match(found, truth, mpp_x=extent.mpp_x, mpp_y=extent.mpp_y)
            outside = count_outside(found, extent)
        score = max((d.confidence for d in found), default=0.0)
        cases[slide_id] = SlideCase(hits=hits, score=score, outside=outside)
    return cases


def count_outside(detections: Sequence[Detection], extent: Extent) -> int:
    """Number of detections outside the slide."""
    return sum(
        not (0 <= d.x < extent.width and 0 <= d.y < extent.height) for d in detections
    )


def detections_in(folder: Path) -> dict[str, Path]:
    """Files of a folder of the challenge's CSVs, by slide_id.

    Raises:
        ValueError: not a folder, or without CSVs.
    """
    found = {f.stem: f for f in sorted(folder.glob("*.csv"))}
    if not found:
        raise ValueError(
            f"{folder}: neither a run directory nor a folder of <slide_id>.csv with "
            "confidence, x, y"
        )
    return found


def notes_on(
    rows: Iterable[SlideRow], maps: Mapping[str, Mapping[str, SlideCase]]
) -> list[str]:
    """Notes for the reader of the scores."""
    cases = maps[ENSEMBLE].values()
    lesions = sum(len(c.hits.lesions) for c in cases)
    tumor = sum(c.hits.tumor for c in cases)
    notes = [
        f"lesions, isolated tumor cells excluded: {lesions}; slides with tumor: "
        f"{tumor}, without: {len(cases) - tumor}"
    ]
    outside = {i: c.outside for i, c in maps[ENSEMBLE].items() if c.outside}
    if outside:
        notes.append(
            "detections outside their slide, counted as false positives: "
            f"{sum(outside.values())}, e.g. on {min(outside)}; check that x, y and "
            "the masks are in level-0 px"
        )
    bare = [r for r in rows if r.annotation is None and r.label is None]
    if bare:
        notes.append(
            "assumed to have no tumor, because they have neither annotation nor "
            f"label: {len(bare)} slides, e.g. {bare[0].slide_id}"
        )
    partly = [r for r in rows if r.annotation is not None and r.exhaustive is False]
    if partly:
        notes.append(
            f"partially annotated: {len(partly)} slides, e.g. {partly[0].slide_id}; "
            "detections outside the annotation count as false positives"
        )
    return notes
