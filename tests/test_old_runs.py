"""A run directory of an older version goes on as if this version had written it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digipath_ray.cli import run_app
from digipath_ray.config.toml import from_tree, parse_toml, read_toml
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_run
from digipath_ray.viewer.collection.collection import open_collection
from tests.old_runs import unpack_run
from tests.runs import RAY_WARNINGS, stamps

on_ray = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_here"),
    pytest.mark.filterwarnings(RAY_WARNINGS),
]


@pytest.fixture
def old(tmp_path: Path) -> tuple[Path, RunDirectory]:
    cohort, run = unpack_run(tmp_path)
    return cohort, RunDirectory(run)


def test_its_threshold_is_read(old: tuple[Path, RunDirectory]) -> None:
    _, run = old
    assert from_tree(read_toml(run.settings)).outcome.threshold == 0.45
    assert parse_toml("[tissue]\ndilate_um = 240.0") == {"tissue": {}}
    assert parse_toml("[tissue]\ndilate_um = 30") == {"tissue": {"margin_um": 30}}
    with pytest.raises(ValueError, match=r"keep \[tissue\] margin_um"):
        parse_toml("[tissue]\ndilate_um = 240.0\nmargin_um = 10.0")
    with pytest.raises(ValueError, match=r"keep the one in \[outcome\]"):
        parse_toml("[ensemble]\nthreshold = 0.4\n[outcome]\nthreshold = 0.5")


def test_its_finished_slides_are_read(old: tuple[Path, RunDirectory]) -> None:
    cohort, run = old
    finished = read_run(run)
    assert sorted(finished.records) == ["p_node_0", "p_node_1"]
    slide = finished.slide("p_node_0")
    assert slide.record.path == str(cohort / "p_node_0.tif")
    assert (slide.record.patient_id, slide.record.label) == ("p", "macro")
    assert slide.tissue.any()
    assert slide.heatmap.covered.any()


def test_it_is_viewed_and_exported(
    old: tuple[Path, RunDirectory], tmp_path: Path
) -> None:
    _, run = old
    snapshot = open_collection([run.root]).latest
    states = {e["slide_id"]: e["status"] for e in snapshot.slides.values()}
    assert states == {"p_node_0": "done", "p_node_1": "done"}
    assert run_app(["report", str(run.root)]) == 0
    assert "p_node_0" in run.report.read_text("utf-8")
    for kind in ("csv", "geojson"):
        out = tmp_path / kind
        assert run_app(["export", str(run.root), "--format", kind, "-o", str(out)]) == 0
        assert any(out.iterdir())


class TestOnRay:
    """What needs Ray's tasks."""

    pytestmark = on_ray

    def test_it_is_resumed(self, old: tuple[Path, RunDirectory]) -> None:
        cohort, run = old
        before = stamps(run)
        command = ["run", str(cohort / "cohort.csv"), "--out", str(run.root)]
        assert run_app([*command, "--config", str(cohort / "run.toml")]) == 0
        after = stamps(run)
        assert sorted(after) == ["p_node_0", "p_node_1", "p_node_2"]
        assert {i: after[i] for i in before} == before, "nothing was made twice"
        assert pq.read_table(run.outcomes).num_rows == 3
        made = {i: run.heatmap(i).stat().st_mtime_ns for i in after}
        command += ["--config", str(cohort / "run.toml"), "--threshold", "0.35"]
        assert run_app(command) == 0
        assert {i: run.heatmap(i).stat().st_mtime_ns for i in after} == made
        records = read_run(run).records.values()
        assert {(r.measured or {})["threshold"] for r in records} == {0.35}

    def test_its_outcomes_follow_another_threshold(
        self, old: tuple[Path, RunDirectory]
    ) -> None:
        _, run = old
        before = read_run(run).records["p_node_0"]
        heatmap = run.heatmap("p_node_0").read_bytes()
        assert run_app(["stage", str(run.root), "--threshold", "0.4"]) == 0
        after = read_run(run)
        assert after.config.outcome.threshold == 0.4
        found = after.slide("p_node_0").heatmap.area_mm2(0.4)
        outcome = after.records["p_node_0"].outcome
        assert outcome["tumor_mm2"] == pytest.approx(found)
        assert outcome["tumor_mm2"] > before.outcome["tumor_mm2"]
        assert run.heatmap("p_node_0").read_bytes() == heatmap
        assert run.overlay("p_node_0").exists(), "its outline follows the threshold"
        assert run_app(["burden", str(run.root), "--threshold", "0.3"]) == 0
        assert read_run(run).config.outcome.threshold == 0.3
