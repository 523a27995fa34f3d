"""Slides that cannot be used cost themselves; what is no slide's fault ends the run."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from digipath_ray import schema
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.distributed.ledger import Ledger
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.read import pixel_row
from digipath_ray.distributed.resources import Share
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.build import build_network
from digipath_ray.networks.weights import save_weights
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.listeners import RunListener
from digipath_ray.storage.digest import WHOLE_BYTES
from tests.runs import (
    RAY_WARNINGS,
    SMALL,
    small_config,
    stamps,
    write_cohort,
    write_slide,
)

pytestmark = pytest.mark.filterwarnings(RAY_WARNINGS)

HANG_S = 2.0
BAD = """slide_id,path,patient_id
good,good.tif,p
unfinishable,good.tif,p
corrupt,corrupt.tif,q
stuck,stuck.tif,q
hanging,hanging.tif,q
missing,missing.tif,r
broken,broken.svs,r
unreadable,unreadable.svs,r
nan,nan.tif,r
last,last.tif,p
"""


def spoil_a_tile(path: Path) -> None:
    """Overwrite the middle tile of level 0; all others stay whole."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        number = len(page.dataoffsets) // 2
        offset, size = page.dataoffsets[number], page.databytecounts[number]
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(bytes(size))


def fragile_config(changes):
    """SMALL whose member a gives NaN for tissue of little red, and for no other.

    It divides (red - 1) by so little that 1 - 220/255 just stays within float32.
    """
    # Tissue of little red has the color of ink.
    deep = {"architecture": "Unet", "encoder": "resnet18"}
    config = small_config(
        {
            **changes,
            "tissue": {"exclude_ink": False},
            "members": [{**m, **deep} for m in SMALL["members"]],
        }
    )
    first, *others = config.members
    first = replace(first, mean=(1.0, 0.0, 0.0), std=(3.5e-39, 1.0, 1.0))
    return replace(config, members=(first, *others))


def make_bad_cohort(folder: Path, shared_data: Path) -> Path:
    folder.mkdir()
    for seed, name in enumerate(("good", "hanging", "last")):
        write_slide(folder / f"{name}.tif", seed=seed)
    write_slide(folder / "corrupt.tif", seed=3, width=640, height=480)
    # So large that its digest leaves out the tile that goes bad.
    os.truncate(folder / "corrupt.tif", WHOLE_BYTES + 1)
    write_slide(folder / "nan.tif", seed=4, red=90)
    os.mkfifo(folder / "stuck.tif")  # opening it waits for ever for a writer
    for name in ("broken.svs", "unreadable.svs"):
        shutil.copy(shared_data / "wsi" / name, folder / name)
    (folder / "cohort.csv").write_text(BAD)
    return folder / "cohort.csv"


