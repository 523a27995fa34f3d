"""CAMELYON16: lesions found (FROC), and slides with tumor told from those without.

camelyon16.grand-challenge.org/Evaluation; Bejnordi et al., JAMA 2017;318:2199.

The organizers' masks are tumor or none, and their script knows nothing between: what an
annotation leaves open is no lesion, and a detection there is a false positive.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.annotations import Window
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
    read_reference,
    read_row,
)
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.evaluate.slidescore import auc, slide_score
from digipath_ray.run.finished import FinishedRun

MASK_MPP = 0.243
"""Of CAMELYON16's slides, which the challenge's masks have the size of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideCase:
    """A slide: what its detections hit, and how sure the prediction is of tumor.

    ``outside`` counts detections beyond the slide, where its size is known.
    """

    hits: SlideHits
    score: float
    outside: int = 0


def truth_of(row: SlideRow, extent: Extent, spec: AnnotationSpec) -> LesionTruth | None:
    """The lesions of an annotated slide, drawn at :data:`TRUTH_MPP`.

    A pixel is tumor where its center is. None where the annotation holds no tumor.

    Raises:
        SlideError: the annotation cannot be read.
    """
    annotation = read_row(row, extent, spec)
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
    """FROC and slide AUC.

    A run's detections are its heatmaps' peaks (:func:`find_detections`), a slide's
    score the highest probability inside lesions of at least the minimum size
    (:func:`slide_score`). Of files, a slide's score is its most confident detection's.

    Args:
        reference: manifest with annotations, or folder of masks named by slide_id; a
            predicted slide without mask there holds no tumor.
        prediction: run directory, or folder of ``<slide_id>.csv``.
        fp: false positives of all slides over all slides, as the organizers' script
            has it, or of the slides without tumor over those.
        annotations: how the reference's annotations are understood.
        mask_mpp: um per px of slides of which there is nothing but a mask.
        detections: folder for the challenge's CSVs of a run.
        resamples: of the bootstrap.

    Raises:
        ValueError: something is missing or cannot be read; says what.
    """
    if not 0.01 <= mask_mpp <= 100:
        raise ValueError(f"mask mpp {mask_mpp:g}: give um per px, 0.01 to 100")
    spec = annotations or AnnotationSpec()
    run = find_run(prediction)
    files = {} if run else detections_in(prediction)
    predicted = run.records if run else files
    rows = read_reference(reference).with_negatives(predicted)
    check_all_predicted(rows, predicted, run)
    if run:
        maps = look_at_run(run, rows, spec, detections)
    else:
        cases = look_at_files(files, rows, spec, mask_mpp=mask_mpp)
        maps = {ENSEMBLE: cases}
    return score_maps(
        "camelyon16",
        maps,
        measures(fp),
        units_of(with_patients(rows, run).values(), otherwise="slide"),
        resamples=resamples,
        notes=[*notes_on(rows.values(), maps), *note_not_scored(rows, predicted)],
    )


def measures(fp: FalsePositives) -> dict[str, Measure[SlideCase]]:
    """The challenge's two scores."""
    return {
        "froc": Measure(
            statistic=lambda cases: froc_score([c.hits for c in cases], fp),
            lacking="it needs a lesion that is more than isolated tumor cells, and a "
            f"slide to count false positives on ({fp})",
        ),
        "auc": Measure(
            statistic=lambda cases: auc(
                [c.hits.tumor for c in cases], [c.score for c in cases]
            ),
            lacking="it needs slides with tumor and without",
        ),
    }


def look_at_run(
    run: FinishedRun,
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    out: Path | None,
) -> dict[str, dict[str, SlideCase]]:
    """ENSEMBLE and members -> slide_id -> case; the ensemble's CSVs are written."""
    maps: dict[str, dict[str, SlideCase]] = {ENSEMBLE: {}}
    for slide_id, row in rows.items():
        extent = extent_of_record(run.records[slide_id].slide)
        truth = truth_of(row, extent, spec) if row.annotation else None
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
) -> dict[str, SlideCase]:
    """slide_id -> case, of the challenge's CSVs."""
    cases = {}
    for slide_id, row in rows.items():
        found = read_detections(files[slide_id])
        hits, outside = match(found, None), 0
        if row.annotation is not None:
            extent = extent_of_row(row, spec, mpp=mask_mpp)
            truth = truth_of(row, extent, spec)
            hits = match(found, truth, mpp_x=extent.mpp_x, mpp_y=extent.mpp_y)
            outside = count_outside(found, extent)
        score = max((d.confidence for d in found), default=0.0)
        cases[slide_id] = SlideCase(hits=hits, score=score, outside=outside)
    return cases


def count_outside(detections: Sequence[Detection], extent: Extent) -> int:
    """How many detections lie beyond the slide."""
    return sum(
        not (0 <= d.x < extent.width and 0 <= d.y < extent.height) for d in detections
    )


def detections_in(folder: Path) -> dict[str, Path]:
    """slide_id -> file, of a folder of the challenge's CSVs.

    Raises:
        ValueError: it is no folder, or holds none.
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
    """What a reader of the scores must know."""
    cases = maps[ENSEMBLE].values()
    lesions = sum(len(c.hits.lesions) for c in cases)
    tumor = sum(c.hits.tumor for c in cases)
    notes = [
        f"lesions to find, isolated tumor cells left out: {lesions}; slides with "
        f"tumor: {tumor}, without: {len(cases) - tumor}"
    ]
    outside = {i: c.outside for i, c in maps[ENSEMBLE].items() if c.outside}
    if outside:
        notes.append(
            f"detections beyond their slide, which count as false: "
            f"{sum(outside.values())}, on {min(outside)} for one; are x and y px of "
            "level 0, and the masks too?"
        )
    bare = [r for r in rows if r.annotation is None and r.label is None]
    if bare:
        notes.append(
            "taken to hold no tumor, for they have neither annotation nor label: "
            f"{len(bare)} slides, {bare[0].slide_id} for one"
        )
    partly = [r for r in rows if r.annotation is not None and r.exhaustive is False]
    if partly:
        notes.append(
            f"annotated in part: {len(partly)} slides, {partly[0].slide_id} for one; "
            "what is found beside the annotation counts as false"
        )
    return notes
