"""Whole fits through the product's own command, on a small Ray."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import tomli_w
from safetensors.torch import load_file

from digipath_ray.cli.app import run_app
from digipath_ray.config.toml import Tree, merge
from digipath_ray.demo.cohort import damage
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.card import read_card
from digipath_ray.networks.resolve import resolve_recipe
from digipath_ray.run.directory import RunDirectory
from digipath_ray.training.directory import FitDirectory
from tests.annotated import FIT, RADIUS, SIDE, write_annotated_cohort
from tests.runs import RAY_WARNINGS

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings(RAY_WARNINGS),
]
PLAIN = {  # no batch normalization: two workers cannot share it on a CPU
    "name": "plain",
    "architecture": "tests.tiny:Tiny",
    "weights": "random",
    "options": {"width": 16, "norm": False},
}
LARGE = {  # with Adam's two moments, a checkpoint of 120 MB
    "name": "a",
    "architecture": "tests.tiny:Tiny",
    "weights": "random",
    "options": {"width": 16, "spare": 10_000_000},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated") / "cohort"
    write_annotated_cohort(folder)
    return folder / "cohort.csv"


def train(cohort: Path, out: Path, changes: Tree | None = None, *more: str) -> int:
    config = out.parent / f"{out.name}.toml"
    config.write_text(tomli_w.dumps(merge(FIT, changes or {})))
    given = [str(cohort), "--config", str(config), "--out", str(out), *more]
    return run_app(["train", *given])


@pytest.fixture(scope="module")
def fitted(cohort: Path, tmp_path_factory: pytest.TempPathFactory, ray_here) -> Path:
    """Two members, each blind for its own fold, and a patient that none has seen."""
    out = tmp_path_factory.mktemp("fitted") / "fit"
    lines = cohort.read_text().splitlines()
    split = [lines[0] + ",split"]
    split += [line + (",test" if ",p3" in line else ",train") for line in lines[1:]]
    table = cohort.with_name("split.csv")
    table.write_text("\n".join(split))
    members = [{**FIT["members"][0], "name": name} for name in ("a", "b")]
    changes = {"members": members, "fit": {"epochs": 3, "temperature": True}}
    assert train(table, out, changes) == 0
    return out


def test_each_member_has_weights_card_and_curves(fitted: Path) -> None:
    for name in ("a", "b"):
        card = read_card(fitted / f"{name}.safetensors")
        assert card.name == name
        assert (card.mpp, card.patch_px) == (1.0, 64)
        assert card.training["validation"]["dice"] > 0.95
        assert 0 < card.threshold < 1
        assert card.training["kept_epoch"] < card.training["epochs"] == 3
        assert card.training["start"] == "random"
        assert card.training["encoder_frozen_epochs"] == 0
        rows = (fitted / "curves" / f"{name}.csv").read_text().splitlines()
        assert len(rows) == 1 + card.training["epochs"]
        assert (fitted / "curves" / f"{name}.png").stat().st_size > 10_000
        assert (fitted / "curves" / f"{name}_reliability.png").exists()


def test_no_member_sees_its_validation_fold_or_a_test_patient(fitted: Path) -> None:
    cards = [read_card(fitted / f"{name}.safetensors") for name in ("a", "b")]
    seen = [set(card.training_patients) for card in cards]
    held_out = [
        {i.split("_")[0] for i in card.training["validation_slides"]} for card in cards
    ]
    for s, h in zip(seen, held_out, strict=True):
        assert s | h == {"p0", "p1", "p2"}
        assert not s & h
    assert held_out[0] != held_out[1]
    folds = {
        r["slide_id"]: r["fold"]
        for r in pq.read_table(fitted / "folds.parquet").to_pylist()
    }
    assert folds["p3_tumor"] is None
    scores = json.loads((fitted / "scores.json").read_text())
    assert scores["test"]["patients"] == ["p3"]
    assert scores["test"]["ensemble"]["dice"] > 0.95
    assert {"a", "b", "ensemble"} < scores["test"].keys()


def test_a_run_takes_the_fit_as_it_stands_and_finds_the_tumor(
    fitted: Path, cohort: Path, tmp_path: Path
) -> None:
    slide = cohort.parent / "p3_tumor.tif"
    assert run_on(slide, fitted, tmp_path / "run") == 0
    heatmap = read_heatmap(tmp_path / "run" / "heatmaps" / "p3_tumor.ome.tiff")
    y, x = (np.indices(heatmap.weight.shape) + 0.5) * 4 - SIDE / 2
    disc = x**2 + y**2 < RADIUS**2
    settings = (tmp_path / "run" / "run.toml").read_text()
    cards = [read_card(fitted / f"{name}.safetensors") for name in ("a", "b")]
    threshold = sum(card.threshold for card in cards) / 2
    assert f"threshold = {threshold}" in settings
    found = heatmap.probability >= threshold
    dice = 2 * (found & disc).sum() / (found.sum() + disc.sum())
    assert dice > 0.95


def run_on(cohort: Path, weights: Path, out: Path, *more: str) -> int:
    config = out.parent / "run.toml"
    tree = {"tissue": FIT["tissue"], "grid": {"downsample": 4}}
    tree["compute"] = {"actors": 1}
    config.write_text(tomli_w.dumps(tree))
    given = [str(cohort), "--config", str(config), "--out", str(out), *more]
    return run_app(["run", *given, "--weights", str(weights)])


def test_out_of_fold_a_slide_is_predicted_by_members_that_have_not_seen_it(
    fitted: Path, cohort: Path, tmp_path: Path, capsys
) -> None:
    table = cohort.with_name("split.csv")
    assert run_on(table, fitted, tmp_path / "run", "--out-of-fold") == 0
    assert "were seen" not in capsys.readouterr().out
    run = RunDirectory(tmp_path / "run")
    cards = {n: read_card(fitted / f"{n}.safetensors") for n in ("a", "b")}
    for row in pq.read_table(run.outcomes).to_pylist():
        patient = row["patient_id"]
        unseen = [n for n, c in cards.items() if patient not in c.training_patients]
        assert row["members"] == unseen
        assert row["seen_by"] == [n for n in cards if n not in unseen]
        heatmap = read_heatmap(run.heatmap(row["slide_id"]))
        assert (heatmap.epistemic is None) == (len(unseen) == 1)
    members = {
        r["patient_id"]: r["members"] for r in pq.read_table(run.outcomes).to_pylist()
    }
    assert members["p3"] == ["a", "b"]
    assert sum(len(m) for p, m in members.items() if p != "p3") == 3


def test_a_run_on_what_members_have_seen_says_so(
    fitted: Path, cohort: Path, tmp_path: Path, capsys
) -> None:
    slide = cohort.with_name("one.csv")
    lines = cohort.read_text().splitlines()
    card = read_card(fitted / "a.safetensors")
    seen = [x for x in lines if x.startswith(card.training_slides[0])]
    slide.write_text("\n".join([lines[0], *seen]))
    weights = fitted / "a.safetensors"
    assert run_on(slide, weights, tmp_path / "run") == 0
    assert "1 of 1 slides" in capsys.readouterr().out
    assert run_on(slide, weights, tmp_path / "oof", "--out-of-fold") == 1
    failures = RunDirectory(tmp_path / "oof").read_failures()
    assert failures[0].error == "every member was fitted on it or its patient"


def test_a_finished_fit_started_again_does_nothing(fitted: Path, cohort: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in fitted.glob("*.safetensors")}
    members = [{**FIT["members"][0], "name": name} for name in ("a", "b")]
    changes = {"members": members, "fit": {"epochs": 3, "temperature": True}}
    assert train(cohort.with_name("split.csv"), fitted, changes) == 0
    assert {p: p.stat().st_mtime_ns for p in fitted.glob("*.safetensors")} == before


def test_a_fit_whose_cohort_moved_goes_on_and_a_corrected_one_is_refused(
    fitted: Path, cohort: Path, tmp_path: Path, capsys
) -> None:
    fit, moved = tmp_path / "fit", tmp_path / "cohort"
    shutil.copytree(fitted, fit)
    shutil.copytree(cohort.parent, moved)
    before = {p: p.stat().st_mtime_ns for p in fit.glob("*.safetensors")}
    members = [{**FIT["members"][0], "name": name} for name in ("a", "b")]
    changes = {"members": members, "fit": {"epochs": 3, "temperature": True}}
    assert train(moved / "split.csv", fit, changes) == 0
    said = capsys.readouterr().out
    assert "12 files under another path, of the same content" in said
    assert "(2 already were)" in said
    assert {p: p.stat().st_mtime_ns for p in fit.glob("*.safetensors")} == before
    disc = moved / "disc.geojson"
    disc.write_text(disc.read_text().replace("Tumor", "tumor"))
    assert train(moved / "split.csv", fit, changes) == 2
    assert "slide p0_tumor: other content of annotation" in capsys.readouterr().err


def test_another_recipe_or_cohort_is_refused(
    fitted: Path, cohort: Path, capsys
) -> None:
    assert train(cohort, fitted, {"fit": {"seed": 3}}) == 2
    told = capsys.readouterr().err
    assert "fit.seed: 0 -> 3" in told
    assert "slide p3_tumor" in told


def test_two_workers_fit_as_one(cohort: Path, tmp_path: Path, ray_here) -> None:
    changes = {
        "members": [PLAIN],
        "fit": {"learning_rates": [2e-4]},
        "sampling": {"epoch_patches": 48},
    }
    assert train(cohort, tmp_path / "one", changes) == 0
    two = merge(changes, {"fit": {"workers": 2, "readers": 1}})
    assert train(cohort, tmp_path / "two", two) == 0
    one, two = (
        load_file(tmp_path / name / "plain.safetensors") for name in ("one", "two")
    )
    for key, value in one.items():
        # Adam makes a whole step (2e-4) of a gradient next to 0, whatever its sign.
        apart = (two[key] - value).abs()
        assert apart.mean() < 1e-5, key
        assert apart.max() < 2e-3, key
    losses = [
        [row["train_loss"] for row in FitDirectory(tmp_path / n).read_history("plain")]
        for n in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


ON_A_FULL_DISK = """
import resource, sys, ray
# No file may grow beyond 100 MB: a checkpoint of LARGE has 120, Ray's store 80.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000_000, 100_000_000))
ray.init(address="local", num_cpus=4, object_store_memory=80 << 20,
         include_dashboard=False, log_to_driver=False)
