"""A run is whole, or ``digipath verify`` names what is not and what mends it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digipath_ray.cli.app import run_app
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import read_toml
from digipath_ray.heatmap.file import read_heatmap, write_heatmap
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.pipeline.finish import remeasure_slide
from digipath_ray.report import write_report
from digipath_ray.run.checksums import read_sums, seal, sums_file
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.storage.files import file_digest
from digipath_ray.verify.discard import discard_damaged
from digipath_ray.verify.faults import Verification
from digipath_ray.verify.repeat import Repeated, repeat_chunks
from digipath_ray.verify.verify import verify_run
from tests.runs import small_config, write_cohort

SLIDES = 2


def make_run(folder: Path, ending: str, **grid: object) -> RunDirectory:
    """A whole run of two slides of one patient, with report, metrics and status."""
    rows = [
        replace(row, patient_id="p") for row in write_cohort(folder / "cohort", SLIDES)
    ]
    changes = {"outcome": {"outcome": ending}, "compute": {"chunk_cells": 16}}
    config = small_config({**changes, "grid": grid} if grid else changes)
    run = RunDirectory(folder / "run")
    run_eagerly(run, rows, config, load_ensemble(config))
    run.write_json(run.metrics, {"patches": 1})
    status = {"phase": "done", "host": "h", "pid": 1, "slides": SLIDES}
    moments = dict.fromkeys(("started", "updated"), "2026-01-01T00:00:00+00:00")
    run.write_json(run.status, {**status, **moments})
    write_report(run)
    seal(run)
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    return {
        ending: make_run(tmp_path_factory.mktemp(ending), ending)
        for ending in ("stage", "burden")
    }


@pytest.fixture
def copied(
    whole: dict[str, RunDirectory], tmp_path: Path
) -> Callable[[str], RunDirectory]:
    """A copy of a whole run, to damage."""

    def copy(ending: str = "stage") -> RunDirectory:
        shutil.copytree(whole[ending].root, tmp_path / "run")
        return RunDirectory(tmp_path / "run")

    return copy


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def named(found: Verification) -> set[str]:
    return {fault.where for fault in found.faults}


@pytest.mark.parametrize("ending", ["stage", "burden"])
def test_a_whole_run_has_no_fault(whole: dict[str, RunDirectory], ending: str) -> None:
    seen: list[tuple[int, int]] = []
    found = verify_run(whole[ending], progress=lambda *at: seen.append(at))
    assert found.is_right
    assert (found.slides, found.finished, found.failed) == (SLIDES, SLIDES, 0)
    assert found.notes == []
    assert seen == [(1, SLIDES), (2, SLIDES)]


def test_every_file_of_a_run_has_a_checksum_that_other_programs_check(
    whole: dict[str, RunDirectory],
) -> None:
    for run in whole.values():
        sums = read_sums(run)
        files = {
            p.relative_to(run.root).as_posix()
            for p in run.root.rglob("*")
            if p.is_file()
        }
        assert sums is not None
        assert sums.keys() == files - {"SHA256SUMS"}
        checked = subprocess.run(
            ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run.root, check=False
        )
        assert checked.returncode == 0


KINDS = [
    *("run.toml", "manifest.csv", "slides.parquet", "outcomes.parquet"),
    *("features.parquet", "patients.parquet", "failures.parquet", "metrics.json"),
    *("status.json", "report.html", "SHA256SUMS", "done/s00.json"),
    *("thumbnails/s00.jpg", "masks/s00.png", "masks/s00_overlay.jpg"),
    *("patches/s00.parquet", "heatmaps/s00.ome.tiff", "overlays/s00.png"),
    *("lesions/s00.geojson", "burden/s00_viable.png", "burden/s00_whole.png"),
]


def test_no_kind_of_file_is_left_out(whole: dict[str, RunDirectory]) -> None:
    made = {
        p.relative_to(run.root).as_posix()
        for run in whole.values()
        for p in run.root.rglob("*")
        if p.is_file()
    }
    assert {name for name in made if "s01" not in name} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_is_found_in_every_kind_of_file(
    copied: Callable[[str], RunDirectory], name: str
) -> None:
    run = copied("burden" if name.startswith("burden/") else "stage")
    path = run.root / name
    bits = path.stat().st_size * 8
    draw = np.random.default_rng(len(name)).integers(0, bits, 6)
    for bit in (0, bits - 1, *map(int, draw)):
        flip(path, bit)
        found = verify_run(run)
        assert found.faults, f"bit {bit} of {bits}"
        if name != "SHA256SUMS":  # of which the line says a wrong thing of another file
            assert name in named(found)
        flip(path, bit)
    assert verify_run(run).is_right


@pytest.mark.parametrize("name", [name for name in KINDS if name != "SHA256SUMS"])
def test_a_file_that_is_gone_is_found(
    copied: Callable[[str], RunDirectory], name: str
) -> None:
    run = copied("burden" if name.startswith("burden/") else "stage")
    if name == "run.toml":
        (run.root / name).unlink()
        with pytest.raises(ValueError, match="no run"):
            verify_run(run)
        return
    (run.root / name).unlink()
    found = verify_run(run)
    assert not found.is_right
    assert name in named(found)


def test_what_a_killed_run_leaves_is_whole_but_not_complete(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    run.done("s01").unlink()
    sums_file(run).unlink()
    (run.root / "heatmaps" / ".writing-0.s01.ome.tiff").write_bytes(b"half")
    found = verify_run(run)
    assert found.missing == ["s01"]
    assert "heatmaps/.writing-0.s01.ome.tiff" in named(found)
    assert any("not ended" in note for note in found.notes)


def test_slides_are_accounted_for_once(copied: Callable[[str], RunDirectory]) -> None:
    run = copied("stage")
    failure = Failure(
        slide_id="s00", path="a", patient_id=None, step="read", attempt=1, error="e",
        hint="h",
    )  # fmt: skip
    twice = replace(failure, slide_id="s09")
    rows = [vars(f) for f in (failure, twice, twice)]
    from digipath_ray.schema import FAILURES

    run.write_table(run.failures, rows, FAILURES)
    what = {fault.what for fault in verify_run(run).faults}
    assert {
        "s00 is finished, and failed",
        "s09 twice",
        "s09 has a result, and is not in the manifest",
    } <= what


def resave(run: RunDirectory, change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Change a heatmap, and its digest in the record, as a faulty program would."""
    heatmap = read_heatmap(run.heatmap("s00"))
    change(heatmap.data, heatmap.weight)
    write_heatmap(run.heatmap("s00"), heatmap, name="s00")
    record = run.read_record("s00")
    files = {**record.files, "heatmap": file_digest(run.heatmap("s00"))}
    run.write_record(replace(record, files=files))
    seal(run)


