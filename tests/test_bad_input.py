"""What users get wrong: each ends in its exit code and a message that says the fix.

0: all done. 1: a slide failed, the others are done. 2: it cannot be done as asked.
3: it ended early, through no slide's fault.
"""

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
from PIL import Image
from safetensors.numpy import save_file

from digipath_ray.cli.app import run_app
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree, merge
from digipath_ray.distributed import ending, fault
from digipath_ray.distributed.ending import leave_out, write_what_is_finished
from digipath_ray.networks.card import ModelCard, write_card
from digipath_ray.outcome.tables import write_tables
from digipath_ray.run.checksums import read_sums, seal, sums_file
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunStopped
from digipath_ray.run.listeners import FailureLog
from digipath_ray.storage.files import file_digest
from tests.runs import RAY_WARNINGS, SMALL, small_config, write_slide
from tests.slides import write_pyramid

SHARED = Path(__file__).parents[2] / "shared" / "data" / "wsi"
MEMBERS = [{**SMALL["members"][0], "weights": "random"}]
DAMAGED = "the file is damaged or truncated: copy it again"
MPP_FIX = "give --slide-mpp, or a column mpp in the manifest"


def write_config(path: Path, changes: Tree | None = None) -> str:
    """One network of random weights on patches of 64 px at 1 um/px."""
    # One reader: Ray warns of more readers than there are shards to read.
    own = {"members": MEMBERS, "compute": {"readers": 1}}
    path.write_text(tomli_w.dumps(merge(SMALL, own, changes or {})))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> str:
    return write_config(tmp_path / "config.toml")


