"""Fits in a bucket: begun, stopped, taken up and run, with nothing on a disk."""

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import tomli_w
from safetensors.torch import save_file

from digipath_ray.cli import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import Tree, merge
from digipath_ray.distributed import fit as training
from digipath_ray.distributed.fit import FitListener, fit_cohort
from digipath_ray.mining.examples import read_hard, write_hard
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import read_card, write_card
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.run.failure import RunError, RunStopped
from digipath_ray.schema import SAMPLES
from digipath_ray.storage import bucket
from digipath_ray.storage.files import (
    file_digest,
    is_url,
    place,
    read_bytes,
    read_table,
    read_text,
)
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.start import start_network
from tests.annotated import FIT, write_annotated_cohort
from tests.buckets import Bucket, Fault, send
from tests.members import LIGHT, write_member
from tests.runs import RAY_WARNINGS

Test = Callable[..., None]


def with_ray(test: Test) -> Test:
    marked = pytest.mark.slow(pytest.mark.filterwarnings(RAY_WARNINGS)(test))
    return pytest.mark.ray(pytest.mark.usefixtures("ray_here")(marked))


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "digipath_ray.networks.weight_files.CACHE", tmp_path / "weights"
    )


@pytest.fixture
def cohort_url(tmp_path: Path, bucket_url: str) -> str:
    """An annotated cohort in the bucket; the same lies in ``cohort`` on the disk."""
    write_annotated_cohort(tmp_path / "cohort", patients=2)
    send(tmp_path / "cohort", f"{bucket_url}/cohort")
    return f"{bucket_url}/cohort/cohort.csv"


MEMBER = {  # a checkpoint of 14 MB: more than one part of an upload
    "name": "a",
    "architecture": "tests.tiny:Tiny",
    "weights": "random",
    "options": {"width": 16, "spare": 1_150_000},
}


def recipe_of(changes: Tree | None = None, *, init: str | None = None) -> Recipe:
    tree = merge({**FIT, "members": [MEMBER]}, changes or {})
    return resolve_recipe(tree, init=init)


def epochs_of(directory: FitDirectory) -> int:
    there = directory.history("a").exists()
    return len(directory.read_history("a")) if there else 0


@with_ray
def test_a_fit_stopped_and_taken_up_in_a_bucket_is_the_fit_on_a_disk(
    bucket_server: Bucket, bucket_url, cohort_url, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training, "BUCKET_POLL_S", 0.1)
    rows, there = read_cohort([cohort_url]), FitDirectory(f"{bucket_url}/fit")

    def deny(*_: object) -> None:
        for method in ("PUT", "POST"):
            fault = Fault(method=method, part="/fit.pt", kind="denied", times=99)
            bucket_server.faults.append(fault)

    long = recipe_of({"fit": {"epochs": 99, "restarts": 0}})
    with pytest.raises(RunStopped, match=r"cannot write a checkpoint.*denied"):
        fit_cohort(there, rows, long, listener=FitListener(epoch_ended=deny))
    done = epochs_of(there)
    assert done >= 1
    assert not there.weights("a").exists()

    bucket_server.faults.clear()
    bucket_server.requests.clear()
    recipe = recipe_of({"fit": {"epochs": done + 1}})
    resumed: list[int] = []
    listener = FitListener(resumed=lambda _, epochs: resumed.append(epochs))
    assert fit_cohort(there, rows, recipe, listener=listener).failures == []
    assert resumed == [done]
    assert bucket_server.asked("GET", "/fit.pt") >= 1, "taken up from the bucket"
    assert epochs_of(there) == done + 1
    kept = {p.parent.name for p in there.checkpoints.rglob("fit.pt")}
    assert len(kept) == min(2, done + 1), "the others are removed"
    assert not (there.root / "lease.json").exists()

    here = FitDirectory(tmp_path / "fit")
    fit_cohort(here, read_cohort([tmp_path / "cohort" / "cohort.csv"]), recipe)
    assert_same_fit(there, here)

    out = tmp_path / "run"
    (tmp_path / "run.toml").write_text(tomli_w.dumps({"tissue": FIT["tissue"]}))
    given = ["--config", str(tmp_path / "run.toml"), "--weights", str(there.root)]
    slide = cohort_url.replace("cohort.csv", "p0_tumor.tif")
    assert run_app(["run", slide, *given, "--out", str(out)]) == 0
    assert (out / "heatmaps" / "p0_tumor.ome.tiff").exists()