def twice(data: np.ndarray, weight: np.ndarray) -> None:
    weight[weight > 0] *= 2


def lost(data: np.ndarray, weight: np.ndarray) -> None:
    row, col = np.argwhere(weight > 0)[0]
    weight[row, col] = data[:, row, col] = 0


def no_number(data: np.ndarray, weight: np.ndarray) -> None:
    row, col = np.argwhere(weight > 0)[0]
    data[0, row, col] = np.nan


def beyond(data: np.ndarray, weight: np.ndarray) -> None:
    row, col = np.argwhere(weight > 0)[0]
    data[0, row, col] = 1.5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (twice, "counted more than once"),
        (lost, "patches are missing"),
        (no_number, "probability holds nan"),
        (beyond, "probability holds 1.5"),
    ],
)
def test_a_heatmap_is_held_against_its_patches(
    copied: Callable[[str], RunDirectory],
    change: Callable[[np.ndarray, np.ndarray], None],
    what: str,
) -> None:
    run = copied("stage")
    resave(run, change)
    (fault,) = [f for f in verify_run(run).faults if f.where.startswith("heatmaps/")]
    assert what in fault.what
    assert fault.slide_id == "s00"


@pytest.mark.parametrize("overlap", ["full", "adaptive"])
def test_an_uneven_stride_and_adaptive_overlap_are_whole(
    tmp_path: Path, overlap: str
) -> None:
    grid = {"patch_px": 64, "stride_px": 48, "downsample": 16, "overlap": overlap}
    run = make_run(tmp_path, "none", **grid)
    assert verify_run(run).faults == []


