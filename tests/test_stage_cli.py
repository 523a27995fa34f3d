"""``digipath stage fit`` and ``digipath stage labels`` as a user meets them."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from rich.console import Console

from digipath_ray.cli.stage_fit import fit_stage_model, stage_labels
from digipath_ray.config.toml import to_tree
from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.fit_forests import Training
from digipath_ray.outcome.metastasis.model import check_fits, load_stage_model
from digipath_ray.outcome.staging import Metastasis
from digipath_ray.run.directory import RunDirectory
from tests.records import done_of, record_of
from tests.runs import small_config

FEW = Training(trees=20)
SIZES_UM = (0.0, 120.0, 900.0, 3000.0)
MEMBERS = [{"name": n, "architecture": "Unet", "digest": n * 64} for n in "ab"]
CONFIG = small_config({"members": MEMBERS, "outcome": {"outcome": "stage"}})


def type_of(patient: int, node: int) -> Metastasis:
    """Patients that differ: none, all four types, or every other node micro."""
    return Metastasis(patient * node % 4)


def told(slide_id: str, size_um: float, **columns: Any) -> dict[str, Any]:
    """A ``done`` record: a slide with one lesion, or none."""
    slide = record_of(
        slide_id, path=f"{slide_id}.tif", effective_mpp_x=1.01, seen_by=None, **columns
    )
    return done_of(
        slide,
        features=dict.fromkeys(FEATURES, size_um),
        groups=[[size_um, 0.95]] if size_um else [],
    ).to_json()


def write_run(folder: Path, records: Sequence[Mapping[str, Any]]) -> RunDirectory:
    run = RunDirectory(folder)
    run.create()
    run.settings.write_text(tomli_w.dumps(to_tree(CONFIG)))
    for record in records:
        run.write_json(run.done(record["slide"]["slide_id"]), record)
    return run


@pytest.fixture
def records() -> list[dict[str, Any]]:
    """8 patients of 5 nodes, each a little larger or smaller than its type's size."""
    rng = np.random.default_rng(0)
    found = []
    for patient in range(8):
        for node in range(5):
            size_um = SIZES_UM[type_of(patient, node)] * rng.uniform(0.8, 1.2)
            name = f"patient_{patient:03}"
            found.append(told(f"{name}_node_{node}", size_um, patient_id=name))
    return found


