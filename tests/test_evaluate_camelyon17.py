"""Kappa of pN stages: by hand, on the official labels, and of whole runs."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from digipath_ray.cli.evaluate import evaluate
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.evaluate.camelyon17 import evaluate_camelyon17, kappa
from digipath_ray.outcome.measure import measure_slide
from digipath_ray.outcome.staging import PnStage
from digipath_ray.outcome.tables import write_tables
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_finished
from tests.evaluated import plane, write_run

N0, ITC, MICRO, N1, N2 = list(PnStage)[:5]
COUNTS = (24, 12, 20, 25, 19)
"""Official patients of each stage."""


def test_kappa_by_hand() -> None:
    # Observed: 1 squared. Expected by chance, of products of counts by 4 patients:
    # (2*1*1 + 2*2*16 + 2*1*16 + 2*1*9) / 4 = 29.
    pairs = [(N0, N0), (N0, ITC), (N2, N2), (N2, N2)]
    assert kappa(pairs) == pytest.approx(1 - 1 / 29)
    assert kappa([(N0, N0), (N2, N2)]) == 1
    assert kappa([(N0, N2), (N2, N0)]) == -1
    assert np.isnan(kappa([(N0, N0), (N0, N0)]))


@pytest.fixture
def labels(shared_data: Path) -> Path:
    return shared_data / "camelyon17" / "stage_labels.csv"


def test_the_official_labels_agree_with_themselves(labels: Path) -> None:
    found = evaluate_camelyon17(labels, labels, resamples=20).scores["kappa"]
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert (found.n, found.unit, found.units) == (100, "patient", 100)


def change(labels: Path, out: Path, *changes: tuple[str, str]) -> Path:
    text = labels.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    out.write_text(text)
    return out


def test_one_patient_changed_in_the_official_labels(
    labels: Path, tmp_path: Path
) -> None:
    changed = change(
        labels, tmp_path / "s.csv", ("patient_000.zip,pN0", "PATIENT_000.ZIP,PN2")
    )
    found = evaluate_camelyon17(labels, changed, resamples=200).scores["kappa"]
    # Observed 4 squared, by what is expected of these counts by chance.
    true, said = np.array(COUNTS), np.array(COUNTS)
    said[0] -= 1
    said[4] += 1
    gaps = (np.arange(5)[:, None] - np.arange(5)) ** 2
    expected = (np.outer(true, said) * gaps).sum() / 100
    assert found.value == pytest.approx(1 - 16 / expected)
    assert found.low is not None
    assert found.low < found.value < found.high == 1


def test_slides_labels_alone_give_the_stages(labels: Path, tmp_path: Path) -> None:
    slides = [x for x in labels.read_text().splitlines() if ".zip" not in x]
    (tmp_path / "slides.csv").write_text("\n".join(slides))
    found = evaluate_camelyon17(tmp_path / "slides.csv", labels, resamples=0)
    assert found.scores["kappa"].value == 1


def test_a_missing_patient_or_an_unknown_stage_is_named(
    labels: Path, tmp_path: Path
) -> None:
    for old, new, said in (
        ("patient_007.zip,", "patient_007.tif,", r"line \d+: metastasis type 'pN"),
        (
            "patient_007.zip,",
            "patient_977.zip,",
            r"1 of 100 patients of the reference are missing, e\.g\. patient_007",
        ),
        (
            "patient_000.zip,pN0",
            "patient_000.zip,pN3a",
            "patient_000 is pN3a, not",
        ),
        ("patient_000.zip,pN0", "patient_000.zip,pN9", "line 2: pN stage 'pN9'"),
    ):
        changed = change(labels, tmp_path / "s.csv", (old, new))
        with pytest.raises(ValueError, match=said):
            evaluate_camelyon17(labels, changed)
    slides = [x for x in labels.read_text().splitlines() if ".zip" not in x]
    (tmp_path / "slides.csv").write_text("\n".join(slides))
    with pytest.raises(ValueError, match="no patient stages"):
        evaluate_camelyon17(labels, tmp_path / "slides.csv")
    with pytest.raises(ValueError, match="neither a run directory nor"):
        evaluate_camelyon17(labels, tmp_path)


# --- runs ---

# Of 4 um: 100 um are isolated tumor cells, 1000 a micro-metastasis, 2400 a macro.
CELLS, SMALL, LARGE = (np.s_[10:14, 10 : 10 + n] for n in (25, 250, 600))


def stage_run(folder: Path) -> RunDirectory:
    """Patients p and q of two nodes; member u takes p's micro for isolated cells."""
    blank = plane(40, 640)

    def maps(part, of_u) -> dict[str, np.ndarray]:
        p, u = (blank if x is None else plane(40, 640, (x, 0.9)) for x in (part, of_u))
        return {"probability": p, "member:u": u}

    run = write_run(
        folder,
        {
            "p_node_0": maps(SMALL, CELLS),
            "p_node_1": maps(CELLS, CELLS),
            "q_node_0": maps(LARGE, LARGE),
            "q_node_1": maps(None, None),
        },
        changes={
            "outcome": {"outcome": "stage", "nodes": 2},
            "ensemble": {"keep_members": True},
        },
        patients={f"{p}_node_{i}": p for p in "pq" for i in (0, 1)},
    )
    config = from_tree(read_toml(run.settings))
    for slide_id in run.read_done():
        measure(run, slide_id, config)
    write_tables(run, config)
    return run