def test_tables_are_held_against_the_records(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    record = run.read_record("s00")
    run.write_record(replace(record, outcome={**record.outcome, "tumor_mm2": 9.0}))
    seal(run)
    assert named(verify_run(run)) == {"outcomes.parquet", "report.html"}


def test_settings_that_slides_were_not_made_with_are_found(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    text = run.settings.read_text("utf-8")
    assert 'blend = "mean"' in text
    run.settings.write_text(text.replace('blend = "mean"', 'blend = "linear"'), "utf-8")
    seal(run)
    assert "run.toml" in named(verify_run(run))


def test_another_ending_is_no_fault(copied: Callable[[str], RunDirectory]) -> None:
    run = copied("burden")
    config = settled(run)
    config = replace(config, outcome=replace(config.outcome, outcome="none"))
    for record in run.read_done().values():
        remeasure_slide(run, record, config)
    assert not run.viable("s00").exists()
    assert run.read_record("s00").files.keys().isdisjoint({"viable", "whole"})
    faults = verify_run(run).faults
    assert {f.where for f in faults if f.slide_id is not None} == {
        "done/s00.json",
        "done/s01.json",
    }  # which the checksums of before still know


@pytest.mark.ray
def test_a_run_measured_again_is_whole(
    copied: Callable[[str], RunDirectory], ray_here: None
) -> None:
    run = copied("burden")
    assert run_app(["stage", str(run.root), "--threshold", "0.4"]) == 0
    found = verify_run(run)
    assert (found.faults, found.notes) == ([], [])


def test_a_damaged_heatmap_is_not_measured_again(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    flip(run.heatmap("s00"), 8 * (run.heatmap("s00").stat().st_size - 100))
    with pytest.raises(ValueError, match="changed after it was written"):
        remeasure_slide(run, run.read_record("s00"), settled(run))


def settled(run: RunDirectory) -> RunConfig:
    return resolve(read_toml(run.settings), force=True)


def test_discarding_keeps_what_is_whole(copied: Callable[[str], RunDirectory]) -> None:
    run = copied("stage")
    flip(run.heatmap("s00"), 8000)
    run.lesions("s01").write_text("{}", "utf-8")
    before = run.heatmap("s01").read_bytes()
    discarded, kept = discard_damaged(run, verify_run(run).faults)
    assert (sorted(discarded), kept) == (["s00", "s01"], [])
    assert run.finished_ids() == ["s01"]
    assert run.heatmap("s01").read_bytes() == before
    assert run.read_record("s01").measured is None
    assert not run.heatmap("s00").exists()
    assert not sums_file(run).exists()


def test_nothing_is_discarded_that_cannot_be_made_again(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    flip(run.heatmap("s00"), 8000)
    text = run.manifest.read_text("utf-8")
    run.manifest.write_text(text.replace("s00.tif", "gone.tif"), "utf-8")
    discarded, kept = discard_damaged(run, verify_run(run).faults)
    assert (discarded, kept) == ([], ["s00"])
    assert run.heatmap("s00").exists()


@pytest.mark.parametrize("overlap", ["full", "adaptive"])
def test_chunks_predicted_again_are_those_of_the_heatmap(
    tmp_path: Path, overlap: str
) -> None:
    run = make_run(tmp_path, "none", overlap=overlap)
    done, config = list(run.read_done().values()), settled(run)
    assert sum(record.slide.chunks for record in done) > 2
    found = list(repeat_chunks(run, done, config, 3, seed=1, device="cpu"))
    assert len(found) == 3
    for one in found:
        assert isinstance(one, Repeated)
        assert one.pixels > 0
        assert one.largest < 1e-5
        assert one.is_same("float32")


def test_another_network_is_found_by_predicting_again(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    config = settled(run)
    others = tuple(replace(m, seed=m.seed + 1) for m in config.members)
    config = replace(config, members=others)
    done = list(run.read_done().values())
    (one,) = repeat_chunks(run, done, config, 1, seed=1, device="cpu")
    assert isinstance(one, Repeated)
    assert not one.is_same("float32")


def test_a_slide_that_is_gone_is_said_and_the_next_is_taken(
    copied: Callable[[str], RunDirectory], tmp_path: Path
) -> None:
    run = copied("stage")
    record = run.read_record("s00")
    gone = replace(record, slide=replace(record.slide, path=str(tmp_path / "no.tif")))
    found = list(repeat_chunks(run, [gone], settled(run), 1, seed=1, device="cpu"))
    assert found
    assert all(isinstance(one, str) and "no.tif" in one for one in found)


def test_the_command_says_what_is_wrong_and_what_mends_it(
    copied: Callable[[str], RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied("stage")
    assert run_app(["verify", str(run.root), "--deep", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 slides: 2 finished, 0 failed, 0 missing" in out
    assert "predicted again 2 chunks" in out
    flip(run.heatmap("s00"), 8000)
    assert run_app(["verify", str(run.root)]) == 1
    out = capsys.readouterr().out
    assert "heatmaps/s00.ome.tiff: is not as it was written" in out
    assert f"digipath verify {run.root} --discard" in out
    assert f"digipath run {run.root}/manifest.csv --config" in out
    assert run_app(["verify", str(run.root), "--discard"]) == 1
    assert run.finished_ids() == ["s01"]


def test_a_run_that_goes_on_is_not_verified(
    copied: Callable[[str], RunDirectory], capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied("stage")
    status = json.loads(run.status.read_text("utf-8"))
    now = {"phase": "segment", "updated": "2999-01-01T00:00:00+00:00"}
    run.write_json(run.status, {**status, **now})
    assert run_app(["verify", str(run.root)]) == 2
    assert "is being written to by h, process 1" in capsys.readouterr().err


def test_a_report_written_again_keeps_its_checksum_right(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    assert run_app(["report", str(run.root)]) == 0
    assert verify_run(run).is_right


def test_a_run_of_an_older_version_is_looked_at_as_far_as_it_goes(
    copied: Callable[[str], RunDirectory],
) -> None:
    run = copied("stage")
    sums_file(run).unlink()
    for slide_id, record in run.read_done().items():
        old = replace(
            record, files={"heatmap": record.files["heatmap"]}, made_with=None
        )
        run.write_json(run.done(slide_id), old.to_json())
    found = verify_run(run)
    assert named(found) <= {"report.html"}
    assert sum("kept the heatmap's digest alone" in n for n in found.notes) == 1
    flip(run.heatmap("s00"), 8000)
    assert "heatmaps/s00.ome.tiff" in named(verify_run(run))