@pytest.fixture
def run(tmp_path: Path, records: list[dict[str, Any]]) -> RunDirectory:
    return write_run(tmp_path / "run", records)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Labels of 9 patients, one of whom the run does not have."""
    lines = ["patient,stage"]
    for patient in range(9):
        lines.append(f"patient_{patient:03}.zip,pN0")
        for node in range(5):
            kind = type_of(patient, node).label
            lines.append(f"patient_{patient:03}_node_{node}.tif,{kind}")
    file = tmp_path / "stage_labels.csv"
    file.write_text("\n".join(lines))
    return file


def fit(run: RunDirectory, labels: Path, out: Path, **options: Any) -> str:
    """What a fit prints, in one line."""
    console = Console(file=io.StringIO(), width=200)
    options = {"training": FEW, "folds": 4, **options}
    assert fit_stage_model(console, run.root, labels, out, **options) == 0
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_fit_writes_a_model_that_fits_the_run(
    run: RunDirectory, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.skops"
    said = fit(run, labels, out)
    model = load_stage_model(out)
    check_fits(model.card, CONFIG)
    rows = [dict.fromkeys(FEATURES, size) for size in SIZES_UM]
    assert [v.type for v in model.predict(rows)] == list(Metastasis)
    assert model.card.effective_mpp == (1.01, 1.01)
    assert model.card.overlap == 0
    assert "40 slides of 8 patients: 24 negative, 4 itc, 8 micro, 4 macro" in said
    assert "5 slides labeled, but not finished in this run" in said
    assert "four forests 1.000 1.000 1.000 1.000 1.000 1.000 1.000" in said
    assert "micro 0 0 8 0" in said
    assert "lesions of at least 40 um with a probability of 0.7" in said


def test_card_and_plot_lie_beside_the_model(
    run: RunDirectory, labels: Path, tmp_path: Path
) -> None:
    fit(run, labels, tmp_path / "model.skops")
    card = json.loads((tmp_path / "model.json").read_text())
    assert card["setting"]["members"] == ["a" * 64, "b" * 64]
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_is_not_written_over_unasked(
    run: RunDirectory, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.skops"
    out.write_text("precious")
    with pytest.raises(ValueError, match="there already; --overwrite"):
        fit(run, labels, out)
    assert out.read_text() == "precious"
    fit(run, labels, out, overwrite=True)
    assert load_stage_model(out).card.slides == 40


def test_slides_that_members_had_seen_are_counted_and_warned_of(
    tmp_path: Path, records: list[dict[str, Any]], labels: Path
) -> None:
    records[0]["slide"]["seen_by"] = ["a"]
    records[1]["slide"]["seen_by"] = ["b"]  # which did not predict it
    run = write_run(tmp_path / "run", records)
    said = fit(run, labels, tmp_path / "model.skops")
    assert "note 1 of 40 slides, e.g. patient_000_node_0, were predicted by" in said
    assert "--out-of-fold" in said
    assert load_stage_model(tmp_path / "model.skops").card.overlap == 1


def test_slides_held_back_or_without_label_are_not_fitted_on(
    tmp_path: Path, records: list[dict[str, Any]], labels: Path
) -> None:
    for record in records[:5]:
        record["slide"]["split"] = "test"
    extra = told("who_knows", 50.0)
    run = write_run(tmp_path / "run", [*records, extra])
    said = fit(run, labels, tmp_path / "model.skops")
    assert "5 slides held back for the test" in said
    assert "1 slide without a label" in said
    assert "35 slides of 7 patients" in said


def test_patients_come_from_the_labels_where_the_run_knows_none(
    tmp_path: Path, records: list[dict[str, Any]], labels: Path
) -> None:
    for record in records:
        record["slide"]["patient_id"] = None
    run = write_run(tmp_path / "run", records)
    assert "40 slides of 8 patients" in fit(run, labels, tmp_path / "model.skops")


def test_a_manifest_serves_as_labels(run: RunDirectory, tmp_path: Path) -> None:
    lines = ["slide_id,path,label"]
    for patient in range(8):
        for node in range(5):
            name = f"patient_{patient:03}_node_{node}"
            kind = type_of(patient, node).label
            lines.append(f"{name},{name}.tif,{kind}")
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("\n".join(lines))
    assert "40 slides of 8 patients" in fit(run, manifest, tmp_path / "model.skops")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, labels: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        fit(RunDirectory(tmp_path / "nothing"), labels, tmp_path / "m.skops")


def test_labels_of_other_slides_are_refused(run: RunDirectory, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("patient,stage\nx_node_0.tif,itc\n")
    with pytest.raises(ValueError, match="none of its 40 slides to fit on has a label"):
        fit(run, labels, tmp_path / "m.skops")


def test_a_run_without_features_says_how_to_get_them(
    tmp_path: Path, records: list[dict[str, Any]], labels: Path
) -> None:
    records[3]["features"] = None
    run = write_run(tmp_path / "run", records)
    with pytest.raises(ValueError, match="patient_000_node_3 has no features: run"):
        fit(run, labels, tmp_path / "m.skops")


@pytest.mark.parametrize("name", ["model.pkl", "folder.skops"])
def test_a_model_that_cannot_be_written_is_refused_before_the_fit(
    tmp_path: Path, labels: Path, name: str
) -> None:
    (tmp_path / "folder.skops").mkdir()
    nowhere = RunDirectory(tmp_path / "nothing")  # it would be read next
    with pytest.raises(ValueError, match=r"name the model|a file name for"):
        fit(nowhere, labels, tmp_path / name, overwrite=True)


# Labels alone.


def stage(file: Path, out: Path, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    assert stage_labels(console, file, out, **options) == 0
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_label_file_is_staged_as_a_submission(tmp_path: Path) -> None:
    file, out = tmp_path / "labels.csv", tmp_path / "out.csv"
    file.write_text(
        "slide_id,label,patient_id\n"
        "b1,itc,b\nb0,negative,b\na_node_0,macro,\na_node_1,micro,\n"
    )
    said = stage(file, out, nodes=2)
    assert out.read_text() == (
        "patient,stage\n"
        "a.zip,pN1\na_node_0.tif,macro\na_node_1.tif,micro\n"
        "b.zip,pN0(i+)\nb0.tif,negative\nb1.tif,itc\n"
    )
    assert "2 patients: 1 pN0(i+), 1 pN1\n" in said


def test_what_the_file_states_is_held_against_its_slides(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(
        "patient,stage\n"
        "p.zip,pN2\np_node_0.tif,macro\np_node_1.tif,itc\n"
        "q.zip,pN0\nq_node_0.tif,negative\n"
    )
    said = stage(file, tmp_path / "out.csv")
    assert "1 of 2 as the file states" in said
    assert "p: pN1 by its slides, the file states pN2" in said


def test_stages_are_held_against_the_files_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("patient,stage\nP.ZIP,pN2\np_node_0.tif,macro\n")
    said = stage(file, tmp_path / "out.csv")
    assert "0 of 1 as the file states" in said


def test_the_labels_are_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("slide_id,label,mpp\np_node_0,micro,0.25\n")
    with pytest.raises(ValueError, match="the labels themselves"):
        stage(file, tmp_path / ".." / tmp_path.name / "labels.csv")
    assert "0.25" in file.read_text()


def test_an_incomplete_patient_is_said(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("patient,stage\np_node_0.tif,micro\n")
    said = stage(file, tmp_path / "out.csv", nodes=5)
    assert "p: at least pN1mi: 4 of 5 nodes have no type" in said


def test_the_official_stages_all_agree(tmp_path: Path, shared_data: Path) -> None:
    file = shared_data / "camelyon17" / "stage_labels.csv"
    said = stage(file, tmp_path / "out.csv", nodes=5)
    assert "24 pN0, 12 pN0(i+), 20 pN1mi, 25 pN1, 19 pN2" in said
    assert "100 of 100 as the file states" in said
    assert "note" not in said
