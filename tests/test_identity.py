"""A run's slides are their bytes: moved, replaced, gone, and what a resume does."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
from PIL import Image

from digipath_ray.cli import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed import run as night
from digipath_ray.distributed.ledger import Ledger
from digipath_ray.distributed.read import ShardReader, shard_table
from digipath_ray.export.dicom_seg import write_segmentations
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.prepare import prepare_slide
from digipath_ray.run.compare import compare_runs
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.identity import hold_against_files
from digipath_ray.run.patch_table import read_prepared
from digipath_ray.slide.open import SlideError
from digipath_ray.storage import bucket
from digipath_ray.storage.digest import slide_digest
from digipath_ray.storage.files import place
from digipath_ray.viewer.tiles.pool import SlidePool
from tests.buckets import Bucket, send
from tests.members import write_tiny
from tests.runs import (
    RAY_WARNINGS,
    heatmaps,
    make_run,
    small_config,
    stamps,
    write_cohort,
    write_slide,
)

CONFIG = resolve(to_tree(small_config({"outcome": {"outcome": "stage"}})))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort of two slides and its finished run."""
    folder = tmp_path_factory.mktemp("made")
    make_run(folder / "run", write_cohort(folder / "cohort", 2), CONFIG)
    return folder


@pytest.fixture
def there(made: Path, tmp_path: Path) -> tuple[Path, RunDirectory]:
    """A copy of both that a test may change, in the cohort's own place."""
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copytree(made / "cohort", tmp_path / "cohort")
    run = RunDirectory(tmp_path / "run")
    rows = read_cohort([tmp_path / "cohort" / "cohort.csv"])
    hold_against_files(run, rows, run.read_done())  # the run is of this copy now
    return tmp_path / "cohort", run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks for Ray would predict something."""

    def refuse() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(night, "connected", refuse)


def start(cohort: Path, run: RunDirectory, *more: str) -> int:
    config = run.settings
    given = [str(cohort / "cohort.csv"), "--config", str(config)]
    return run_app(["run", *given, "--out", str(run.root), *more])


def test_the_same_slides_under_another_path_are_finished(
    there: tuple[Path, RunDirectory], no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, run = there
    before = {i: heatmap for i, (_, heatmap) in stamps(run).items()}
    scratch = cohort.parent / "scratch job 7"
    cohort.rename(scratch)
    assert start(scratch, run) == 0
    said = capsys.readouterr().out
    assert "the same slide under another path: its result stays" in said
    assert "2 of 2 slides finished (2 were already), 0 failed" in said
    assert {i: heatmap for i, (_, heatmap) in stamps(run).items()} == before
    for slide_id, record in run.read_done().items():
        assert record.slide.path == str(scratch / f"{slide_id}.tif")
    paths = pq.read_table(run.slides)["path"].to_pylist()
    assert paths == [str(scratch / "s00.tif"), str(scratch / "s01.tif")]
    assert str(scratch / "s00.tif") in run.manifest.read_text()
    kept = stamps(run)
    assert start(scratch, run) == 0
    assert "under another path" not in capsys.readouterr().out
    assert stamps(run) == kept


def test_a_renamed_slide_is_the_same_if_the_manifest_says_so(
    there: tuple[Path, RunDirectory], no_ray: None
) -> None:
    cohort, run = there
    (cohort / "s00.tif").rename(cohort / "first.tif")
    table = cohort / "cohort.csv"
    table.write_text(table.read_text().replace("s00.tif", "first.tif"))
    assert start(cohort, run) == 0
    assert run.read_record("s00").slide.path == str(cohort / "first.tif")


def test_another_slide_under_another_path_is_refused(
    there: tuple[Path, RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, run = there
    before = stamps(run)
    table = cohort / "cohort.csv"
    table.write_text(table.read_text().replace("s00.tif", "s01.tif"))
    assert start(cohort, run) == 2
    told = capsys.readouterr().err
    assert "s00 was finished from another slide" in told
    assert "--overwrite" in told
    table.write_text(table.read_text().replace("s00,s01.tif", "s00,gone.tif"))
    assert start(cohort, run) == 2
    assert "which is not there" in capsys.readouterr().err
    assert stamps(run) == before


def test_what_is_gone_or_damaged_now_keeps_its_result_and_is_named(
    there: tuple[Path, RunDirectory], no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, run = there
    before = stamps(run)
    (cohort / "s00.tif").unlink()
    (cohort / "s01.tif").write_bytes(bytes(100))
    assert start(cohort, run) == 0
    said = capsys.readouterr().out
    assert "the file cannot be read now: its result stays" in said
    assert "cannot be opened now" in said
    assert "100 bytes" in said
    assert stamps(run) == before


def test_a_disk_that_is_silent_does_not_hold_up_a_start(
    there: tuple[Path, RunDirectory],
    no_ray: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort, run = there
    before = stamps(run)
    monkeypatch.setattr("digipath_ray.storage.digest.ANSWER_S", 0.2)
    (cohort / "s00.tif").unlink()
    os.mkfifo(cohort / "s00.tif")  # to open it is to wait for a writer
    assert start(cohort, run) == 0
    said = capsys.readouterr().out
    assert "the file cannot be read now: its result stays" in said
    assert "s00" in said
    assert stamps(run) == before
    with pytest.raises(TimeoutError, match=r"s00\.tif has not answered for 0\.2 s"):
        slide_digest(cohort / "s00.tif")


def test_a_mask_may_move_and_no_other_takes_its_place(tmp_path: Path) -> None:
    (row,) = write_cohort(tmp_path / "cohort", 1)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((16, 20), 255, np.uint8)).save(mask)
    row = replace(row, mask=str(mask))
    run = make_run(tmp_path / "run", [row], CONFIG)
    moved = replace(row, mask=str(mask.rename(tmp_path / "moved.png")))
    records, notes = hold_against_files(run, [moved], run.read_done())
    assert (records.keys(), notes) == ({"s00"}, [])
    other = np.full((16, 20), 255, np.uint8)
    other[:8] = 0
    Image.fromarray(other).save(tmp_path / "moved.png")
    with pytest.raises(RunError, match=r"mask: .*of other content.*--overwrite"):
        hold_against_files(run, [moved], run.read_done())


def test_a_slide_replaced_under_its_name_is_no_longer_finished(
    there: tuple[Path, RunDirectory],
) -> None:
    cohort, run = there
    rows = read_cohort([cohort / "cohort.csv"])
    stamp = (cohort / "s00.tif").stat()
    write_slide(cohort / "s00.tif", seed=7)
    os.utime(cohort / "s00.tif", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    records, notes = hold_against_files(run, rows, run.read_done())
    assert records.keys() == {"s01"} == run.read_done().keys()
    (note,) = notes
    assert note.startswith("made anew, as the file was replaced")
    assert "s00 (" in note
    assert not run.heatmap("s00").exists()


def test_a_run_without_digests_goes_by_path_and_size(
    there: tuple[Path, RunDirectory],
) -> None:
    cohort, run = there
    rows = read_cohort([cohort / "cohort.csv"])
    for record in run.read_done().values():
        old = replace(record.slide, digest=None, version=None)
        run.write_record(replace(record, slide=old))
    before = stamps(run)
    records, notes = hold_against_files(run, rows, run.read_done())
    assert len(records) == 2
    assert "kept no digest" in notes[0]
    assert stamps(run) == before
    write_slide(cohort / "s00.tif", width=180)
    records, notes = hold_against_files(run, rows, run.read_done())
    assert records.keys() == {"s01"}
    assert any("180x160 px, 200x160 before" in note for note in notes)
    elsewhere = [replace(rows[1], path=str(cohort / "s00.tif"))]
    with pytest.raises(RunError, match="a version that kept no digest finished it"):
        hold_against_files(run, elsewhere, run.read_done())


def test_what_was_prepared_is_held_against_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = write_cohort(tmp_path / "cohort", 1)
    run = RunDirectory(tmp_path / "run")
    run.create()
    prepared = prepare_slide(row, CONFIG, run)
    assert prepared.digest == slide_digest(row.path)
    assert read_prepared(run, row, CONFIG) == prepared
    moved = replace(row, path=str(shutil.copy(row.path, tmp_path / "moved.tif")))
    found = read_prepared(run, moved, CONFIG)
    assert found == replace(prepared, path=moved.path), "nothing is prepared anew"
    write_slide(Path(row.path), seed=9)
    assert read_prepared(run, row, CONFIG) is None
    assert "s00: prepared anew, as it was replaced" in caplog.text


@pytest.mark.parametrize("change", [{"seed": 9}, {"width": 120, "height": 100}])
def test_a_slide_replaced_before_it_is_read_is_not_read(
    tmp_path: Path, change: dict[str, int]
) -> None:
    (row,) = write_cohort(tmp_path / "cohort", 1)
    run = RunDirectory(tmp_path / "run")
    run.create()
    prepared = prepare_slide(row, CONFIG, run)
    (shard, *_) = shard_table([prepared], readers=1).to_pylist()
    reader = ShardReader(run, shard, CONFIG, Ledger())
    assert not isinstance(reader.read(0), Failure)
    reader.close()
    write_slide(Path(row.path), **change)
    failure = ShardReader(run, shard, CONFIG, Ledger()).read(0)
    assert isinstance(failure, Failure)
    assert "was replaced after its patches were placed" in failure.error
    assert "run again" in failure.hint


def test_a_replaced_slide_is_not_shown_or_exported_under_its_old_heatmap(
    there: tuple[Path, RunDirectory], tmp_path: Path
) -> None:
    cohort, run = there
    record = run.read_record("s00").slide
    pool = SlidePool()
    with pool.use(record) as tiled:
        assert tiled.slide.info.width == 200
    write_slide(cohort / "s00.tif", seed=3)
    with pytest.raises(SlideError, match="was replaced after its heatmap was made"):
        pool.use(record).__enter__()
    pool.close()
    files, left_out = write_segmentations(run, tmp_path / "out")
    assert [path.stem for path in files] == ["s01"]
    assert "was replaced" in left_out["s00"]


def test_runs_of_other_files_under_one_name_are_said(
    there: tuple[Path, RunDirectory], made: Path, tmp_path: Path
) -> None:
    cohort, run = there
    write_slide(cohort / "s00.tif", seed=3)
    rows = read_cohort([cohort / "cohort.csv"])
    other = make_run(tmp_path / "other", rows, CONFIG)
    found = compare_runs(run.root, other.root).to_pylist()
    notes = {(row["slide_id"], row["note"]) for row in found}
    said = "not the same slide: A and B read files of different content"
    assert notes == {("s00", said), ("s01", "")}


def test_weights_are_told_by_their_bytes(
    tmp_path: Path, no_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_cohort(tmp_path / "cohort", 1)
    weights = write_tiny(tmp_path / "weights")
    tree = {k: v for k, v in to_tree(small_config()).items() if k != "members"}
    run = make_run(tmp_path / "run", rows, resolve(tree, weights=weights))
    config = tmp_path / "config.toml"
    config.write_text(tomli_w.dumps(tree))
    (tmp_path / "weights").rename(tmp_path / "moved")
    slides = str(tmp_path / "cohort" / "cohort.csv")
    given = ["run", slides, "--config", str(config), "--out", str(run.root)]
    given += ["--weights", str(tmp_path / "moved")]
    before = stamps(run)
    assert run_app(given) == 0
    assert stamps(run) == before
    write_tiny(tmp_path / "moved", seed=1)
    assert run_app(given) == 2
    assert "members.tiny.digest: " in capsys.readouterr().err
    assert stamps(run) == before


@pytest.fixture
def in_bucket(
    bucket_server: Bucket,
    bucket_url: str,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, RunDirectory]:
    """The cohort and its run, both in a bucket; the run was made from it there."""
    monkeypatch.setenv("DIGIPATH_CACHE", str(tmp_path / "cache"))
    send(made / "cohort", f"{bucket_url}/cohort")
    rows = read_cohort([f"{bucket_url}/cohort/cohort.csv"])
    run = make_run(f"{bucket_url}/run", rows, CONFIG)
    bucket_server.requests.clear()
    return bucket_url, run


def test_in_a_bucket_the_etag_serves_and_another_prefix_is_no_other_slide(
    in_bucket: tuple[str, RunDirectory],
    bucket_server: Bucket,
    made: Path,
    tmp_path: Path,
) -> None:
    url, run = in_bucket
    rows = read_cohort([f"{url}/cohort/cohort.csv"])
    records, notes = hold_against_files(run, rows, run.read_done())
    assert (len(records), notes) == (2, [])
    assert bucket_server.asked("GET", "/cohort/s00.tif") == 0, "nothing of it is read"
    send(made / "cohort", f"{url}/moved")
    rows = read_cohort([f"{url}/moved/cohort.csv"])
    records, (note,) = hold_against_files(run, rows, run.read_done())
    assert "another path" in note
    assert run.read_record("s00").slide.path == f"{url}/moved/s00.tif"
    on_disk = read_cohort([made / "cohort" / "cohort.csv"])
    records, (note,) = hold_against_files(run, on_disk, run.read_done())
    assert len(records) == 2, "from the bucket to a disk"
    records, _ = hold_against_files(run, rows, run.read_done())
    write_slide(tmp_path / "other.tif", seed=9)
    bucket.upload(tmp_path / "other.tif", place(f"{url}/moved/s01.tif"))
    records, (note,) = hold_against_files(run, rows, run.read_done())
    assert records.keys() == {"s00"} == run.read_done().keys()
    assert "made anew" in note


def test_slides_are_dropped_and_taken_back_in_a_bucket(
    in_bucket: tuple[str, RunDirectory],
    no_ray: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, run = in_bucket
    heatmap = {p.name for p in (run.root / "heatmaps").iterdir()}
    both = f"{url}/cohort/cohort.csv"
    one = tmp_path / "one.csv"
    one.write_text(f"slide_id,path,patient_id\ns01,{url}/cohort/s01.tif,p\n")
    config = tmp_path / "run.toml"
    config.write_bytes(run.settings.read_bytes())
    given = ["--config", str(config), "--out", str(run.root)]
    assert run_app(["run", str(one), *given]) == 0
    assert "unless --drop (s00)" in capsys.readouterr().out
    assert run_app(["run", str(one), *given, "--drop"]) == 0
    assert "taken out, their heatmaps stay (s00)" in capsys.readouterr().out
    assert run.finished_ids() == ["s01"]
    assert run.dropped_ids() == ["s00"]
    assert {p.name for p in (run.root / "heatmaps").iterdir()} == heatmap
    assert run_app(["stage", str(run.root), "--manifest", both]) == 0
    assert run.finished_ids() == ["s00", "s01"]
    assert run.dropped_ids() == []
    assert run_app(["stage", str(run.root), "--manifest", str(one), "--drop"]) == 0
    assert run.finished_ids() == ["s01"]


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_replaced_slides_are_made_anew_as_if_never_made(
    ray_here: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = tmp_path / "cohort"
    rows = write_cohort(cohort, 2)
    run = make_run(tmp_path / "run", rows, CONFIG)
    kept = stamps(run)["s01"]
    write_slide(cohort / "s00.tif", width=150, height=180, seed=5)
    assert start(cohort, run) == 0
    said = capsys.readouterr().out
    assert "made anew, as the file was replaced" in said
    assert "2 of 2 slides finished (1 was already)" in said
    assert stamps(run)["s01"] == kept
    expected = make_run(tmp_path / "expected", rows, CONFIG)
    ours, theirs = heatmaps(run)["s00"], heatmaps(expected)["s00"]
    np.testing.assert_allclose(ours.data, theirs.data, atol=1e-6)
    assert run.read_record("s00").slide.digest == slide_digest(cohort / "s00.tif")

    # Between prepare and segment, by a scan of another size.
    out = tmp_path / "prepared"
    config = str(run.settings)
    told = [str(cohort / "cohort.csv"), "--config", config, "--out", str(out)]
    assert run_app(["prepare", *told]) == 0
    write_slide(cohort / "s01.tif", width=180, height=140, seed=6)
    assert run_app(["segment", str(out)]) == 0
    expected = make_run(tmp_path / "expected2", rows, CONFIG)
    for slide_id, theirs in heatmaps(expected).items():
        ours = heatmaps(RunDirectory(out))[slide_id]
        np.testing.assert_allclose(ours.data, theirs.data, atol=1e-6)
