"""PAIP 2019: viable tumor (Task 1) and its fraction of the whole tumor (Task 2).

paip2019.grand-challenge.org/Evaluation: Task 1 is the Jaccard index, set to 0 below
0.65; Task 2 is 1 - |error of the burden| weighted by the case's Task 1 score; both are
means over the cases, and missing data score 0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.annotations import Account
from digipath_ray.cohort.manifest import ALIASES, SlideRow
from digipath_ray.cohort.sheet import cell_text, find_column, read_sheet
from digipath_ray.config.classes import WHOLE
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.bootstrap import (
    ENSEMBLE,
    RESAMPLES,
    Measure,
    score_maps,
    units_of,
)
from digipath_ray.evaluate.masks import (
    Overlap,
    look_at_run,
    mean,
    overlap_of_mask,
    overlap_of_slide,
)
from digipath_ray.evaluate.predicted import (
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
from digipath_ray.outcome.burden import measure_burden
from digipath_ray.run.finished import FinishedRun, FinishedSlide
from digipath_ray.run.truth import Truth

CLIP = 0.65
"""Jaccard index below which a case's Task 1 score is 0."""
BURDEN = ("burden", "ratio", "viable_tumor_burden", "tumor_burden")


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """A case: overlap of its viable tumor, and burdens, 0 to 1.

    ``overlap`` and ``burden`` are None without a prediction, ``reference`` if the true
    burden is unknown. A slide without tumor has a burden of 0.
    """

    overlap: Overlap | None
    burden: float | None
    reference: float | None

    @property
    def jaccard(self) -> float:
        """Jaccard index of the viable tumor; 0 for a missing case."""
        return 0.0 if self.overlap is None else self.overlap.jaccard

    @property
    def clipped(self) -> float:
        """Task 1 score: the Jaccard index, but 0 below 0.65."""
        return self.jaccard if self.jaccard >= CLIP else 0.0

    @property
    def accuracy(self) -> float:
        """1 - |error of the burden|; 0 for a missing case."""
        if self.burden is None or self.reference is None:
            return 0.0
        return 1 - abs(self.burden - self.reference)


TASK_1 = {
    "jaccard_clipped": Measure[CaseScore](
        statistic=lambda cases: mean([c.clipped for c in cases]),
        lacking="there are no cases",
    ),
    "jaccard": Measure[CaseScore](
        statistic=lambda cases: mean([c.jaccard for c in cases]),
        lacking="there are no cases",
    ),
}
TASK_2 = {
    "burden_score": Measure[CaseScore](
        statistic=lambda cases: mean([c.accuracy * c.clipped for c in cases]),
        lacking="there are no cases",
    ),
    "burden_score_plain": Measure[CaseScore](
        statistic=lambda cases: mean([c.accuracy * c.jaccard for c in cases]),
        lacking="there are no cases",
    ),
}