@pytest.fixture
def slide(tmp_path: Path) -> str:
    return str(write_slide(tmp_path / "good.tif"))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that cannot be done as asked says."""
    capsys.readouterr()
    code = run_app(arguments)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("Error: ")
    return said.err


# A cohort of slides of which most cannot be used, in one run.


def write_white(path: Path, *, side: int) -> Path:
    return write_pyramid(
        path, np.full((side, side, 3), 250, np.uint8), mpp=1.0, downsamples=(1,)
    )


def write_unreadable(path: Path) -> Path:
    """A slide that opens; the first stored tile is no deflate stream."""
    write_slide(path)
    content = bytearray(path.read_bytes())
    first = content.index(b"\x78\x9c")
    content[first : first + 2000] = bytes(2000)
    path.write_bytes(content)
    return path


def write_bad_cohort(folder: Path) -> Path:
    """Two slides that work and one for each way to fail, with a manifest."""
    write_slide(folder / "good.tif")
    write_slide(folder / "tiny.tif", width=50, height=40, glass=0)
    write_slide(folder / "coarse.tif", width=120, height=100, glass=0, mpp=4.0)
    (folder / "text.svs").write_text("no slide at all")
    write_unreadable(folder / "unreadable.tif")
    pixels = np.full((90, 100, 3), 200, np.uint8)
    write_pyramid(folder / "no_mpp.tif", pixels, mpp=None)
    write_white(folder / "white.tif", side=256)
    Image.fromarray(np.full((1, 1, 3), (200, 60, 160), np.uint8)).save(
        folder / "one_px.png"
    )
    lines = ["slide_id,path,mpp,patient_id", "lost,lost.tif,,p"]
    names = "good.tif tiny.tif coarse.tif text.svs unreadable.tif no_mpp.tif white.tif"
    lines += [f"{Path(n).stem},{n},,p" for n in names.split()]
    lines.append("one_px,one_px.png,1.0,p")
    if SHARED.is_dir():
        lines += [f"real_{n},{SHARED}/{n}.svs,,q" for n in ("broken", "unreadable")]
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(lines))
    return manifest


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
@pytest.mark.usefixtures("ray_here")
def test_every_bad_slide_is_a_row_and_the_others_finish(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_bad_cohort(tmp_path)
    out = tmp_path / "run"
    assert run_app(["run", str(manifest), "--config", config, "--out", str(out)]) == 1
    run = RunDirectory(out)
    failures = {f["slide_id"]: f for f in pq.read_table(run.failures).to_pylist()}
    found = {name: (f["error"], f["hint"]) for name, f in failures.items()}
    no_tissue = "no tissue of at least 0.0005 mm2 found"
    assert found["lost"] == (
        f"{tmp_path}/lost.tif: file not found",
        "check the path in the manifest",
    )
    assert found["text"][0] == ("text.svs: a text file, not a slide")
    assert "not a list of slides or a Git LFS pointer" in found["text"][1]
    assert found["unreadable"][0].startswith("unreadable.tif: cannot be read at (0, 0)")
    assert found["unreadable"][1] == DAMAGED
    assert found["no_mpp"] == (
        "the file has no plausible micrometers per pixel (mpp)",
        MPP_FIX,
    )
    assert found["white"][0] == found["one_px"][0] == no_tissue
    assert "masks/white_overlay.jpg" in found["white"][1]
    assert "--tissue all" in found["white"][1]
    assert found["coarse"] == (
        "the finest level has 4 um/px, coarser than the requested 1 um/px",
        "give --mpp 4 with weights trained at that mpp, or --allow-upsampling",
    )
    if SHARED.is_dir():
        assert found["real_broken"][0].startswith(
            "broken.svs: a text file, not a slide"
        )
        assert "Bogus marker length" in found["real_unreadable"][0]
    elif os.environ.get("CI") == "true":
        pytest.fail(f"CI runs the tests on real data, but {SHARED} is absent")
    assert {f["step"] for f in failures.values()} == {"prepare"}
    assert failures["lost"]["patient_id"] == "p"

    outcomes = pq.read_table(run.outcomes)
    assert outcomes["slide_id"].to_pylist() == ["good", "tiny"]
    assert all(run.heatmap(name).exists() for name in ("good", "tiny"))

    said = capsys.readouterr().out
    for error, hint in found.values():
        assert f": {error}\n   fix: {hint}\n" in said
    total = len(found) + 2
    assert f"2 of {total} slides finished, {len(found)} failed" in said
    assert f"tables    {run.outcomes}, failures.parquet" in said


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
@pytest.mark.usefixtures("ray_here")
def test_upsampling_is_done_if_asked_for_and_flagged(
    tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_slide(
        tmp_path / "coarse.tif", width=40, height=30, glass=0, mpp=4.0, seed=3
    )
    out = tmp_path / "run"
    command = ["run", str(slide), "--config", config, "--out", str(out)]
    assert run_app([*command, "--allow-upsampling"]) == 0
    (outcome,) = pq.read_table(RunDirectory(out).outcomes).to_pylist()
    assert outcome["upsampled"] is True
    assert "upsampled" in outcome["qc"]
    assert "upsampled" in capsys.readouterr().out


# Disks.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.4 MB: the masks of a small slide fit, its overlay does not."""
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(place)]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("this sandbox does not let mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.ray
@pytest.mark.filterwarnings(RAY_WARNINGS)
@pytest.mark.usefixtures("ray_here")
def test_disk_that_fills_up_costs_slides_and_says_so(
    small_disk: Path,
    tmp_path: Path,
    config: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fault, "PATIENCE_S", 3.0)
    slides = tmp_path / "slides"
    slides.mkdir()
    for i in range(5):  # a third of a MB of results each
        write_slide(slides / f"s{i}.tif", seed=i)
    run = RunDirectory(small_disk / "run")
    # Leaves room for the directory's probe of 1 MB.
    (small_disk / "other.bin").write_bytes(bytes(330 << 10))
    command = ["run", str(slides), "--config", config, "--out", str(run.root)]
    assert run_app(command) == 3  # through no slide's fault
    said = capsys.readouterr().out
    assert "No space left on device" in said
    assert (
        "   fix: the disk is full: free space or move the run, then run again" in said
    )
    finished = pq.read_table(run.outcomes)["slide_id"].to_pylist()
    failed = pq.read_table(run.failures)["slide_id"].to_pylist()
    assert finished
    assert failed
    assert sorted(finished + failed) == ["s0", "s1", "s2", "s3", "s4"]

    (small_disk / "other.bin").unlink()  # a fix: what is missing is all that is done
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert run_app(command) == 0
    said = capsys.readouterr().out
    assert re.search(rf"5 of 5 slides finished \({len(finished)} w\w+ already\)", said)


def fill_disk(filler: Path) -> None:
    """Let a file grow until its disk is full."""
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))