def assert_same_fit(there: FitDirectory, here: FitDirectory) -> None:
    """Files, tables, history, weights and card are the same."""
    listed = bucket.list_objects(there.root)
    names = {found.url.removeprefix(f"{there.root}/") for found in listed}
    on_disk = [p.relative_to(here.root) for p in here.root.rglob("*") if p.is_file()]
    here_names = {p.as_posix() for p in on_disk} - {".lock"}
    shown = [
        {n for n in some if "checkpoints/" not in n} for some in (names, here_names)
    ]
    assert shown[0] == shown[1]
    for path_of in (FitDirectory.samples, FitDirectory.added):
        one, two = (path_of(fit, "p0_tumor") for fit in (there, here))
        assert read_table(one).equals(read_table(two))
    timed = {"seconds", "samples_per_s", "data_wait"}
    one, two = (
        [{k: v for k, v in row.items() if k not in timed} for row in history]
        for history in (there.read_history("a"), here.read_history("a"))
    )
    assert one == two
    assert read_bytes(there.weights("a")) == read_bytes(here.weights("a"))
    mine, theirs = (read_card(fit.weights("a")) for fit in (there, here))
    fitting = mine.training["fit"] | {"restarts": theirs.training["fit"]["restarts"]}
    assert mine.training | {"fit": fitting} == theirs.training
    assert mine.digest == theirs.digest == file_digest(there.weights("a"))
    assert mine.threshold == theirs.threshold
    assert read_text(there.scores) == read_text(here.scores)


@with_ray
def test_a_fit_that_was_overtaken_stops(bucket_url, cohort_url, monkeypatch):
    monkeypatch.setattr("digipath_ray.storage.lease.RENEW_S", 0.1)
    monkeypatch.setattr(training, "BUCKET_POLL_S", 0.1)
    fit = FitDirectory(f"{bucket_url}/fit")

    def overtake(*_: object) -> None:
        bucket.put(fit.root / "lease.json", b'{"token": "other"}')
        time.sleep(1.0)

    listener = FitListener(folded=overtake)
    with pytest.raises(RunStopped, match="was taken over by another fit"):
        fit_cohort(fit, read_cohort([cohort_url]), recipe_of(), listener=listener)
    assert not fit.weights("a").exists()
    assert b"other" in read_bytes(fit.root / "lease.json"), "not ours to remove"


@with_ray
def test_a_plan_leaves_nothing_in_the_bucket(cohort_url, bucket_url, tmp_path, capsys):
    tree = {name: FIT[name] for name in ("grid", "tissue")}
    (tmp_path / "run.toml").write_text(tomli_w.dumps(tree))
    given = [cohort_url, "--config", str(tmp_path / "run.toml")]
    assert run_app(["plan", *given, "--out", f"{bucket_url}/run"]) == 0
    assert "stored in a bucket" in capsys.readouterr().out
    assert list(bucket.list_objects(f"{bucket_url}/run")) == []


def test_a_fit_is_accepted_refused_and_cleared_as_on_a_disk(cohort_url, bucket_url):
    rows, fit = read_cohort([cohort_url]), FitDirectory(f"{bucket_url}/fit")
    fit.create()
    fit.accept(recipe_of(), rows, overwrite=False)
    assert fit.read_cohort() == rows
    other = recipe_of({"fit": {"seed": 3}})
    with pytest.raises(RunError, match=r"fit.seed: 0 -> 3(.|\n)*slide p1_negative"):
        fit.accept(other, rows[:-1], overwrite=False)
    for path in (fit.weights("a"), fit.best("a"), fit.added("p0_tumor")):
        bucket.put(path, b"x")
    bucket.put(fit.checkpoints / "a" / "checkpoint_1" / "fit.pt", b"x")
    fit.accept(other, rows, overwrite=True)
    left = {found.url for found in bucket.list_objects(fit.root)}
    names = ("recipe.toml", "cohort.json", "added.json")
    assert left == {f"{fit.root}/{name}" for name in names}


