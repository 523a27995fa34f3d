"""The tables at the top of a run: slides' outcomes and features, patients' stages.

A slide's type is the size rule's, or that of a model of ``digipath stage fit``, which
looks at the features of all slides together.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.outcome.features import FEATURES_SCHEMA
from digipath_ray.outcome.metastasis.model import (
    StageModel,
    check_fits,
    load_stage_model,
)
from digipath_ray.outcome.metastasis.size_rule import type_of_size
from digipath_ray.outcome.staging import Metastasis, PatientStage, stage_patient
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord
from digipath_ray.schema import OUTCOMES, PATIENTS, SLIDES
from digipath_ray.storage.files import read_rows

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunTables:
    """What a run has come to.

    Attributes:
        outcomes: rows of the OUTCOMES table.
        features: rows of the FEATURES table, of slides that have them.
        patients: stages, where stages are asked for.
    """

    outcomes: list[dict[str, Any]]
    features: list[dict[str, Any]]
    patients: list[PatientStage]


def stage_model_of(config: RunConfig) -> StageModel | None:
    """The model that gives slides their types; None: the size rule does.

    Raises:
        ValueError: it cannot be read, or was fitted on other heatmaps than this run's.
    """
    if config.outcome.outcome != "stage" or config.outcome.stage_model is None:
        return None
    model = load_stage_model(config.outcome.stage_model)
    check_fits(model.card, config)
    return model


def make_tables(
    done: Mapping[str, DoneRecord],
    failures: Sequence[Failure],
    config: RunConfig,
    *,
    waiting: Sequence[Record] = (),
) -> RunTables:
    """The tables of a run.

    Args:
        done: slide_id -> ``done`` record.
        failures: slides that failed; their patients' stages are incomplete. One that is
            done could not be measured again: it has no type, for its measures are by
            other settings.
        config: of the run.
        waiting: rows of SLIDES that are neither; their patients', too.

    Raises:
        ValueError: as :func:`stage_model_of`.
    """
    rows = {slide_id: dict(record.outcome) for slide_id, record in done.items()}
    features = {i: r.features for i, r in done.items() if r.features}
    patients: list[PatientStage] = []
    if config.outcome.outcome == "stage":
        old = {failure.slide_id for failure in failures}
        now = {i: row for i, row in rows.items() if i not in old}
        measured = {i: values for i, values in features.items() if i in now}
        for slide_id, found in type_slides(now, measured, config).items():
            rows[slide_id] |= found
        there = [*rows.values(), *waiting]
        patients = stage_patients(there, failures, config.outcome.nodes)
    return RunTables(
        outcomes=list(rows.values()),
        features=[{"slide_id": i, **values} for i, values in features.items()],
        patients=patients,
    )


def type_slides(
    rows: Mapping[str, Record],
    features: Mapping[str, Mapping[str, float]],
    config: RunConfig,
) -> dict[str, dict[str, Any]]:
    """Each measured slide's metastasis type, and the votes for it if there were any."""
    model = stage_model_of(config)
    if model is None:
        return {
            slide_id: {"metastasis": type_of_size(row["largest_um"]).label}
            for slide_id, row in rows.items()
            if row.get("largest_um") is not None
        }
    verdicts = model.predict(list(features.values()))
    return {
        slide_id: {
            "metastasis": verdict.type.label,
            "votes": [vote.label for vote in verdict.votes],
            "type_probability": list(verdict.probability),
        }
        for slide_id, verdict in zip(features, verdicts, strict=True)
    }


def stage_patients(
    outcomes: Sequence[Record], failures: Sequence[Failure], nodes: int | None
) -> list[PatientStage]:
    """The stage of every patient that has a slide, by their names."""
    types: dict[str, dict[str, Metastasis | None]] = {}
    for failure in failures:
        if failure.patient_id is not None:
            types.setdefault(failure.patient_id, {})[failure.slide_id] = None
    for row in outcomes:
        if row["patient_id"] is not None:
            label = row.get("metastasis")
            found = None if label is None else Metastasis.from_text(label)
            types.setdefault(row["patient_id"], {})[row["slide_id"]] = found
    return [
        stage_patient(patient_id, list(of.values()), expected=nodes)
        for patient_id, of in sorted(types.items())
    ]


def read_waiting(run: RunDirectory, over: Set[str]) -> list[Record]:
    """Patients of the slides that were prepared, and neither finished nor failed.

    Args:
        run: whose SLIDES table is read.
        over: slides that are one of the two.
    """
    if not run.slides.exists():
        return []
    rows = read_rows(run.slides, SLIDES, ["slide_id", "patient_id"])
    return [row for row in rows if row["slide_id"] not in over]


def write_tables(run: RunDirectory, config: RunConfig) -> RunTables:
    """Make the tables from the records in a run directory, and publish them.

    Raises:
        ValueError: as :func:`stage_model_of`.
    """
    done, failures = run.read_done(), run.read_failures()
    waiting = read_waiting(run, {*done, *(f.slide_id for f in failures)})
    # Before the first slide is finished there is no stage to be had.
    tables = make_tables(done, failures, config, waiting=waiting if done else ())
    run.write_table(run.outcomes, tables.outcomes, OUTCOMES)
    for path, rows, schema in (
        (run.features, tables.features, FEATURES_SCHEMA),
        (run.patients, [asdict(p) for p in tables.patients], PATIENTS),
    ):
        if rows:
            run.write_table(path, rows, schema)
        else:
            path.unlink(missing_ok=True)
    return tables
