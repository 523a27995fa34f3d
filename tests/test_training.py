"""Whole fits through the product's own command, on a small Ray."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from digipath_ray.cli.app import run_app
from digipath_ray.config.toml import Tree, merge, read_toml, recipe_from_tree
from digipath_ray.demo.cohort import damage
from digipath_ray.distributed.fit_feed import read_batch
from digipath_ray.distributed.fit_member import STATE, save_epoch
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import read_card
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.run.directory import RunDirectory
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.fit import MemberFit
from digipath_ray.training.folds import Folds
from digipath_ray.training.reader import Columns
from digipath_ray.training.sampled import fitted_samples, own_samples
from digipath_ray.training.sampling import draw_epoch, draw_validation, epoch_length
from digipath_ray.training.stains import reference_stains
from tests.annotated import FIT, RADIUS, SIDE, write_annotated_cohort
from tests.runs import RAY_WARNINGS
from tests.transformers import VIT16

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings(RAY_WARNINGS),
]
Weights = dict[str, torch.Tensor]
TWO_WORKERS: Tree = {
    "members": [
        {  # no batch normalization: two workers cannot share it on a CPU
            "name": "plain",
            "architecture": "tests.tiny:Tiny",
            "weights": "random",
            "options": {"width": 16, "norm": False},
        }
    ],
    "fit": {"learning_rates": [2e-4], "workers": 2, "readers": 1},
    "sampling": {"epoch_patches": 48},
}
ONE_WORKER: Tree = {"members": TWO_WORKERS["members"]}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated") / "cohort"
    write_annotated_cohort(folder)
    return folder / "cohort.csv"


def write_config(out: Path, changes: Tree) -> Path:
    config = out.parent / f"{out.name}.toml"
    config.write_text(tomli_w.dumps(merge(FIT, changes)))
    return config


def train(cohort: Path, out: Path, changes: Tree | None = None) -> int:
    given = [str(cohort), "--config", str(write_config(out, changes or {}))]
    return run_app(["train", *given, "--out", str(out)])


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
    changes = {"members": members, "fit": {"temperature": True}}
    assert train(table, out, changes) == 0
    return out


def test_each_member_has_weights_card_and_curves(fitted: Path) -> None:
    for name in ("a", "b"):
        card = read_card(fitted / f"{name}.safetensors")
        assert card.name == name
        assert (card.mpp, card.patch_px) == (1.0, 64)
        samples = FitDirectory(fitted).samples
        tables = {i: pq.read_table(samples(i)) for i in card.training_slides}
        assert card.stain == reference_stains(tables, card.training_slides)
        assert card.stain.keys() == {"macenko", "reinhard"}
        assert card.training["validation"]["dice"] > 0.95
        assert 0 < card.threshold < 1
        assert card.training["kept_epoch"] < card.training["epochs"] == 2
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


def run_on(cohort: Path, weights: Path, out: Path, *more: str) -> int:
    config = out.parent / "run.toml"
    tree = {"tissue": FIT["tissue"], "grid": {"downsample": 4}}
    tree["compute"] = {"actors": 1}
    config.write_text(tomli_w.dumps(tree))
    given = [str(cohort), "--config", str(config), "--out", str(out), *more]
    return run_app(["run", *given, "--weights", str(weights)])


@pytest.fixture(scope="module")
def out_of_fold(
    fitted: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, str]:
    """A run of the fit as it stands, and what it printed."""
    out = tmp_path_factory.mktemp("out-of-fold") / "run"
    table, words = cohort.with_name("split.csv"), io.StringIO()
    with contextlib.redirect_stdout(words):
        assert run_on(table, fitted, out, "--out-of-fold") == 0
    return RunDirectory(out), words.getvalue()


def dice_of_disc(found: NDArray[np.bool_]) -> float:
    y, x = (np.indices(found.shape) + 0.5) * 4 - SIDE / 2
    disc = x**2 + y**2 < RADIUS**2
    return float(2 * (found & disc).sum() / (found.sum() + disc.sum()))


def test_a_run_takes_the_fit_as_it_stands_and_finds_the_tumor(
    fitted: Path, out_of_fold: tuple[RunDirectory, str]
) -> None:
    run = out_of_fold[0]
    heatmap = read_heatmap(run.heatmap("p3_tumor"))
    cards = [read_card(fitted / f"{name}.safetensors") for name in ("a", "b")]
    threshold = sum(card.threshold for card in cards) / 2
    assert f"threshold = {threshold}" in (run.root / "run.toml").read_text()
    assert dice_of_disc(heatmap.probability >= threshold) > 0.95


def test_out_of_fold_a_slide_is_predicted_by_members_that_have_not_seen_it(
    fitted: Path, out_of_fold: tuple[RunDirectory, str]
) -> None:
    run, words = out_of_fold
    assert "were seen" not in words
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
    changes = {"members": members, "fit": {"temperature": True}}
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
    changes = {"members": members, "fit": {"temperature": True}}
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


def fit_in_this_process(directory: FitDirectory) -> tuple[MemberFit, Weights]:
    """The directory's member fitted without Ray, and its best weights."""
    recipe = recipe_from_tree(read_toml(directory.settings))
    size, seed = recipe.fit.batch_size, recipe.fit.seed
    folds = pq.read_table(directory.folds).to_pylist()
    fold_of = {row["slide_id"]: row["fold"] for row in folds}
    split = Folds(k=recipe.fit.folds, fold_of=fold_of).split_of(0)
    samples = fitted_samples(directory, split.fit)
    validation = draw_validation(
        own_samples(directory, split.validation),
        limit=recipe.sampling.validation_patches,
        batch_size=size,
        seed=seed,
    )

    def read(draws: pa.Table) -> Iterator[Columns]:
        given = {"root": str(directory.root), "digest": directory.digest()}
        for start in range(0, len(draws), size):
            yield read_batch(draws.slice(start, size), **given)

    torch.manual_seed(seed)
    fit, best = MemberFit(recipe.members[0], recipe, torch.device("cpu")), {}
    while not fit.finished:
        draws = draw_epoch(
            samples,
            epoch=fit.epoch,
            patches=epoch_length(samples, recipe.sampling, size),
            batch_size=size,
            jitter_px=recipe.sampling.jitter_px,
            seed=seed,
        )
        row = fit.fit_epoch(read(draws))
        row |= fit.validate(read(validation))[0]
        if fit.end_epoch(row):
            best = {k: v.clone() for k, v in fit.network.state_dict().items()}
    return fit, best