@pytest.mark.parametrize("freed", [True, False])
def test_tables_wait_for_the_last_bytes_of_a_full_disk(
    small_disk: Path, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(small_disk / "run")
    run.create()
    run.settings.write_text("", encoding="utf-8")  # a file with a checksum
    filler = small_disk / "filler"
    fill_disk(filler)
    monkeypatch.setattr(ending, "WRITING_AGAIN_S", (0.5, 0.1))
    if freed:  # another task gives up what it was writing
        threading.Timer(0.2, filler.unlink).start()
        write_what_is_finished(run, ["s"], FailureLog(), small_config())
        assert run.outcomes.exists()
        assert run.failures.exists()
        assert leave_out(sums_file(run), lambda: seal(run)) == []
        assert sums_file(run).exists()
        return
    (reason,) = leave_out(sums_file(run), lambda: seal(run))
    assert "SHA256SUMS is not written" in reason
    assert not sums_file(run).exists()
    with pytest.raises(RunStopped, match="the disk is full: free space"):
        write_what_is_finished(run, ["s"], FailureLog(), small_config())


def test_full_disk_is_refused_before_the_run(
    small_disk: Path, slide: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "other.bin").write_bytes(bytes(1 << 20))
    out = small_disk / "run"
    said = refused(["run", slide, "--config", config, "--out", str(out)], capsys)
    assert f"cannot write to {out}: No space left on device; the disk is full" in said


@pytest.mark.parametrize("command", ["run", "prepare"])
def test_place_that_cannot_be_written(
    command: str,
    tmp_path: Path,
    slide: str,
    config: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    said = refused([command, slide, "--config", config, "--out", str(out)], capsys)
    assert f"cannot write to {out}: " in said
    assert "check the disk and the path, then run again" in said


# Run directories.


def test_two_runs_into_one_directory(
    tmp_path: Path, slide: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with RunDirectory(out).lock():
        said = refused(["run", slide, "--config", config, "--out", str(out)], capsys)
    assert f"{out} is in use by process {os.getpid()}" in said
    assert "wait for it, or choose another --out" in said


def test_run_of_another_config(
    tmp_path: Path, slide: str, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.agree({"grid": {"mpp": 0.25}}, [], overwrite=False)
    seal(run)
    command = ["run", slide, "--config", config, "--out", str(run.root)]
    said = refused(command, capsys)
    assert f"{run.root} was made with another config:" in said
    assert read_sums(run) is not None  # what is refused changes nothing
    assert "  grid.mpp: 0.25 -> 1.0\n" in said
    assert "  members.a.architecture: not set -> tests.tiny:Tiny\n" in said
    assert "choose another --out, or --overwrite to make its slides again" in said


def test_segment_where_nothing_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["segment", str(tmp_path / "run")], capsys)
    assert f"{tmp_path}/run holds no prepared run: digipath prepare SLIDES" in said


def test_compare_with_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["compare", str(tmp_path), str(tmp_path)], capsys)
    assert f"{tmp_path}: not a finished run, it has no outcomes.parquet" in said
    assert "name the directory given to digipath run --out" in said


def test_compare_with_a_run_that_finished_no_slide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create()
    write_tables(run, RunConfig())  # what digipath prepare leaves
    said = refused(["compare", str(run.root), str(run.root)], capsys)
    assert said.startswith(
        f"Error: {run.root}: holds no finished slide: digipath segment {run.root} "
    )


def test_weights_in_a_folder_that_is_not_there(
    slide: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", slide, "--out", "x", "--weights", f"{tmp_path}/weights/"]
    assert refused(command, capsys) == (
        f"Error: weights {tmp_path}/weights/: folder not found, and neither random nor "
        "imagenet\n"
    )


# Cohorts.


@pytest.mark.parametrize("command", ["run", "prepare", "info", "plan"])
def test_missing_file_named_by_hand(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if command == "info" else ["--out", str(tmp_path / "run")]
    said = refused([command, str(tmp_path / "a.svs"), *out], capsys)
    assert said == (
        f"Error: {tmp_path}/a.svs: file or folder not found: check the spelling\n"
    )


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["run", str(tmp_path), "--out", "x"], capsys)
    assert said.startswith(f"Error: {tmp_path}: no slide in this folder (.avs .bif ")
    assert said.endswith("): check the path\n")


def test_duplicate_slide_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    write_white(tmp_path / "s.tif", side=16)
    write_white(tmp_path / "b" / "s.tif", side=16)
    said = refused(["run", str(tmp_path), "--out", "x"], capsys)
    assert said == (
        f"Error: slide_id 's' twice: {tmp_path}/b/s.tif and {tmp_path}/s.tif: "
        "give each its own slide_id in a manifest (columns slide_id,path)\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "slide_id,path,mpps\na,a.tif,0.5\n",
            "unknown column 'mpps': is it meant as 'mpp'? Rename it so, or to "
            "something else",
        ),
        (
            "slide_id,mpp\na,0.5\n",
            "no column path: add one with each slide's file. Its first line names "
            "'slide_id', 'mpp': if that is a title, remove the lines above the "
            "columns' names",
        ),
        ("path\n", "no slide in this manifest: add a row per slide"),
    ],
)
def test_manifest_of_wrong_columns(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text(content)
    said = refused(["run", str(manifest), "--out", "x"], capsys)
    assert said == f"Error: {manifest}: {message}\n"


def test_manifest_with_a_wrong_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "cohort.csv"
    manifest.write_text("path,mpp\na.tif,0.5\nb.tif,forty\n")
    said = refused(["run", str(manifest), "--out", "x"], capsys)
    assert said == (
        f"Error: {manifest}, line 3, column mpp: 'forty': give um per level-0 px, "
        "0.01 to 100, or leave it empty to go by the file\n"
    )


# Settings.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[grid]\nmmp = 0.5",
            "unknown field 'mmp' in [grid]: known are doubt, doubt_um, ",
        ),
        ("[girds]\nmpp = 0.5", "unknown section [girds]: known are slide, tissue, "),
        ("[grid\n", "not valid TOML: "),
    ],
)
def test_config_file_of_wrong_content(
    content: str,
    message: str,
    tmp_path: Path,
    slide: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    command = ["run", slide, "--config", str(path), "--weights", "random"]
    said = refused([*command, "--out", "x"], capsys)
    assert said.startswith(f"Error: config {path}: ")
    assert message in said


def test_config_file_with_a_wrong_type(
    tmp_path: Path, slide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[grid]\nmpp = '0.5'")
    said = refused(["info", slide, "--config", str(path)], capsys)
    assert said == "Error: grid.mpp = '0.5': must be of type float\n"


def test_config_file_that_is_not_there(
    slide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["run", slide, "--config", "lost.toml", "--out", "x"], capsys)
    assert said == "Error: config lost.toml: file not found\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mpp 0.5 --magnification 20", "--mpp and --magnification say the same"),
        ("--stride-px 32 --overlap-px 32", "--stride-px and --overlap-px say the same"),
        ("--overlap-px 32", "needs to know the patch: give --patch-px too"),
        ("--patch-px 64 --overlap-px 64", "must be from 0 to less than the patch (64"),
        ("--magnification 0", "magnification must be positive, not 0"),
        (
            "--patch-px 100",
            "grid.patch_px = 100: must be a multiple of downsample (16)",
        ),
        ("--tta identity,turn", "ensemble.tta = 'turn': choose from identity, rot90,"),
    ],
)
def test_options_that_do_not_go_together(
    options: str, message: str, slide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["info", slide, *options.split()], capsys)