class GoesSilent(RunListener):
    """A slide's disk stops answering once all slides are prepared."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepared(self, done: int, total: int) -> None:
        if done == total:
            self._path.unlink()
            os.mkfifo(self._path)


@pytest.mark.ray
@pytest.mark.slow
def test_bad_slides_become_rows_and_the_others_finish(ray_here, tmp_path, shared_data):
    rows = read_cohort([make_bad_cohort(tmp_path / "cohort", shared_data)])
    compute = {"pools": "per-member", "read_timeout_s": HANG_S, "chunk_cells": 4}
    config = fragile_config({"compute": compute})
    run = RunDirectory(tmp_path / "run")
    sound = ("good", "unfinishable", "corrupt", "hanging", "nan", "last")
    ready = [r for r in rows if r.slide_id in sound]
    prepared = run_cohort(run, ready, config, predict=False)
    assert prepared.failures == []
    # Now the storage goes bad: a tile that preparing has read, a folder, a file.
    spoil_a_tile(tmp_path / "cohort" / "corrupt.tif")
    run.overlay("unfinishable").mkdir()
    silent = GoesSilent(tmp_path / "cohort" / "hanging.tif")

    summary = run_cohort(run, rows, config, listener=silent)

    assert sorted(run.read_done()) == ["good", "last"]
    table = pq.read_table(run.failures)
    assert table.schema.equals(schema.FAILURES, check_metadata=True)
    found = {row["slide_id"]: row for row in table.to_pylist()}
    assert [vars(f) for f in summary.failures] == list(found.values())
    assert {
        i: (r["step"], r["attempt"], r["patient_id"]) for i, r in found.items()
    } == {
        "unfinishable": ("finish", 1, "p"),
        "corrupt": ("read", 1, "q"),
        "stuck": ("prepare", 3, "q"),
        "hanging": ("read", 3, "q"),
        "missing": ("prepare", 1, "r"),
        "broken": ("prepare", 1, "r"),
        "unreadable": ("prepare", 1, "r"),
        "nan": ("predict", 1, "r"),
    }
    said = {i: f"{r['error']} | {r['hint']}" for i, r in found.items()}
    assert "a directory: give a file name" in said["unfinishable"]
    assert "corrupt.tif: cannot be read at" in said["corrupt"]
    assert "copy it again" in said["corrupt"]
    assert "crashed or hung 3 times" in said["stuck"]
    assert "crashed or hung 3 times" in said["hanging"]
    assert "--read-timeout-s" in said["hanging"]
    assert "file not found" in said["missing"]
    assert "broken.svs: a text file, not a slide" in said["broken"]
    assert "unreadable.svs: cannot be read" in said["unreadable"]
    assert "member a" in said["nan"]
    assert "NaN" in said["nan"]
    assert all(Path(r["path"]).parent == tmp_path / "cohort" for r in found.values())
    ends = {k: summary.metrics[k] for k in ("slides", "finished", "failed")}
    assert ends == {"slides": 10, "finished": 2, "failed": 8}
    steps = {"finish": 1, "predict": 1, "prepare": 4, "read": 2}
    assert summary.metrics["failed_at"] == steps
    outcomes = pq.read_table(run.outcomes)
    assert outcomes["slide_id"].to_pylist() == ["good", "last"]


@pytest.fixture
def share() -> Share:
    return Share(
        actors=1,
        actor_cpus=1.0,
        actor_gpus=0.0,
        actor_threads=1,
        readers=1,
        reader_cpus=1.0,
        finish_cpus=0.25,
    )


def row_of(pixels, slide_id="s", chunk=0):
    """A chunk of one patch of 64 px in blocks of 32."""
    blocks = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    squares = pixels.reshape(2, 32, 2, 32, 3).swapaxes(1, 2).reshape(4, 32, 32, 3)
    index = np.arange(4).reshape(1, 2, 2)
    return pixel_row(slide_id, chunk, blocks, squares, index, 0.0)


def killed(work: str, times: int) -> Ledger:
    """The ledger after so many tries that never ended."""
    ledger = Ledger()
    for _ in range(times):
        ledger.begin(work, 99)
    return ledger


def test_a_chunk_that_killed_its_actor_three_times_is_given_up(share):
    config, ledger = small_config(), killed("predict 0 s 0", 3)
    stage = PredictStage(ledger, config.members, True, config, share)
    pixels = np.zeros((64, 64, 3), np.uint8)
    failure = Failure(**json.loads(stage(row_of(pixels))["error"][0]))
    assert (failure.step, failure.attempt) == ("predict", 3)
    assert "--batch-size" in failure.hint
    other = stage(row_of(pixels, chunk=1))  # of the same slide, never tried
    assert other["error"][0] == ""
    assert other["sums"].shape == (1, 3, 4, 8, 8)
    assert other["patches"][0] == 1


def test_members_that_kill_their_actor_on_loading_end_the_run(share):
    config, ledger = small_config(), killed("load 0", 5)
    two = replace(share, actors=2)  # any of which may die three times
    PredictStage(ledger, config.members, True, config, two)
    assert ledger.begin("load 0", 1).crashes == 0  # loaded: all is forgotten
    with pytest.raises(MemoryError, match="loading a-b ended its process 6 times"):
        PredictStage(killed("load 0", 6), config.members, True, config, two)


@pytest.mark.ray
@pytest.mark.slow
def test_what_is_no_slides_fault_ends_the_run_and_loses_nothing(ray_here, tmp_path):
    rows = write_cohort(tmp_path / "cohort", 3)
    config = small_config()
    weights = tmp_path / "a.safetensors"
    save_weights(build_network(config.members[0]).state_dict(), weights)
    first = replace(config.members[0], weights=str(weights))
    config = replace(config, members=(first, *config.members[1:]))
    run = RunDirectory(tmp_path / "run")
    run_cohort(run, rows[:1], config)
    before = stamps(run)
    assert list(before) == ["s00"]
    weights.unlink()
    with pytest.raises(
        RunError, match=r"the run ended early: .*a\.safetensors"
    ) as caught:
        run_cohort(run, rows, config)
    assert "0 of 2 slides were finished" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2  # no traceback of a worker
    assert caught.value.__cause__ is not None
    assert stamps(run) == before
    assert pq.read_table(run.outcomes)["slide_id"].to_pylist() == ["s00"]
    failures = pq.read_table(run.failures).to_pylist()
    assert [f["slide_id"] for f in failures] == ["s01", "s02"]
    assert failures[0]["error"].startswith("0 of 3 chunks: the run ended early")
    assert failures[0]["hint"] == "mend what ended it and run again"