def test_two_workers_fit_as_one_process(cohort: Path, tmp_path: Path, ray_here) -> None:
    directory = FitDirectory(tmp_path / "fit")
    assert train(cohort, directory.root, TWO_WORKERS) == 0
    one, wanted = fit_in_this_process(directory)
    found = load_file(directory.weights("plain"))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        # Adam makes a whole step (2e-4) of a gradient next to 0, whatever its sign.
        apart = (found[key] - value).abs()
        assert apart.mean() < 2e-5, key
        assert apart.max() < 2e-3, key
    two = directory.read_history("plain")
    for name in ("train_loss", "validation_loss"):
        wanted_losses = pytest.approx([row[name] for row in one.history], rel=1e-3)
        assert [row[name] for row in two] == wanted_losses, name
    assert [row["patches"] for row in two] == [48, 48]


def test_a_slide_that_cannot_be_read_is_a_row_and_the_others_are_fitted(
    cohort: Path, tmp_path: Path, ray_here, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, directory = tmp_path / "cohort", FitDirectory(tmp_path / "fit")
    shutil.copytree(cohort.parent, folder)
    damage(folder / "p0_negative.tif")
    (folder / "p1_negative.tif").unlink()
    assert train(folder / "cohort.csv", directory.root, ONE_WORKER) == 1
    words = capsys.readouterr().out
    rows = pq.read_table(directory.failures).to_pylist()
    assert {r["slide_id"] for r in rows} == {"p0_negative", "p1_negative"}
    assert (directory.root / "plain.json").exists()
    assert "failed p1_negative" in words
    # The one of damaged pixels has a readable thumbnail: patches were drawn on it.
    assert "on 7 slides of 8" in words


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


@dataclass(frozen=True)
class KilledFit:
    """A fit of a frozen transformer, whose worker and driver were killed once each.

    Its histories are those when the driver was killed, and at the end.
    """

    out: Path
    encoder: Weights
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


@pytest.fixture(scope="module")
def killed(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory, ray_here
) -> KilledFit:
    out = tmp_path_factory.mktemp("killed") / "fit"
    encoder = build_network(VIT16).get_submodule("encoder.model").state_dict()
    save_file(encoder, out.with_name("vit.safetensors"))
    member = {"name": "a", "architecture": "DPT", "encoder": VIT16.encoder}
    member["options"] = {**VIT16.options, "decoder_fusion_channels": 32}
    member["encoder_weights"] = str(out.with_name("vit.safetensors"))
    fit = {"epochs": 4, "restarts": 1, "freeze_encoder": True}
    changes: Tree = {"members": [member], "fit": fit}
    command = [str(Path(sys.executable).with_name("digipath")), "train", str(cohort)]
    command += ["--config", str(write_config(out, changes)), "--out", str(out)]
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
    assert train(cohort, out, changes) == 0
    return KilledFit(out, encoder, before, FitDirectory(out).read_history("a"))


@pytest.mark.timeout(1200)  # two starts and a restart, each of nine processes
def test_a_killed_worker_and_a_killed_driver_cost_an_epoch_at_most(
    killed: KilledFit,
) -> None:
    assert len(killed.after) == 4
    kept = len(killed.before) - 1  # what came after the last checkpoint is done again
    assert killed.after[:kept] == killed.before[:kept]
    assert [row["epoch"] for row in killed.after] == [*range(4)]


@pytest.mark.timeout(1200)
def test_a_frozen_transformer_stays_as_its_file_and_finds_the_tumor(
    killed: KilledFit, cohort: Path, tmp_path: Path
) -> None:
    fitted = load_file(killed.out / "a.safetensors")
    for name, tensor in killed.encoder.items():
        assert torch.equal(fitted[f"encoder.model.{name}"], tensor), name
    run = RunDirectory(tmp_path / "run")
    assert run_on(cohort, killed.out, run.root) == 0
    probability = read_heatmap(run.heatmap("p3_tumor")).probability
    threshold = read_card(killed.out / "a.safetensors").threshold
    assert dice_of_disc(probability >= threshold) > 0.85


@contextlib.contextmanager
def disk_for_files_of(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    directory, recipe = FitDirectory(tmp_path / "fit"), recipe_from_tree(FIT)
    directory.create()
    fit = MemberFit(recipe.members[0], recipe, torch.device("cpu"))
    first = save_epoch(directory, fit, best=True)
    state = Path(first.path) / STATE
    before = {p: p.read_bytes() for p in (state, directory.best("a"))}
    fit.history.append({"epoch": 0})
    with disk_for_files_of(state.stat().st_size // 2):
        for best in (True, False):
            with pytest.raises(OSError, match="cannot write a checkpoint") as caught:
                save_epoch(directory, fit, best=best)
            assert "the disk is full" in str(caught.value)
    assert {p: p.read_bytes() for p in before} == before
    assert [*directory.checkpoints.rglob(STATE)] == [state]


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