from digipath_ray.cli.app import run_app
sys.exit(run_app(sys.argv[1:]))
"""


def find_workers(name: str, *, root: int) -> Iterator[psutil.Process]:
    for process in psutil.Process(root).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"ray::{name}" in " ".join(process.cmdline()):
                yield process


def find_worker(name: str, *, root: int, seconds: float = 90) -> psutil.Process:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in find_workers(name, root=root):
            return process
        time.sleep(0.1)
    raise AssertionError(f"no process {name}")


def wait_for_epoch(
    out: Path, member: str, epochs: int, *, seconds: float = 600
) -> None:
    directory, end = FitDirectory(out), time.monotonic() + seconds
    while time.monotonic() < end:
        done = directory.history(member).exists()
        if done and len(directory.read_history(member)) >= epochs:
            return
        time.sleep(0.05)
    raise AssertionError(f"{member} never came to epoch {epochs}")


@pytest.mark.timeout(2400)  # three starts, each of nine processes
def test_a_killed_worker_and_a_killed_driver_cost_an_epoch_at_most(
    cohort: Path, tmp_path: Path, capfd
) -> None:
    out = tmp_path / "fit"
    config = tmp_path / "fit.toml"
    config.write_text(
        tomli_w.dumps(
            merge(FIT, {"fit": {"epochs": 4, "restarts": 1}, "members": [LARGE]})
        )
    )
    command = [str(Path(sys.executable).with_name("digipath")), "train", str(cohort)]
    command += ["--config", str(config), "--out", str(out)]
    first = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for_epoch(out, "a", 1)
        find_worker("RayTrainWorker", root=first.pid).send_signal(signal.SIGKILL)
        wait_for_epoch(out, "a", 2)
    finally:
        for process in psutil.Process(first.pid).children(recursive=True):
            process.kill()
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = FitDirectory(out).read_history("a")
    assert not (out / "a.json").exists()
    full = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, *command[1:]],
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert full.returncode == 3, full.stderr
    assert "cannot write a checkpoint" in full.stderr
    assert "the disk is full" in full.stderr
    subprocess.run(command, check=True, timeout=240)
    after = FitDirectory(out).read_history("a")
    assert len(after) == 4
    kept = len(before) - 1  # what came after the last checkpoint is fitted again
    assert after[:kept] == before[:kept]
    assert [row["epoch"] for row in after] == [*range(4)]


def test_a_fit_that_diverges_stops_and_leaves_the_batch(
    cohort: Path, tmp_path: Path, ray_here, capsys
) -> None:
    changes = {"fit": {"learning_rates": [1e30]}}
    assert train(cohort, tmp_path / "fit", changes) == 3
    assert "the loss is" in capsys.readouterr().err
    batch = pq.read_table(tmp_path / "fit" / "curves" / "a_stopped.parquet")
    assert len(batch) == 8
    assert not (tmp_path / "fit" / "a.json").exists()
    wait_until_controllers_end()


def wait_until_controllers_end(seconds: float = 20) -> None:
    """Ray Train has a process for each fit, of a gigabyte: it ends with the fit."""
    end = time.monotonic() + seconds
    while list(find_workers("TrainController", root=os.getpid())):
        assert time.monotonic() < end, "a controller is left"
        time.sleep(0.2)


def test_a_slide_that_cannot_be_read_is_a_row_and_the_others_are_fitted(
    cohort: Path, tmp_path: Path, ray_here, capsys
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort.parent, folder)
    damage(folder / "p0_negative.tif")
    (folder / "p1_negative.tif").unlink()
    assert train(folder / "cohort.csv", tmp_path / "fit") == 1
    rows = pq.read_table(tmp_path / "fit" / "failures.parquet").to_pylist()
    assert {r["slide_id"] for r in rows} == {"p0_negative", "p1_negative"}
    assert (tmp_path / "fit" / "a.json").exists()
    out = capsys.readouterr().out
    assert "failed p1_negative" in out
    # The one of damaged pixels has a readable thumbnail: patches were drawn on it.
    assert "on 7 slides of 8" in out


def test_a_cohort_without_tumor_is_told_what_to_give(
    cohort: Path, tmp_path: Path, ray_here, capsys
) -> None:
    table = cohort.with_name("negative.csv")
    lines = cohort.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(x for x in lines if "negative" in x)]))
    assert train(table, tmp_path / "fit") == 2
    told = capsys.readouterr().err
    assert "none of" in told
    assert "column annotation" in told


def test_the_default_recipe_is_the_papers() -> None:
    recipe = resolve_recipe({}, init="random")
    assert recipe.sampling.fit_patch_px == 256
    assert recipe.fit.batch_size == 16
    assert recipe.sampling.jitter_px == 128
    weights = recipe.loss
    assert (weights.cross_entropy, weights.dice_other, weights.dice_tumor) == (
        0.5,
        0.25,
        0.25,
    )
