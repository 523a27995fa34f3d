"""CAMELYON17: patients' pN stages, by quadratic weighted kappa.

camelyon17.grand-challenge.org/Evaluation, and the organizers' evaluation.py: Cohen's
kappa of scikit-learn with quadratic weights over pN0, pN0(i+), pN1mi, pN1 and pN2, on
the rows that end in .zip, in lower case; a missing patient is an error.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from digipath_ray.evaluate.bootstrap import (
    ENSEMBLE,
    RESAMPLES,
    Measure,
    Units,
    score_maps,
)
from digipath_ray.evaluate.predicted import find_run, maps_of, note_not_scored
from digipath_ray.evaluate.results import Evaluation
from digipath_ray.outcome.measure import SlideOutcome, measure_slide
from digipath_ray.outcome.metastasis.scores import quadratic_kappa
from digipath_ray.outcome.stagelabels import read_stage_labels, stage_label_file
from digipath_ray.outcome.staging import PnStage
from digipath_ray.outcome.tables import stage_patients, type_slides
from digipath_ray.run.finished import FinishedRun
from digipath_ray.storage.files import read_table

STAGES = (PnStage.N0, PnStage.N0_ITC, PnStage.N1_MICRO, PnStage.N1, PnStage.N2)
"""Stages of the challenge, in the order of their weights."""
Pair = tuple[PnStage, PnStage]
"""Reference and predicted stage of a patient."""
Stages = Mapping[str, PnStage]
"""Lower-case patient_id -> stage."""


def kappa(pairs: Sequence[Pair]) -> float:
    """Quadratic weighted kappa of patients' stages; NaN if all are equal."""
    true, predicted = zip(*pairs, strict=True)
    found = quadratic_kappa(
        [str(s) for s in true], [str(s) for s in predicted], [str(s) for s in STAGES]
    )
    return math.nan if found is None else found


def evaluate_camelyon17(
    reference: Path, prediction: Path, *, resamples: int = RESAMPLES
) -> Evaluation:
    """Compute the kappa of patients' stages; the bootstrap resamples patients.

    Members are staged like the run, by the size rule or its stage model, from their own
    maps; a member is skipped for patients with slides it did not predict.

    Args:
        reference: the challenge's stage_labels.csv, or a table of slide types.
        prediction: run directory, or a submission (patient, stage).
        resamples: bootstrap resamples.

    Raises:
        ValueError: a patient is missing, or has no stage or one outside the
            challenge's.
    """
    true = reference_stages(reference)
    run = find_run(prediction) if prediction.is_dir() else None
    if prediction.is_dir() and run is None:
        raise ValueError(f"{prediction}: neither a run directory nor a submission CSV")
    notes: list[str] = []
    if run is None:
        found = check_stages(dict(read_stage_labels(prediction).stages), prediction)
    else:
        found, notes = stages_of_run(run)
    maps = {ENSEMBLE: pair_up(true, found, prediction)}
    for name, stages in stages_of_members(run).items() if run else ():
        pairs = {p: (true[p], s) for p, s in stages.items() if p in true}
        if pairs:
            maps[name] = pairs
    measure = Measure[Pair](statistic=kappa, lacking="all patients have the same stage")
    return score_maps(
        "camelyon17",
        maps,
        {"kappa": measure},
        Units(name="patient", of={p: p for p in true}),
        resamples=resamples,
        notes=[*notes, *note_not_scored(true, found)],
    )


def reference_stages(path: Path) -> Stages:
    """Read the stages of a label file, or derive them from its slide types.

    Raises:
        ValueError: it has neither, or a stage outside the challenge's.
    """
    stated = dict(read_stage_labels(path).stages)
    if not stated:
        staged = stage_label_file(path)
        stated = {p.patient_id: p.pn_stage for p in staged if p.pn_stage is not None}
    return check_stages(stated, path)


def check_stages(stages: Mapping[str, PnStage], path: Path) -> Stages:
    """Validate stages; returns them by lower-case patient.

    Raises:
        ValueError: there is no stage, one outside the challenge's, or two for a
            patient.
    """
    for patient_id, stage in stages.items():
        if stage not in STAGES:
            raise ValueError(
                f"{path}: {patient_id} is {stage}, not one of the challenge's "
                f"{', '.join(STAGES)}: remove the patient"
            )
    if not stages:
        raise ValueError(
            f"{path}: no patient stages: expected rows like patient_000.zip,pN0"
        )
    found: dict[str, PnStage] = {}
    for patient_id, stage in stages.items():
        if found.setdefault(patient_id.lower(), stage) != stage:
            raise ValueError(f"{path}: {patient_id} has two different stages")
    return found


def pair_up(true: Stages, found: Stages, path: Path) -> dict[str, Pair]:
    """Pair the stages: patient_id -> (true, predicted).

    Raises:
        ValueError: a patient of the reference is missing.
    """
    missing = sorted(true.keys() - found.keys())
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(true)} patients of the reference are "
            f"missing, e.g. {missing[0]}: the challenge requires all"
        )
    return {
        patient_id: (stage, found[patient_id]) for patient_id, stage in true.items()
    }


def stages_of_run(run: FinishedRun) -> tuple[Stages, list[str]]:
    """Stages of a run's PATIENTS table, and notes.

    Raises:
        ValueError: the run has no such table, or a patient has no stage.
    """
    path = run.directory.patients
    if not path.is_file():
        raise ValueError(
            f"{run.directory.root}: no patient is staged: run digipath stage RUN on "
            "slides with patient_id in the manifest"
        )
    stages = {}
    partial = 0
    for row in read_table(path).to_pylist():
        if row["pn_stage"] is None:
            raise ValueError(f"{path}: {row['patient_id']} has no stage: {row['note']}")
        stages[row["patient_id"]] = PnStage.from_text(row["pn_stage"])
        partial += not row["complete"]
    notes = (
        [f"stages that are lower bounds because slides are missing: {partial}"]
        if partial
        else []
    )
    return check_stages(stages, path), notes


def stages_of_members(run: FinishedRun) -> dict[str, Stages]:
    """Stages of each member, for patients with all slides predicted by it.

    Empty, without reading any heatmap, if the run kept no member maps.
    """
    if not run.config.ensemble.keep_members:
        return {}
    measured: dict[str, dict[str, SlideOutcome]] = {}
    for slide_id in run.records:
        for name, slide in maps_of(run.slide(slide_id)).items():
            if name != ENSEMBLE:
                outcome = measure_slide(slide, run.config)
                measured.setdefault(name, {})[slide_id] = outcome
    return {name: stage_member(run, found) for name, found in measured.items()}


def stage_member(run: FinishedRun, measured: Mapping[str, SlideOutcome]) -> Stages:
    """Stages from one member's maps, for patients with all slides predicted by it."""
    features = {i: o.features for i, o in measured.items() if o.features is not None}
    rows = {slide_id: dict(outcome.row) for slide_id, outcome in measured.items()}
    for slide_id, found in type_slides(rows, features, run.config).items():
        rows[slide_id] |= found
    nodes, failures = run.config.outcome.nodes, run.failures
    unseen = run.records.keys() - measured.keys()
    partly = {run.records[slide_id].slide.patient_id for slide_id in unseen}
    return {
        patient.patient_id.lower(): patient.pn_stage
        for patient in stage_patients(list(rows.values()), failures, nodes)
        if patient.pn_stage in STAGES and patient.patient_id not in partly
    }
