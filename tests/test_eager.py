"""A run made in one process, held to what segment_slide makes of its slides."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from digipath_ray.cohort.manifest import read_manifest
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.pipeline.segment import segment_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import SlideError
from tests.runs import heatmaps, small_config, write_cohort


def test_a_run_in_one_process_leaves_what_a_run_leaves(tmp_path: Path) -> None:
    rows = write_cohort(tmp_path / "cohort", 2)
    run, config = RunDirectory(tmp_path / "run"), small_config()
    predict = load_ensemble(config)
    outcomes = run_eagerly(run, rows, config, predict)
    assert [o["slide_id"] for o in outcomes] == ["s00", "s01"]
    for slide_id, heatmap in heatmaps(run).items():
        alone = segment_slide(tmp_path / f"cohort/{slide_id}.tif", config, predict)
        np.testing.assert_array_equal(heatmap.data, alone.data)
        assert run.overlay(slide_id).exists()
    assert pq.read_table(run.slides)["slide_id"].to_pylist() == ["s00", "s01"]
    told = pq.read_table(run.outcomes).to_pylist()
    for row, outcome in zip(told, outcomes, strict=True):
        assert {name: row[name] for name in outcome} == outcome
    assert run.read_failures() == []
    assert [row for row, _ in read_manifest(run.manifest)] == rows
    assert {record.precision for record in run.read_done().values()} == {"float32"}


def test_a_slide_that_cannot_be_used_ends_a_run_in_one_process(tmp_path: Path) -> None:
    rows = write_cohort(tmp_path / "cohort", 1)
    Path(rows[0].path).unlink()
    config = small_config()
    with pytest.raises(SlideError, match="file not found"):
        run_eagerly(RunDirectory(tmp_path / "run"), rows, config, load_ensemble(config))
