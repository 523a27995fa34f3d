"""A run is repeated as it was, or it is said what is not as it was."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digipath_ray.cli.app import run_app
from digipath_ray.config.toml import Tree, merge, read_toml, to_tree
from digipath_ray.heatmap.file import read_heatmap, write_heatmap
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.run.directory import RunDirectory
from digipath_ray.schema import OUTCOMES
from digipath_ray.storage.files import read_table
from digipath_ray.verify.reproduce import compare_repeated, find_changes, is_close
from tests.runs import small_config, write_cohort

COMPUTE: Tree = {"compute": {"chunk_cells": 16, "batch_size": 4}}


def make_run(folder: Path, changes: Tree) -> RunDirectory:
    """A run of two slides of one patient in this process."""
    cohort = folder.parent / "cohort"
    rows = [replace(row, patient_id="p") for row in write_cohort(cohort, 2)]
    stage: Tree = {"outcome": {"outcome": "stage"}}
    config = resolve(to_tree(small_config(merge(changes, stage))))
    run = RunDirectory(folder)
    run_eagerly(run, rows, config, load_ensemble(config))
    return run


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """No test may change it."""
    return make_run(tmp_path_factory.mktemp("repeat") / "run", COMPUTE)


@pytest.fixture
def copied(first: RunDirectory, tmp_path: Path) -> RunDirectory:
    shutil.copytree(first.root, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def changes_of(run: RunDirectory) -> list[str]:
    return find_changes(run.read_done(), resolve(read_toml(run.settings), force=True))


def amend(run: RunDirectory, slide_id: str, **made_with: object) -> None:
    record = run.read_record(slide_id)
    assert record.made_with is not None
    run.write_record(replace(record, made_with={**record.made_with, **made_with}))


@pytest.mark.parametrize("compute", [{"batch_size": 1}, {"chunk_cells": 32}])
def test_batches_and_chunks_make_no_difference(
    first: RunDirectory, tmp_path: Path, compute: Tree
) -> None:
    second = make_run(
        tmp_path / "run", {"compute": {"batch_size": 4, "chunk_cells": 16, **compute}}
    )
    found = compare_repeated(first, second)
    assert found.wrong == []
    assert found.slides == 2
    assert found.largest < 1e-5


def test_the_same_again_is_the_same_to_the_bit(
    first: RunDirectory, tmp_path: Path
) -> None:
    second = make_run(tmp_path / "run", COMPUTE)
    found = compare_repeated(first, second)
    assert (found.wrong, found.identical, found.largest) == ([], 2, 0.0)
    for slide_id in first.finished_ids():
        bytes_of = [run.heatmap(slide_id).read_bytes() for run in (first, second)]
        assert bytes_of[0] == bytes_of[1]
    for name in ("features", "patients"):
        paths = [getattr(run, name) for run in (first, second)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_nothing_has_changed(first: RunDirectory) -> None:
    assert changes_of(first) == []


def test_another_version_is_named(copied: RunDirectory) -> None:
    amend(copied, "s00", version="0.0.9")
    record = copied.read_record("s01")
    assert record.made_with is not None
    amend(copied, "s01", libraries={**record.made_with["libraries"], "numpy": "1.0"})
    now = np.__version__
    changes = changes_of(copied)
    assert f"numpy: 1.0 -> {now} (1 slide)" in changes
    assert any(line.startswith("version: 0.0.9 -> ") for line in changes)


def test_another_setting_is_named(copied: RunDirectory) -> None:
    text = copied.settings.read_text("utf-8")
    assert 'blend = "mean"' in text
    copied.settings.write_text(text.replace('"mean"', '"linear"'), "utf-8")
    (line,) = changes_of(copied)
    assert line.startswith("settings: ")
    assert line.endswith("(2 slides)")


def test_another_slide_and_one_that_is_gone_are_named(copied: RunDirectory) -> None:
    record = copied.read_record("s00")
    slide = replace(record.slide, digest="7-abc")
    copied.write_record(replace(record, slide=slide))
    record = copied.read_record("s01")
    slide = replace(record.slide, path=f"{record.slide.path}.gone")
    copied.write_record(replace(record, slide=slide))
    changes = changes_of(copied)
    assert any("s00: another slide" in line and "7 before" in line for line in changes)
    assert any("s01: " in line and "cannot be read" in line for line in changes)


def test_a_run_of_an_older_version_cannot_be_repeated(copied: RunDirectory) -> None:
    for record in copied.read_done().values():
        copied.write_record(replace(record, made_with=None))
    assert any("did not note it" in line for line in changes_of(copied))


def change_heatmap(run: RunDirectory, change: Callable[[np.ndarray], None]) -> None:
    heatmap = read_heatmap(run.heatmap("s00"))
    change(heatmap.probability)
    write_heatmap(run.heatmap("s00"), heatmap, name="s00")


def test_a_heatmap_that_differs_is_found(
    first: RunDirectory, copied: RunDirectory
) -> None:
    def change(probability: np.ndarray) -> None:
        row, col = np.argwhere(probability > 0)[0]
        probability[row, col] -= 0.02

    change_heatmap(copied, change)
    (line,) = compare_repeated(first, copied).wrong
    assert line.startswith("s00: its heatmap is up to 0.02")


def test_nan_in_one_run_alone_is_a_difference(
    first: RunDirectory, copied: RunDirectory
) -> None:
    def change(probability: np.ndarray) -> None:
        row, col = np.argwhere(probability > 0)[0]
        probability[row, col] = np.nan

    change_heatmap(copied, change)
    assert compare_repeated(first, copied).wrong


def test_a_table_that_differs_is_found(
    first: RunDirectory, copied: RunDirectory
) -> None:
    rows = read_table(copied.outcomes).to_pylist()
    rows[0]["tumor_mm2"] = rows[0]["tumor_mm2"] + 1.0
    rows[0]["seconds"] += 5.0
    copied.write_table(copied.outcomes, rows, OUTCOMES)
    (line,) = compare_repeated(first, copied).wrong
    assert line.startswith("outcomes, s00, tumor_mm2: ")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1.0, 1.005, True),
        (1.0, 1.02, False),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        ("micro", "macro", False),
        (3, 4, False),
        ([0.1, 0.2], [0.1, 0.2001], True),
        (None, 0.0, False),
    ],
)
def test_cells_are_the_same_but_for_rounding(a: object, b: object, same: bool) -> None:
    assert is_close(a, b) is same


@pytest.mark.ray
def test_the_command_repeats_a_run_on_ray(
    first: RunDirectory,
    tmp_path: Path,
    ray_here: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "again"
    how = ["--batch-size", "2", "--actors", "1", "--pools", "per-member"]
    command = ["run", "--repeat", str(first.root), "--out", str(out), *how]
    assert run_app(command) == 0
    words = capsys.readouterr().out
    assert "repeated  2 heatmaps" in words
    assert "0 differences beyond rounding" in words
    assert run_app(["verify", str(out)]) == 0


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--mpp", "0.3"], "leave out grid.mpp"),
        (["--precision", "bfloat16"], "leave out compute.precision"),
        (["slide.svs"], "leave out SLIDES"),
        (["--overwrite"], "--repeat and --overwrite cannot be given together"),
    ],
)
def test_what_would_not_repeat_a_run_is_refused(
    first: RunDirectory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    why: str,
) -> None:
    out = str(tmp_path / "again")
    assert run_app(["run", "--repeat", str(first.root), "--out", out, *more]) == 2
    assert why in capsys.readouterr().err


def test_a_run_is_not_repeated_into_itself_or_of_other_versions(
    copied: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(copied.root)
    assert run_app(["run", "--repeat", run, "--out", run]) == 2
    assert "another --out" in capsys.readouterr().err
    amend(copied, "s00", version="0.0.9")
    assert run_app(["run", "--repeat", run, "--out", str(tmp_path / "new")]) == 2
    words = capsys.readouterr().err
    assert "version: 0.0.9 -> " in words
    assert "digipath compare" in words
    assert not (tmp_path / "new").exists()
