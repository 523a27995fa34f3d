"""The tables at the top of a run: types by the size rule or by forests, and stages."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digipath_ray.config.run import GridSpec, MemberSpec, OutcomeSpec, RunConfig
from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.fit_forests import Training
from digipath_ray.outcome.metastasis.fit_model import fit_model
from digipath_ray.outcome.metastasis.model import save_stage_model, setting_of
from digipath_ray.outcome.metastasis.size_rule import SizeRule
from digipath_ray.outcome.metastasis.validation import LabeledSlides
from digipath_ray.outcome.staging import Metastasis
from digipath_ray.outcome.tables import make_tables, write_tables
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord
from digipath_ray.schema import FAILURES
from tests.records import done_of as finished
from tests.records import record_of

MEMBERS = (MemberSpec(name="a", architecture="Unet", digest="a" * 64),)


def config_for(**outcome: Any) -> RunConfig:
    return RunConfig(
        grid=GridSpec(mpp=1.0, patch_px=64, stride_px=32, downsample=16),
        members=MEMBERS,
        outcome=OutcomeSpec(outcome="stage", **outcome),
    )


def record(slide_id: str, *, patient: str | None, largest_um: float) -> DoneRecord:
    """A ``done`` record; its features grow with the lesion."""
    outcome = {
        "slide_id": slide_id,
        "patient_id": patient,
        "tumor_mm2": 0.0,
        "tissue_mm2": 1.0,
        "probability_max": 0.9,
        "largest_um": largest_um,
        "upsampled": False,
        "qc": [],
        "patches": 1,
        "seconds": 1.0,
    }
    slide = record_of(slide_id, patient_id=patient)
    features = dict.fromkeys(FEATURES, largest_um)
    return finished(slide, outcome=outcome, features=features)


def failure(slide_id: str, patient: str | None) -> Failure:
    return Failure(
        slide_id=slide_id,
        path="",
        patient_id=patient,
        step="read",
        attempt=1,
        error="",
        hint="",
    )


def done_of(*records: DoneRecord) -> dict[str, DoneRecord]:
    return {r.slide.slide_id: r for r in records}


def test_sizes_give_types_and_types_give_stages() -> None:
    done = done_of(
        record("a0", patient="a", largest_um=2500.0),
        record("a1", patient="a", largest_um=0.0),
        record("b0", patient="b", largest_um=200.0),
        record("c0", patient=None, largest_um=300.0),
    )
    tables = make_tables(done, [], config_for())
    assert [row["metastasis"] for row in tables.outcomes] == [
        "macro",
        "negative",
        "itc",
        "micro",
    ]
    assert [(p.patient_id, str(p.pn_stage), p.complete) for p in tables.patients] == [
        ("a", "pN1", True),
        ("b", "pN0(i+)", True),
    ]


def test_a_failed_slide_makes_its_patients_stage_incomplete() -> None:
    done = done_of(record("a0", patient="a", largest_um=2500.0))
    failures = [failure("a1", "a"), failure("z", "only failed"), failure("y", None)]
    first, second = make_tables(done, failures, config_for()).patients
    assert (first.pn_stage, first.missing, first.complete) == ("pN1", 1, False)
    assert (second.patient_id, second.pn_stage) == ("only failed", None)


def test_a_slide_that_could_not_be_measured_anew_has_no_type() -> None:
    done = done_of(
        record("a0", patient="a", largest_um=2500.0),  # by other settings
        record("a1", patient="a", largest_um=0.0),
    )
    tables = make_tables(done, [failure("a0", "a")], config_for())
    assert [row.get("metastasis") for row in tables.outcomes] == [None, "negative"]
    (patient,) = tables.patients
    assert (patient.pn_stage, patient.missing, patient.complete) == ("pN0", 1, False)


def test_a_slide_that_was_prepared_and_not_finished_is_missing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    slides = [{"slide_id": i, "patient_id": "a"} for i in ("a0", "a1", "a2")]
    pq.write_table(pa.Table.from_pylist(slides), run.slides)
    run.write_table(run.failures, [vars(failure("a2", "a"))], FAILURES)
    assert write_tables(run, config_for()).patients[0].missing == 1  # none is done yet
    run.write_record(record("a0", patient="a", largest_um=0.0))
    (patient,) = write_tables(run, config_for()).patients
    assert (patient.nodes, patient.missing, patient.complete) == (1, 2, False)


def test_nodes_that_should_be_there_are_missed() -> None:
    done = done_of(record("a0", patient="a", largest_um=0.0))
    (patient,) = make_tables(done, [], config_for(nodes=5)).patients
    assert (patient.nodes, patient.missing, patient.complete) == (1, 4, False)


def test_forests_vote_in_place_of_the_size_rule(tmp_path: Path) -> None:
    # Forests that were told the opposite of the size rule: large is negative.
    sizes = np.linspace(0, 2500, 40)
    types = np.where(sizes > 1000, Metastasis.NEGATIVE, Metastasis.MACRO)
    slides = LabeledSlides(
        slide_ids=[f"s{i}" for i in range(40)],
        patients=[f"p{i // 2}" for i in range(40)],
        types=types.astype(np.int64),
        features=np.repeat(sizes[:, None], len(FEATURES), axis=1),
        groups=[[] for _ in sizes],
    )
    model = fit_model(
        slides,
        Training(trees=10),
        folds=2,
        preset=SizeRule(min_extent_um=40.0, min_p=0.7, merge_um=75.0),
        setting=setting_of(config_for()),
        effective_mpp=(1.0, 1.0),
        overlap=0,
    )
    path = tmp_path / "m.skops"
    save_stage_model(path, model)
    done = done_of(
        record("a0", patient="a", largest_um=2400.0),
        record("a1", patient="a", largest_um=10.0),
    )
    tables = make_tables(done, [], config_for(stage_model=str(path)))
    assert [row["metastasis"] for row in tables.outcomes] == ["negative", "macro"]
    assert tables.outcomes[0]["votes"] == ["negative"] * 4
    assert tables.outcomes[0]["type_probability"][0] > 0.5
    assert tables.patients[0].pn_stage == "pN1"
    with pytest.raises(ValueError, match="does not fit this run"):
        make_tables(done, [], config_for(stage_model=str(path), merge_um=80.0))


def test_what_is_not_asked_for_leaves_no_table(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.write_record(record("a0", patient="a", largest_um=2500.0))
    write_tables(run, config_for())
    assert pq.read_table(run.patients)["pn_stage"].to_pylist() == ["pN1"]
    assert pq.read_table(run.features).num_columns == 33
    write_tables(run, RunConfig(members=MEMBERS))
    assert not run.patients.exists()
    assert pq.read_table(run.outcomes)["metastasis"].to_pylist() == [None]