def measure(run: RunDirectory, slide_id: str, config: RunConfig) -> None:
    record = run.read_done()[slide_id]
    found = measure_slide(read_finished(run, record), config)
    none = dict.fromkeys(("members", "seconds"))
    row = {**none, **found.row, "seconds": 1.0}
    run.write_record(replace(record, outcome=row, features=found.features))


def test_a_run_and_its_members_by_the_runs_own_rule(tmp_path: Path) -> None:
    run = stage_run(tmp_path / "run")
    reference = tmp_path / "labels.csv"
    reference.write_text("patient,stage\np.zip,pN1mi\nQ.zip,pN1\n")
    found = evaluate_camelyon17(reference, run.root, resamples=0)
    assert found.scores["kappa"].value == 1
    # u: pN0(i+) and pN1. Observed 1, by chance (1*1 + 1*1 + 4 + 0) / 2 = 3.
    assert found.members["u"]["kappa"].value == pytest.approx(1 - 1 / 3)
    assert found.against_members() == {"kappa": (1, 1)}


def test_a_run_without_members_maps_needs_no_heatmap(tmp_path: Path) -> None:
    run = stage_run(tmp_path / "run")
    text = run.settings.read_text()
    kept, left = "keep_members = true", "keep_members = false"
    run.settings.write_text(text.replace(kept, left))
    run.heatmap("p_node_0").unlink()
    reference = tmp_path / "labels.csv"
    reference.write_text("patient,stage\np.zip,pN1mi\nQ.zip,pN1\n")
    found = evaluate_camelyon17(reference, run.root, resamples=0)
    assert (found.scores["kappa"].value, found.members) == (1, {})


def test_a_patient_with_two_stages_is_refused(tmp_path: Path) -> None:
    reference = tmp_path / "labels.csv"
    reference.write_text("patient,stage\np.zip,pN1mi\nP.zip,pN1\n")
    with pytest.raises(ValueError, match="has two different"):
        evaluate_camelyon17(reference, reference)


def test_a_run_that_staged_nobody_or_not_all_is_refused(tmp_path: Path) -> None:
    run = stage_run(tmp_path / "run")
    reference = tmp_path / "labels.csv"
    reference.write_text("patient,stage\np.zip,pN1mi\nr.zip,pN1\n")
    with pytest.raises(ValueError, match=r"1 of 2 patients .* r"):
        evaluate_camelyon17(reference, run.root)
    run.patients.unlink()
    with pytest.raises(ValueError, match="no patient is staged"):
        evaluate_camelyon17(reference, run.root)


def test_the_command_prints_a_table_and_writes_json(
    labels: Path, tmp_path: Path
) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    out = tmp_path / "scores.json"
    changed = change(labels, tmp_path / "s.csv", ("patient_000.zip,pN0", "x.zip,pN0"))
    changed.write_text(changed.read_text() + "patient_000.zip,pN0(i+)\n")
    code = evaluate(console, "camelyon17", labels, changed, json_out=out, resamples=100)
    assert code == 0
    found = json.loads(out.read_text())
    kappa = found["kappa"]
    assert set(kappa) == {"value", "low", "high", "n", "unit", "units"}
    assert (kappa["n"], kappa["unit"]) == (100, "patient")
    assert found["notes"] == ["predicted but not in the reference: 1, e.g. x"]
    text = console.export_text()
    assert f"{kappa['value']:.4f}  {kappa['low']:.4f} to {kappa['high']:.4f}" in text
    with pytest.raises(ValueError, match="file or folder not found"):
        evaluate(console, "camelyon17", labels, tmp_path / "nothing")
