"""What the manifest of now says of slides that are finished, and whom it leaves out."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digipath_ray.cli import run_app
from digipath_ray.run.directory import RunDirectory
from tests.old_runs import unpack_run
from tests.runs import stamps

COLUMNS = "slide_id,path,patient_id,node,label"


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, RunDirectory]:
    """A run whose two slides, both of patient p, are finished."""
    cohort, run = unpack_run(tmp_path)
    return cohort, RunDirectory(run)


def write_manifest(cohort: Path, *rows: str, columns: str = COLUMNS) -> str:
    path = cohort / "corrected.csv"
    path.write_text("\n".join([columns, *rows]))
    return str(path)


def heatmaps_of(run: RunDirectory) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (run.root / "heatmaps").iterdir()}


def patients_of(run: RunDirectory) -> dict[str, int]:
    """Finished slides of each patient."""
    rows = pq.read_table(run.patients).to_pylist()
    return {row["patient_id"]: row["nodes"] for row in rows}


def test_a_corrected_patient_counts_in_every_table(finished, capsys) -> None:
    cohort, run = finished
    before = heatmaps_of(run)
    corrected = write_manifest(
        cohort,
        "p_node_0,p_node_0.tif,p,1,macro",
        "p_node_1,p_node_1.tif,q,2,negative",
    )
    assert run_app(["stage", str(run.root), "--manifest", corrected]) == 0
    assert "p_node_1 (patient_id p -> q" in capsys.readouterr().out
    assert patients_of(run) == {"p": 1, "q": 1}
    outcomes = pq.read_table(run.outcomes).to_pylist()
    assert {r["slide_id"]: r["patient_id"] for r in outcomes}["p_node_1"] == "q"
    slides = {r["slide_id"]: r for r in pq.read_table(run.slides).to_pylist()}
    assert slides["p_node_1"]["patient_id"] == "q"
    assert "q" in run.manifest.read_text()
    assert "Patient q" in run.report.read_text() or ">q<" in run.report.read_text()
    assert heatmaps_of(run) == before, "nothing is predicted again"
    kept = stamps(run)
    assert run_app(["stage", str(run.root), "--manifest", corrected]) == 0
    assert stamps(run) == kept, "what is described alike is not written again"


def test_a_run_started_again_follows_the_corrected_manifest(finished, capsys) -> None:
    cohort, run = finished
    before = heatmaps_of(run)
    corrected = write_manifest(
        cohort,
        "p_node_0,p_node_0.tif,q,1,micro",
        "p_node_1,p_node_1.tif,q,2,negative",
    )
    given = ["--out", str(run.root), "--config", str(cohort / "run.toml"), "--drop"]
    assert run_app(["run", corrected, *given]) == 0
    said = capsys.readouterr().out
    assert "patient_id p -> q" in said
    assert "label macro -> micro" in said
    assert patients_of(run) == {"q": 2}
    assert run.read_record("p_node_0").slide.label == "micro"
    assert heatmaps_of(run) == before


def test_a_column_that_is_left_out_keeps_what_an_earlier_start_said(finished) -> None:
    cohort, run = finished
    paths = write_manifest(
        cohort,
        "p_node_0,p_node_0.tif",
        "p_node_1,p_node_1.tif",
        columns="slide_id,path",
    )
    assert run_app(["stage", str(run.root), "--manifest", paths]) == 0
    assert patients_of(run) == {"p": 2}
    emptied = write_manifest(
        cohort,
        "p_node_0,p_node_0.tif,p,,",
        "p_node_1,p_node_1.tif,,,",
    )
    assert run_app(["stage", str(run.root), "--manifest", emptied]) == 0
    assert patients_of(run) == {"p": 1}, "an empty cell of a column is a word, too"


def test_a_slide_that_the_cohort_leaves_out_is_named_and_dropped(
    finished, capsys
) -> None:
    cohort, run = finished
    only = write_manifest(cohort, "p_node_1,p_node_1.tif,p,1,negative")
    both = write_manifest(
        cohort,
        "p_node_0,p_node_0.tif,p,2,macro",
        "p_node_1,p_node_1.tif,p,1,negative",
    )
    Path(only).write_text(f"{COLUMNS}\np_node_1,p_node_1.tif,p,1,negative")
    assert run_app(["stage", str(run.root), "--manifest", only]) == 0
    said = capsys.readouterr().out
    assert "slide of earlier starts that this cohort does not name" in said
    assert "--drop" in said
    assert "p_node_0" in said
    assert patients_of(run) == {"p": 2}

    before = heatmaps_of(run)
    assert run_app(["stage", str(run.root), "--manifest", only, "--drop"]) == 0
    assert "taken out, their heatmaps stay" in capsys.readouterr().out
    assert patients_of(run) == {"p": 1}
    for table in (run.outcomes, run.slides):
        assert pq.read_table(table)["slide_id"].to_pylist() == ["p_node_1"]
    assert "p_node_0" not in run.manifest.read_text()
    assert "p_node_0" not in run.report.read_text()
    assert heatmaps_of(run) == before

    Path(both).write_text(
        f"{COLUMNS}\np_node_0,p_node_0.tif,p,2,macro\np_node_1,p_node_1.tif,p,1,negative"
    )
    assert run_app(["stage", str(run.root), "--manifest", both]) == 0
    assert patients_of(run) == {"p": 2}, "named again, it is finished as it was"
    assert heatmaps_of(run) == before


def test_to_drop_needs_to_know_who_stays(finished, capsys) -> None:
    _, run = finished
    assert run_app(["stage", str(run.root), "--drop"]) == 2
    assert "give --manifest with the slides that stay" in capsys.readouterr().err