def test_run_without_weights(slide: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["run", slide, "--out", "x"], capsys)
    assert "no weights for unet-densenet121, unet-inceptionresnetv2, " in said
    assert "--weights random to test the installation" in said


def card_of(path: Path, **changes: object) -> ModelCard:
    values: dict[str, object] = {
        "name": "a",
        "architecture": "Unet",
        "encoder": "resnet18",
        "options": {},
        "mpp": 1.0,
        "patch_px": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "training_slides": (),
        "training_patients": (),
        "license": "Apache-2.0",
        "digest": file_digest(path),
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def test_weights_of_another_architecture(
    tmp_path: Path, slide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"encoder.conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}, path)
    write_card(path, card_of(path))
    said = refused(["run", slide, "--weights", str(path), "--out", "x"], capsys)
    assert f"member a: {path} are weights of another architecture than Unet" in said
    assert "encoder.conv1.weight [64, 3, 3, 3] for [64, 3, 7, 7]" in said

    members = [{"name": "a", "weights": str(path), "architecture": "FPN"}]
    config = write_config(tmp_path / "config.toml", {"members": members})
    said = refused(["run", slide, "--config", config, "--out", "x"], capsys)
    assert "card says architecture = 'Unet', the config 'FPN'" in said


def test_weights_trained_at_another_mpp(
    tmp_path: Path, slide: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path)
    write_card(path, card_of(path, mpp=0.25))
    command = ["run", slide, "--weights", str(path), "--mpp", "1.0", "--out", "x"]
    said = refused(command, capsys)
    assert "grid.mpp = 1, but the members were trained at 0.25 um/px" in said
    assert "leave mpp out, or --force" in said
