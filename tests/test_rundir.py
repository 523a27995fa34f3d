"""The run directory: atomic files, the lock, and what a second start may do."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from digipath_ray import schema
from digipath_ray.config.run import RunConfig
from digipath_ray.outcome.tables import write_tables
from digipath_ray.run.checksums import seal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.storage.files import publish, read_table
from tests.records import done_of, record_of


def test_publish_shows_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with publish(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), publish(path) as temporary:  # noqa: PT012
        temporary.write_text("two")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    script = (
        "import sys; from digipath_ray.run.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock(): print('held', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(run.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=f"in use by process {other.pid}"),
            run.lock(),
        ):
            pass
        other.kill()
    with run.lock():  # the system let go of a killed process's lock
        pass


def test_config_must_be_the_one_the_run_was_made_with(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.agree({"grid": {"mpp": 0.5}}, ["s"], overwrite=False)
    run.write_record(done_of())
    other = {"grid": {"mpp": 0.5}, "compute": {"readers": 4}}
    run.agree(other, ["s"], overwrite=False)
    with pytest.raises(RunError, match=r"grid.mpp: 0.5 -> 0.25\n.*--overwrite"):
        run.agree({"grid": {"mpp": 0.25}}, ["s"], overwrite=False)
    assert run.done("s").exists()
    run.agree({"grid": {"mpp": 0.25}}, ["s"], overwrite=True)
    assert not run.done("s").exists()
    run.agree({"grid": {"mpp": 0.25}}, ["s"], overwrite=False)


def test_overwrite_is_about_the_slides_named_and_no_others(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    tree = {"grid": {"mpp": 0.5}}
    run.agree(tree, ["a", "b"], overwrite=False)
    for slide_id in ("a", "b"):
        run.write_record(done_of(record_of(slide_id)))
        run.heatmap(slide_id).touch()
    run.agree(tree, ["a"], overwrite=True)
    assert [p.stem for p in run.done("b").parent.iterdir()] == ["b"]
    assert not run.heatmap("a").exists()
    assert run.heatmap("b").exists()
    with pytest.raises(RunError, match=r"1 finished slides are not among .* e\.g\. b"):
        run.agree({"grid": {"mpp": 0.25}}, ["a"], overwrite=True)
    assert run.heatmap("b").exists()


def test_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    precious = tmp_path / "masks" / "precious.png"
    precious.touch()
    with pytest.raises(RunError, match="no run directory, yet holds files in masks/"):
        RunDirectory(tmp_path).create()
    assert precious.exists()


def test_left_over_temporary_files_are_removed_and_others_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.agree({}, [], overwrite=False)
    left = run.heatmap("s").with_name(".writing-0f.s.ome.tiff")
    left.write_bytes(b"half")
    kept = tmp_path / ".hidden.txt"
    kept.write_text("mine")
    run.create()
    assert not left.exists()
    left.write_bytes(b"half")  # of a task that was killed while this run went on
    seal(run)
    assert not left.exists()
    assert kept.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_full_disk_names_itself_and_the_fix(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this sandbox does not let mount a small disk")
    try:
        with pytest.raises(OSError, match="No space left"), publish(place / "a") as t:
            t.write_bytes(bytes(1 << 20))
        assert list(place.iterdir()) == []
        with pytest.raises(RunError, match="the disk is full: free space"):
            RunDirectory(place / "run").create()
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = RunDirectory(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=f"cannot write to {run.root}"), run.lock():
        pass
    with pytest.raises(RunError, match="cannot write to"):
        run.create()


def test_tables_are_compactions_of_the_done_records(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    outcome = {
        "slide_id": "a",
        "patient_id": None,
        "tumor_mm2": 1.0,
        "tissue_mm2": 2.0,
        "probability_max": 0.5,
        "upsampled": False,
        "qc": ["ink"],
        "patches": 3,
        "seconds": 4.0,
    }
    run.write_record(done_of(record_of("a"), outcome=outcome))
    run.done("b").write_text("{ half a record")
    failure = Failure(
        slide_id="c",
        path="c.svs",
        patient_id="p",
        step="read",
        attempt=3,
        error="crash",
        hint="copy it",
    )
    run.write_failures(["a", "b", "c"], [failure])
    write_tables(run, RunConfig())
    outcomes = pq.read_table(run.outcomes)
    assert outcomes.schema.equals(schema.OUTCOMES)
    assert outcomes.schema.field("tumor_mm2").metadata[b"doc"].endswith(b"mm2")
    assert outcomes["slide_id"].to_pylist() == ["a"]
    assert outcomes["epistemic_mean"].to_pylist() == [None]
    assert pq.read_table(run.failures).to_pylist() == [vars(failure)]
    run.write_failures(["d"], [])
    assert run.read_failures() == [failure], "what another start was about stays"
    run.write_failures(["c"], [])
    assert run.read_failures() == []


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, stop, seen = tmp_path / "a", threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            if path.exists():
                seen.add(len(path.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with publish(path) as temporary, temporary.open("wb") as f:
            for _ in range(10):
                f.write(bytes(1000))
                f.flush()
    stop.set()
    reader.join()
    assert seen <= {10_000}


def test_a_record_that_says_too_little_is_none(tmp_path):
    run = RunDirectory(tmp_path)
    run.create()
    run.done("half").write_text("{}")
    run.done("list").write_text("[1]")
    run.done("partly").write_text('{"slide": {}, "outcome": {}}')
    whole = done_of(record_of("whole"))
    run.write_record(whole)
    assert run.read_done() == {"whole": whole}


def test_damaged_tables_and_folders_in_the_way_are_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(ValueError, match=r"t.parquet: not a Parquet file, or damaged"):
        read_table(tmp_path / "t.parquet")
    with (
        pytest.raises(ValueError, match="a directory: give a file name"),
        publish(tmp_path),
    ):
        pass