def test_members_start_from_weights_in_a_bucket(bucket_url, tmp_path):
    (tmp_path / "fit").mkdir()
    write_member(tmp_path / "fit", LIGHT)
    send(tmp_path / "fit", f"{bucket_url}/fit")
    url = f"{bucket_url}/fit/light.safetensors"
    rows = {key: getattr(LIGHT, key) for key in ("architecture", "encoder", "options")}
    tree = {"members": [{"name": "light", **rows}]}
    for init in (f"{bucket_url}/fit", f"{bucket_url}/fit/", url):
        (member,) = recipe_of(tree, init=init).members
        assert member.weights == url
    start = start_network(member)
    assert start.origin == "light.safetensors"
    for name, tensor in build_network(LIGHT).state_dict().items():
        assert (start.network.state_dict()[name] == tensor).all()
    with pytest.raises(ValueError, match=r"holds no a.safetensors for member a"):
        recipe_of(init=f"{bucket_url}/fit")
    with pytest.raises(ValueError, match="folder not found"):
        recipe_of(init=f"{bucket_url}/none")


def test_an_encoder_in_a_bucket_is_fetched(bucket_url, tmp_path):
    encoder = build_network(LIGHT).get_submodule("encoder").state_dict()
    save_file(encoder, tmp_path / "encoder.safetensors")
    bucket.upload(tmp_path / "encoder.safetensors", place(bucket_url) / "e.safetensors")
    rows = {key: getattr(LIGHT, key) for key in ("architecture", "encoder", "options")}
    member = {"name": "m", "encoder_weights": f"{bucket_url}/e.safetensors", **rows}
    (spec,) = recipe_of({"members": [member]}).members
    start = start_network(spec)
    assert (start.pretrained, start.origin) == (True, "encoder: e.safetensors")
    for name, tensor in encoder.items():
        assert (
            start.network.get_submodule("encoder").state_dict()[name] == tensor
        ).all()
    member["encoder_weights"] = f"{bucket_url}/none.safetensors"
    with pytest.raises(ValueError, match=r"none.safetensors: no such object"):
        recipe_of({"members": [member]})


def test_hard_examples_in_a_bucket_are_taken_and_held_to_what_they_were(
    cohort_url, bucket_url
):
    hard, rows = place(f"{bucket_url}/hard.parquet"), read_cohort([cohort_url])
    found = {"slide_id": "p0_tumor", "x": 32, "y": 64, "tumor": 0.5, "area_mm2": 0.001}
    table = pa.Table.from_pylist([found], schema=SAMPLES)
    write_hard(hard, table, fit_patch_px=64, mpp=1.0)
    assert read_hard(hard)[0].equals(table)
    recipe = recipe_of({"sampling": {"hard_examples": str(hard)}})
    assert is_url(recipe.sampling.hard_examples)
    fit = FitDirectory(f"{bucket_url}/fit")
    fit.accept(recipe, rows, overwrite=False)
    write_hard(hard, table.slice(0, 0), fit_patch_px=64, mpp=1.0)
    with pytest.raises(RunError, match="\n  hard examples\n"):
        fit.accept(recipe, rows, overwrite=False)
    hard.unlink()
    with pytest.raises(ValueError, match="file not found"):
        fit.accept(recipe, rows, overwrite=True)


def test_corrections_in_a_bucket_are_refused_at_the_start(bucket_url):
    with pytest.raises(ValueError, match="copy the folder to a disk"):
        recipe_of({"sampling": {"extra_annotations": f"{bucket_url}/regions"}})


def test_a_card_lies_beside_its_weights_in_a_bucket(bucket_url, tmp_path):
    card = read_card(write_member(tmp_path, LIGHT))
    weights = place(bucket_url) / "light.safetensors"
    assert str(write_card(weights, card)) == f"{bucket_url}/light.json"
    assert read_card(weights) == read_card(str(weights)) == card
    with pytest.raises(ValueError, match=r"none.json is missing"):
        read_card(place(bucket_url) / "none.safetensors")
