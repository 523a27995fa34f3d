"""Cohorts, weights and run directories in a bucket."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from digipath_ray.cli import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.distributed import run as night
from digipath_ray.distributed.read import cut_shards
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.build import build_network
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import load_member
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError, RunStopped
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage import bucket
from digipath_ray.storage.bucket import ChangedError
from digipath_ray.storage.files import place, read_bytes, read_table, read_text
from digipath_ray.verify.discard import discard_damaged
from digipath_ray.verify.verify import verify_run
from tests.buckets import Bucket, send
from tests.members import LIGHT, write_member
from tests.records import record_of
from tests.runs import (
    RAY_WARNINGS,
    hears,
    heatmaps,
    make_run,
    small_config,
    write_cohort,
    write_slide,
)


@pytest.fixture
def cohort_url(tmp_path: Path, bucket_url: str) -> str:
    """Three slides, their manifest, and what is no slide."""
    write_cohort(tmp_path / "cohort", 3)
    (tmp_path / "cohort" / "notes.txt").write_text("nothing")
    send(tmp_path / "cohort", f"{bucket_url}/cohort")
    return f"{bucket_url}/cohort"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_in_a_bucket_is_a_cohort(cohort_url):
    rows = read_cohort([cohort_url])
    assert [(r.slide_id, r.path) for r in rows] == [
        (f"s{i:02}", f"{cohort_url}/s{i:02}.tif") for i in range(3)
    ]
    assert read_cohort([f"{cohort_url}/s01.tif"])[0].slide_id == "s01"
    with pytest.raises(ValueError, match="no slide below it"):
        read_cohort([f"{cohort_url}/none"])
    with pytest.raises(ValueError, match="name the folder"):
        read_cohort([f"{cohort_url}/*.tif"])


def test_a_manifest_in_a_bucket_names_what_lies_beside_it(cohort_url, tmp_path):
    rows = read_cohort([f"{cohort_url}/cohort.csv"])
    assert [r.path for r in rows] == [f"{cohort_url}/s{i:02}.tif" for i in range(3)]
    assert {r.patient_id for r in rows} == {"p"}
    (tmp_path / "here.csv").write_text(f"path\n{cohort_url}/s00.tif\nfile:///a/b.tif\n")
    here = read_cohort([tmp_path / "here.csv"])
    assert [r.path for r in here] == [f"{cohort_url}/s00.tif", "/a/b.tif"]


def test_parts_of_slides_and_runs_are_no_slides(bucket_url):
    for name in (
        "a.mrxs", "a/Data0000.jpg", "run/run.toml", "run/thumbnails/a.jpg",
        "run/heatmaps/a.ome.tiff", "b.vms", "b(0,1).jpg", "c.jpg", ".hidden/d.svs",
        "series/2.dcm", "series/1.dcm", "series/notes.txt",
    ):  # fmt: skip
        bucket.put(place(bucket_url) / name, b"x")
    assert {r.slide_id for r in read_cohort([bucket_url])} == {"a", "b", "c", "series"}
    assert len(read_cohort([bucket_url])) == 4


def test_a_slide_in_a_bucket_reads_as_on_a_disk(cohort_url, tmp_path, bucket_server):
    with (
        open_slide(f"{cohort_url}/s00.tif") as there,
        open_slide(tmp_path / "cohort" / "s00.tif") as here,
    ):
        assert there.info == replace(here.info, path=f"{cohort_url}/s00.tif")
        assert there.fetched_bytes == (tmp_path / "cohort" / "s00.tif").stat().st_size
        everything = (0, 0, 0, *here.info.level_dimensions[0])
        assert (there.read_level(*everything) == here.read_level(*everything)).all()
        version = there.version
    with open_slide(f"{cohort_url}/s00.tif", version=version) as again:
        assert (again.version, again.fetched_bytes) == (version, 0)
    write_slide(tmp_path / "other.tif", seed=9)
    bucket.upload(tmp_path / "other.tif", place(cohort_url) / "s00.tif")
    with pytest.raises(ChangedError):
        open_slide(f"{cohort_url}/s00.tif", version=version)
    with pytest.raises(SlideError, match="object not found"):
        open_slide(f"{cohort_url}/none.tif")


def test_weights_in_a_bucket_are_fetched_once_and_again_when_changed(
    bucket_server: Bucket, bucket_url, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "digipath_ray.networks.weight_files.CACHE", tmp_path / "weights"
    )
    (tmp_path / "fit").mkdir()
    write_member(tmp_path / "fit", LIGHT)
    send(tmp_path / "fit", f"{bucket_url}/fit")
    bucket.put(place(bucket_url) / "fit" / "checkpoints" / "a.safetensors", b"x")
    (member,) = resolve({}, weights=f"{bucket_url}/fit").members
    assert member.weights == f"{bucket_url}/fit/light.safetensors", "each node's own"
    picture = torch.rand((1, 3, 64, 64))
    loaded, written = load_member(member).network, build_network(LIGHT).eval()
    torch.testing.assert_close(loaded(picture), written(picture), atol=1e-3, rtol=0)
    size = (tmp_path / "fit" / "light.safetensors").stat().st_size
    ranges = -(-size // bucket.RANGE_BYTES)
    assert bucket_server.asked("GET", "light.safetensors") == ranges, "fetched once"
    write_member(tmp_path / "fit", replace(LIGHT, seed=1))
    send(tmp_path / "fit", f"{bucket_url}/fit")
    with pytest.raises(ValueError, match="not the file the run was set up with"):
        load_member(member)
    assert resolve({}, weights=f"{bucket_url}/fit").members[0].digest != member.digest
    with pytest.raises(ValueError, match=r"none.json is missing"):
        resolve({}, weights=f"{bucket_url}/fit/none.safetensors")
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        resolve({}, weights=f"{bucket_url}/nowhere")


def test_slides_of_a_bucket_are_read_whole_until_the_end_is_near():
    slides = [record_of(f"s{i}", path=f"s3://b/s{i}.svs", chunks=30) for i in range(20)]
    shards = list(cut_shards(slides, readers=4))
    parts = [[n for s, _, n in shards if s is slide] for slide in slides]
    assert all(sum(p) == 30 for p in parts)
    assert parts[:12] == [[30]] * 12, "600 chunks, two turns of four readers: 75"
    assert max(parts[-1]) <= 4, "no reader is left with a whole slide"
    assert sum(len(p) for p in parts) < 45, "20 fetches are the fewest"
    on_disk = [record_of("s", path="/data/s.svs", chunks=30)]
    assert [n for _, _, n in cut_shards(on_disk, readers=4)] == [4] * 7 + [2]
    three = [record_of(f"s{i}", path=f"s3://b/s{i}.svs", chunks=40) for i in range(3)]
    assert len(list(cut_shards(three, readers=8))) >= 12, "no reader starves"


def tables(run: RunDirectory) -> list[list[dict]]:
    found = [read_table(p) for p in (run.outcomes, run.features, run.slides)]
    drop = {"seconds", "path"}
    return [
        sorted(
            ({k: v for k, v in row.items() if k not in drop} for row in t.to_pylist()),
            key=lambda row: row["slide_id"],
        )
        for t in found
    ]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_run_in_a_bucket_is_the_run_on_a_disk(
    ray_here, bucket_server: Bucket, bucket_url, cohort_url, tmp_path, capsys
):
    config = small_config({"outcome": {"outcome": "stage"}})
    cohort = read_cohort([tmp_path / "cohort" / "cohort.csv"])
    here = make_run(tmp_path / "run", cohort, config)
    rows = read_cohort([f"{cohort_url}/cohort.csv"])
    there = RunDirectory(f"{bucket_url}/run")
    bucket_server.requests.clear()
    assert run_cohort(there, rows, config).failures == []

    assert bucket_server.asked("GET", "/s00.tif") == 1, "one node fetches it once"
    assert tables(there) == tables(here)
    for slide_id, expected in heatmaps(here).items():
        found = heatmaps(there)[slide_id]
        assert np.array_equal(found.data, expected.data)
    assert b"</html>" in read_bytes(there.report)
    assert not (there.root / "lease.json").exists()

    bucket_server.requests.clear()
    summary = run_cohort(there, rows, config)
    assert (summary.skipped, len(summary.outcomes)) == (3, 3)
    assert bucket_server.asked("PUT", "/done/") == 0
    with there.lock(), pytest.raises(RunError, match="in use by process"):
        night.run_cohort(there, rows, config)

    run = str(there.root)
    out = tmp_path / "out"
    assert run_app(["stage", run, "--min-lesion-um", "20"]) == 0
    assert run_app(["report", run]) == 0
    assert run_app(["export", run, "--format", "csv", "--out", str(out)]) == 0
    assert run_app(["export", run, "--format", "geojson", "--out", str(out)]) == 0
    assert (out / "outcomes.csv").exists()
    assert (out / "s00.geojson").read_text() == read_text(there.lesions("s00"))
    (tmp_path / "labels.csv").write_text("patient,stage\np.zip,pN0\n")
    given = ["--reference", str(tmp_path / "labels.csv"), "--prediction", run]
    assert run_app(["evaluate", "camelyon17", *given]) == 0
    assert run_app(["compare", run, str(here.root), "--out", str(out)]) == 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_slide_replaced_after_it_was_prepared_fails_and_is_made_anew(
    ray_here, bucket_url, cohort_url, tmp_path
):
    rows, config = read_cohort([cohort_url]), small_config()
    run = RunDirectory(f"{bucket_url}/run")
    run_cohort(run, rows, config, predict=False)
    write_slide(tmp_path / "other.tif", seed=9)

    def replace_it(*_: object) -> None:
        bucket.upload(tmp_path / "other.tif", place(cohort_url) / "s01.tif")

    listener = hears(planned=replace_it)
    summary = run_cohort(run, rows, config, listener=listener)
    (failure,) = summary.failures
    assert (failure.slide_id, failure.step) == ("s01", "read")
    assert "was replaced" in failure.error
    assert len(summary.outcomes) == 2

    assert run_cohort(run, rows, config).failures == []
    here = make_run(tmp_path / "run", read_cohort([tmp_path / "other.tif"]), config)
    found, expected = heatmaps(run)["s01"], heatmaps(here)["other"]
    assert np.array_equal(found.data, expected.data)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_a_run_that_was_overtaken_stops_and_writes_no_table(
    ray_here, bucket_url, cohort_url, monkeypatch
):
    monkeypatch.setattr("digipath_ray.storage.lease.RENEW_S", 0.1)
    run = RunDirectory(f"{bucket_url}/run")

    def overtake(*_: object) -> None:
        bucket.put(run.root / "lease.json", b'{"token": "other"}')
        time.sleep(1.0)

    listener = hears(planned=overtake)
    with pytest.raises(RunStopped, match="was taken over by another run"):
        run_cohort(run, read_cohort([cohort_url]), small_config(), listener=listener)
    assert not run.outcomes.exists()
    assert b"other" in read_bytes(run.root / "lease.json"), "not ours to remove"


def test_a_run_in_a_bucket_is_verified_and_mended_there(
    cohort_url: str, bucket_url: str
) -> None:
    root = f"{bucket_url}/whole"
    run = make_run(root, read_cohort([cohort_url]), small_config())
    assert verify_run(run).faults == []
    assert verify_run(run).notes == []
    for path in (run.heatmap("s01"), run.lesions("s02")):
        path.write_bytes(read_bytes(path)[:-1])
    found = verify_run(run)
    assert {fault.where for fault in found.faults} == {
        "heatmaps/s01.ome.tiff",
        "lesions/s02.geojson",
    }
    discarded, kept = discard_damaged(run, found.faults)
    assert (sorted(discarded), kept) == (["s01", "s02"], [])
    assert run.finished_ids() == ["s00", "s02"]
    assert run.read_record("s02").measured is None