def evaluate_paip2019(
    reference: Path,
    prediction: Path,
    *,
    burdens: Path | None = None,
    annotations: AnnotationSpec | None = None,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score both tasks, each in two variants.

    ``jaccard_clipped`` is the Task 1 score, ``jaccard`` the plain index.
    ``burden_score`` is the Task 2 score, the mean of (1 - |error|) times the case's
    clipped Jaccard index; ``burden_score_plain`` uses the plain index, as in the
    paper's wording ("corresponding Task 1 score (Jaccard index)").

    Args:
        reference: manifest with annotations of viable tumor, or folder of masks named
            by slide_id.
        prediction: run directory, or folder of masks named by slide_id with one CSV of
            burdens (slide_id, burden in percent).
        burdens: CSV of the reference burdens (slide_id, burden in percent).
        annotations: how to interpret the reference's annotations.
        resamples: bootstrap resamples.

    Raises:
        ValueError: something cannot be read, or a burden is missing.
    """
    spec = annotations or AnnotationSpec()
    rows = read_reference(reference).rows
    true = None if burdens is None else burdens_of_rows(burdens, rows)
    run = find_run(prediction)
    files = {} if run else annotations_in(prediction)
    accounts: dict[str, Account] = {}
    if run:
        maps = look_at_run_cases(run, rows, spec, true, accounts)
    else:
        stated = {} if true is None else burdens_in(prediction)
        maps = {ENSEMBLE: look_at_files(files, rows, spec, true, stated, accounts)}
    predicted = run.records if run else files
    return score_maps(
        "paip2019",
        maps,
        TASK_1 if true is None else TASK_1 | TASK_2,
        units_of(with_patients(rows, run).values(), otherwise="case"),
        resamples=resamples,
        notes=[
            *note_annotations(accounts),
            *notes_on(maps[ENSEMBLE], true),
            *(note_hulls(run) if run is not None and true is not None else ()),
            *note_not_scored(rows, predicted),
        ],
    )


def look_at_files(
    files: Mapping[str, Path],
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    true: Mapping[str, float] | None,
    burdens: Mapping[str, float],
    accounts: dict[str, Account],
) -> dict[str, CaseScore]:
    """Score predicted masks and burdens: slide_id -> case."""
    return {
        slide_id: CaseScore(
            overlap=overlap_of_mask(row, files[slide_id], spec, accounts)
            if slide_id in files
            else None,
            burden=burdens.get(slide_id),
            reference=None if true is None else true[slide_id],
        )
        for slide_id, row in rows.items()
    }


def look_at_run_cases(
    run: FinishedRun,
    rows: Mapping[str, SlideRow],
    spec: AnnotationSpec,
    true: Mapping[str, float] | None,
    accounts: dict[str, Account],
) -> dict[str, dict[str, CaseScore]]:
    """Score a run: ENSEMBLE and members -> slide_id -> case; every row for ENSEMBLE.

    Burdens are measured with the run's settings.
    """
    threshold = run.config.outcome.threshold

    def look(slide: FinishedSlide, truth: Truth) -> CaseScore:
        slide_id = slide.record.slide_id
        overlap = overlap_of_slide(slide, truth, threshold)
        if true is None:
            return CaseScore(overlap=overlap, burden=None, reference=None)
        burden = measure_burden(
            slide.heatmap, slide.tissue, run.config.outcome, threshold=threshold
        ).burden
        return CaseScore(
            overlap=overlap, burden=burden or 0.0, reference=true[slide_id]
        )

    maps = look_at_run(run, rows, spec, look, accounts)
    missing = rows.keys() - run.records.keys()
    maps[ENSEMBLE] |= {
        i: CaseScore(overlap=None, burden=None, reference=None) for i in missing
    }
    return maps


def burdens_of_rows(path: Path, rows: Mapping[str, SlideRow]) -> dict[str, float]:
    """Reference burden of each row, 0 to 1, by slide_id.

    Raises:
        ValueError: a burden is missing, or the table is invalid.
    """
    found = read_burdens(path)
    missing = sorted(rows.keys() - found.keys())
    if missing:
        raise ValueError(f"{path}: no burden for {missing[0]}: add it")
    return {slide_id: found[slide_id] for slide_id in rows}


def burdens_in(folder: Path) -> dict[str, float]:
    """Read the burdens of the only CSV in a folder.

    Raises:
        ValueError: there is not exactly one CSV, or it is invalid.
    """
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        raise ValueError(
            f"{folder}: {len(found)} CSVs in this folder of masks, expected one: add "
            "one with slide_id,burden (percent), or omit the reference burdens"
        )
    return read_burdens(found[0])


def read_burdens(path: Path) -> dict[str, float]:
    """Read a table of burdens in percent, as the challenge's: slide_id -> 0 to 1.

    Raises:
        ValueError: a column is missing, a case is duplicated, a value is not a
            percentage, or all are at most 1 and so look like fractions.
    """
    rows = read_sheet(path)[1]
    columns = [str(column) for column in rows[0][1]] if rows else []
    ids = ("slide_id", *ALIASES["slide_id"], *ALIASES["patient_id"])
    slide, burden = (find_column(columns, names) for names in (ids, BURDEN))
    if slide is None or burden is None:
        raise ValueError(f"{path}: needs columns slide_id and burden, and a row")
    found: dict[str, float] = {}
    for where, row in rows:
        slide_id = cell_text(row[slide])
        if slide_id in found:
            raise ValueError(f"{where}: duplicate {slide_id}: remove one")
        found[slide_id] = _percent(cell_text(row[burden]), where)
    if 0 < max(found.values()) <= 0.01:
        raise ValueError(
            f"{path}: no burden is above 1; they look like fractions, but must be in "
            "percent: 12.5, not 0.125"
        )
    return found


def _percent(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f"{where}: burden {text!r}: must be percent, 0 to 100")
    return value / 100


def note_hulls(run: FinishedRun) -> Iterator[str]:
    """Note on members scored with another whole tumor than the ensemble."""
    ensemble = run.config.ensemble
    if WHOLE in run.config.channels and ensemble.keep_members:
        yield (
            "the ensemble's whole tumor is the networks', which is not kept for each "
            "member: members' burdens are by the convex hull of their viable tumor"
        )


def notes_on(
    cases: Mapping[str, CaseScore], true: Mapping[str, float] | None
) -> list[str]:
    """Notes for the reader of the scores."""
    notes = []
    missing = sorted(i for i, case in cases.items() if case.overlap is None)
    if missing:
        notes.append(f"missing cases, which score 0: {len(missing)}, e.g. {missing[0]}")
    unsaid = sorted(i for i, c in cases.items() if c.overlap and c.burden is None)
    if unsaid and true is not None:
        notes.append(
            f"cases without burden, which score 0 in Task 2: {len(unsaid)}, "
            f"e.g. {unsaid[0]}"
        )
    if true is None:
        notes.append("no burden_score: no reference burdens given")
    return notes
