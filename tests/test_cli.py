"""The command line as a user types it: what it takes, prints, makes and exits with."""

import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
import typer

from digipath_ray import __version__
from digipath_ray.cli import doctor
from digipath_ray.cli.app import run_app
from digipath_ray.cli.info import nominal_mpp
from digipath_ray.cli.options import config_as_known, with_config, with_recipe
from digipath_ray.cli.plan import measure_rate
from digipath_ray.config.toml import (
    PRESETS,
    Tree,
    load_config,
    merge,
    option_fields,
    read_toml,
    recipe_from_tree,
)
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.planning import cost
from digipath_ray.planning.cost import Cost, Pace, format_time, refuse_disk
from digipath_ray.run.directory import RunDirectory
from digipath_ray.words import count, size
from tests.runs import RAY_WARNINGS, SMALL, small_config, write_slide
from tests.slides import write_pyramid

COMMANDS = ("run", "prepare", "segment", "demo", "info", "plan", "doctor", "compare")
WITH_CONFIG = ("run", "prepare", "info", "plan")


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """The marks of a test that needs the prepared run, and so Ray."""
    return pytest.mark.ray(pytest.mark.filterwarnings(RAY_WARNINGS)(test))


def plain(text: str) -> str:
    """Help as words in one line: without boxes, colors and line breaks."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


# Help and usage.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app([command, "--help"]) == 0
    assert f"Usage: digipath {command} [OPTIONS]" in plain(capsys.readouterr().out)


def test_help_shows_what_stands_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["export", "--help"]) == 0  # rich would take it for a style
    assert "digipath_ray[dicom]" in plain(capsys.readouterr().out).replace(" ", "")


@pytest.mark.parametrize("command", WITH_CONFIG)
def test_help_lists_every_field_with_its_default(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert run_app([command, "-h"]) == 0
    said = capsys.readouterr().out
    for section in ("slide", "tissue", "artifacts", "grid", "ensemble", "compute"):
        assert f" [{section}] " in said
    rows = said.splitlines()
    for name, (_, field, _) in option_fields().items():
        (row,) = [r for r in rows if f"│ --{name.replace('_', '-')} " in r]
        assert field.metadata["help"] in row
        assert ("(default: " in row) == (field.default is not None)
    words = plain(said)
    assert "um per model px (default: 0.25)" in words
    assert "drawn ink is not tissue (default: yes)" in words
    assert "rot270, hflip, vflip; or all (default: identity)" in words
    assert "--exclude-ink --no-exclude-ink" in words
    for name in ("--magnification", "--overlap-px", "--preset", "--config"):
        assert name in said
    assert "demo: for the synthetic slides of 'digipath demo' alone" in words


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([]) == 2
    said = capsys.readouterr()
    for command in COMMANDS:
        assert f"│ {command} " in said.out + said.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--version"]) == 0
    assert capsys.readouterr().out == f"digipath_ray {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("runn", "No such command 'runn'"),
        ("prepare", "Missing argument 'SLIDES'"),
        ("run --out x", "Invalid value for 'SLIDES': name files"),
        ("run a.svs", "Missing option '--out'"),
        ("run a.svs --out x --mmp 1", "No such option: --mmp"),
        ("run a.svs --out x --mpp half", "Invalid value for '--mpp'"),
        ("run a.svs --out x --edge black", "Invalid value for '--edge'"),
        ("info a.svs --preset camelyon", "Invalid value for '--preset'"),
        ("plan a.svs --gpus 0", "Invalid value for '--gpus'"),
    ],
)
def test_usage_errors(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in plain(said.err)
    assert "Usage: digipath" in said.err
    assert "Traceback" not in said.err


def test_interrupt_is_one_line_and_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "config.toml"  # to read it is to wait for a writer
    os.mkfifo(pipe)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        with pipe.open("wb"):  # opened once the command reads it
            time.sleep(0.1)
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.1)

    writer = threading.Thread(target=interrupt, daemon=True)
    # A background job's shell has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    writer.start()
    try:
        assert run_app(["run", "a.svs", "--config", str(pipe), "--out", "x"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == ("Interrupted: the same command goes on from what is finished\n")


def test_verbose_shows_where_an_error_came_from(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from digipath_ray.cli import main; main()"]
    command += ["info", str(tmp_path / "a.svs")]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert quiet.stderr.count("\n") == 1
    command.insert(3, "--verbose")
    loud = subprocess.run(command, capture_output=True, text=True, check=False)
    assert loud.returncode == 2
    assert "Traceback" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


# Settings.


def tree_of(*arguments: str, options: Any = with_config) -> Tree:
    """What the options of a command make of a command line."""
    found: list[Tree] = []

    def show(*, tree: Tree) -> int:
        found.append(tree)
        return 0

    app = typer.Typer(
        context_settings={"token_normalize_func": lambda t: t.replace("_", "-")}
    )
    app.command()(options(show))
    with pytest.raises(SystemExit) as end:
        app(list(arguments))
    assert end.value.code == 0
    return found[0]


OTHER: dict[str, tuple[str, Any]] = {
    "slide_mpp": ("0.5", 0.5),
    "edge": ("reflect", "reflect"),
    "stain": ("macenko", "macenko"),
    "overlap": ("adaptive", "adaptive"),
    "doubt": ("0.25", 0.25),
    "doubt_um": ("60", 60.0),
    "tissue": ("paip", "paip"),
    "tta": ("identity,rot90", ["identity", "rot90"]),
    "blend": ("linear", "linear"),
    "pools": ("per-member", "per-member"),
    "precision": ("float32", "float32"),
    "gpus_per_actor": ("0.5", 0.5),
    "min_saturation": ("0.25", 0.25),
    "threshold": ("0.25", 0.25),
    "refine": ("crf", "crf"),
    "outcome": ("burden", "burden"),
    "stage_model": ("m.skops", "m.skops"),
    "min_lesion_p": ("0.25", 0.25),
    "exclude_artifacts": ("blur, pen", ["blur", "pen"]),
}


@pytest.mark.parametrize("name", option_fields())
def test_every_field_is_an_option(name: str) -> None:
    section, field, _ = option_fields()[name]
    option = f"--{name.replace('_', '-')}"
    if isinstance(field.default, bool):
        assert tree_of(option)[section] == {field.name: True}
        assert tree_of(f"--no-{option[2:]}")[section] == {field.name: False}
        return
    text, value = OTHER.get(name, ("32", 32))
    given = {field.name: value}
    assert tree_of(option, text)[section] == given
    assert tree_of(f"--{name}", text)[section] == given  # underscores too


def test_the_name_of_before_of_a_margin_is_taken() -> None:
    assert tree_of("--dilate-um", "30")["tissue"] == {"margin_um": 30}
    assert tree_of("--dilate-um", "240")["tissue"] == {"margin_um": 0}
    with pytest.raises(ValueError, match="say the same thing"):
        tree_of("--dilate-um", "30", "--margin-um", "30")


def test_the_name_of_before_of_stain_jitter_is_taken(tmp_path: Path) -> None:
    assert tree_of("--hed", "0.2", options=with_recipe)["augment"] == {"stain": 0.2}
    assert tree_of("--stain", "0.2", options=with_recipe)["augment"] == {"stain": 0.2}
    with pytest.raises(ValueError, match="say the same thing"):
        tree_of("--hed", "0.2", "--stain", "0.2", options=with_recipe)
    path = tmp_path / "fit.toml"
    path.write_text('[slide]\nstain = "macenko"\n[augment]\nhed = 0.2\n')
    assert recipe_from_tree(read_toml(path)).augment.stain == 0.2
    path.write_text("[augment]\nhed = 0.2\nstain = 0.1\n")
    with pytest.raises(ValueError, match="hed is stain now"):
        read_toml(path)


def test_options_win_over_the_file_and_the_file_over_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("[grid]\nmpp = 0.4\npatch_px = 256\n[slide]\nedge = 'white'\n")
    tree = tree_of("--preset", "glas", "--config", str(path), "--mpp", "0.3")
    assert tree["grid"] == {
        "mpp": 0.3,
        "patch_px": 256,
        "stride_px": 256,
        "downsample": 1,
    }
    assert tree["slide"] == {"slide_mpp": 0.62, "edge": "white"}


def test_other_ways_to_say_it(tmp_path: Path) -> None:
    assert tree_of("--magnification", "40")["grid"] == {"mpp": 0.25}
    grid = tree_of("--patch-px", "512", "--overlap-px", "128")["grid"]
    assert grid == {"patch_px": 512, "stride_px": 384}
    path = tmp_path / "a.toml"
    path.write_text("[grid]\npatch_px = 256\nstride_px = 64\nmpp = 1.0\n")
    grid = tree_of(
        "--config", str(path), "--overlap_px", "128", "--magnification", "20"
    )
    assert grid["grid"] == {"patch_px": 256, "stride_px": 128, "mpp": 0.5}
    every = ["identity", "rot90", "rot180", "rot270", "hflip", "vflip"]
    assert tree_of("--tta", "all")["ensemble"] == {"tta": every}
    assert tree_of("--tta", "none")["ensemble"] == {"tta": ["identity"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_whole_config(preset: str) -> None:
    tree = load_config(preset=preset)
    config = config_as_known(tree)
    assert config.grid.mpp == tree["grid"]["mpp"]
    assert {m.name for m in config.members} == {
        m["name"] for m in tree.get("members", [])
    }


def test_a_look_needs_no_weights_and_halves_the_patch() -> None:
    assert config_as_known({"grid": {"patch_px": 256}}).grid.stride_px == 128
    assert config_as_known({}).grid.stride_px == 512


# info.


def test_info_says_what_the_file_is_and_what_a_run_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = write_slide(tmp_path / "good.tif", mpp=0.5, width=400, height=300)
    options = "--mpp 1.0 --patch-px 64 --downsample 4 --mask-mpp 4 --close-um 10"
    options += " --open-um 5 --margin-um 10 --min-tissue-mm2 0.0005 --tta all"
    assert run_app(["info", str(slide), *options.split()]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"good  {slide}",
        "  format     generic-tiff",
        "  size       400 x 300 px",
        "  mpp        0.5 um/px, from: file",
        "  objective  not stated",
        "  level 0    400 x 300 px, 1:1, 0.5 um/px",
        "  level 1    200 x 150 px, 1:2, 1 um/px",
        "  level 2    100 x 75 px, 1:4, 2 um/px",
        "  read       level 1 as it is: 1 um/px for 1 asked, by OpenSlide",
        "  patches    64 px every 32 px",
        "  tissue     0.03 mm2 (otsu)",
        "  flags      little tissue",
        "  to predict 24 of 24 patches, in 1 chunk",
        "  heatmap    50 x 38 px of 4 um/px: probability, aleatoric, and epistemic "
        "with several members",
    ]


CONTRADICTED = "0.25 um/px, from: manifest; the file says 0.5: ONE OF THEM IS WRONG"


def contradicted(folder: Path) -> tuple[str, list[str]]:
    """A manifest whose mpp is half its slide's, and options to look at it with."""
    write_slide(folder / "a.tif", mpp=0.5, width=400, height=300)
    manifest = folder / "cohort.csv"
    manifest.write_text("path,mpp\na.tif,0.25\n")
    options = ["--mpp", "0.5", "--patch-px", "64", "--tissue", "all"]
    return str(manifest), options


def test_info_says_where_the_manifest_contradicts_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, options = contradicted(tmp_path)
    assert run_app(["info", manifest, *options]) == 0
    said = capsys.readouterr().out
    assert f"  mpp        {CONTRADICTED}\n" in said
    assert "  flags      little tissue, mpp differs from file\n" in said


def test_info_of_a_slide_too_coarse_for_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = str(write_slide(tmp_path / "a.tif", mpp=0.499))
    for options in ([], ["--weights", "random"]):
        assert run_app(["info", slide, *options]) == 1
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "  unusable   for the default 0.25 um/px: the finest level has 0.499 "
            "um/px, coarser than the requested 0.25 um/px",
            "  fix        say at which mpp the networks were trained: with --weights, "
            "--preset, or --mpp 0.5, which this slide has",
        ]
    assert run_app(["info", slide, "--mpp", "0.25"]) == 1
    assert "for the default" not in capsys.readouterr().out


@pytest.mark.parametrize(("mpp", "said"), [(0.499, 0.5), (0.2276, 0.2276), (1.02, 1.0)])
def test_nominal_mpp(mpp: float, said: float) -> None:
    assert nominal_mpp(mpp) == said


def test_info_without_mpp_says_what_it_can_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.full((160, 200, 3), (200, 60, 160), np.uint8)
    slide = write_pyramid(tmp_path / "without.tif", pixels, mpp=None)
    assert run_app(["info", str(slide)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"without  {slide}",
        "  format     generic-tiff",
        "  size       200 x 160 px",
        "  mpp        not stated",
        "  objective  not stated",
        "  level 0    200 x 160 px, 1:1",
        "  level 1    100 x 80 px, 1:2",
        "  level 2    50 x 40 px, 1:4",
        "  unusable   the file has no plausible micrometers per pixel (mpp)",
        "  fix        give --slide-mpp, or a column mpp in the manifest",
    ]
    fixed = ["--slide-mpp", "1", "--mpp", "1", "--tissue", "all", "--patch-px", "64"]
    assert run_app(["info", str(slide), *fixed]) == 0
    assert "1 um/px, from: assumed (slide_mpp)" in capsys.readouterr().out


def test_info_of_no_tissue_and_of_one_pixel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    white = np.full((1, 1, 3), 255, np.uint8)
    slide = write_pyramid(tmp_path / "one.tif", white, mpp=1.0, downsamples=(1,))
    grid = ["--mpp", "1", "--patch-px", "64"]
    assert run_app(["info", str(slide), *grid]) == 1
    said = capsys.readouterr().out
    assert "  to predict 0 of 1 patch\n" in said
    assert "  unusable   no tissue of at least 0.05 mm2 found\n" in said
    assert run_app(["info", str(slide), *grid, "--tissue", "all"]) == 0
    assert "  heatmap    1 x 1 px of 16 um/px: probability" in capsys.readouterr().out


def test_info_of_real_slides(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wsi = shared_data / "wsi"
    names = ("CMU-1-Small-Region.svs", "boxes.tiff", "broken.svs", "unreadable.svs")
    slides = [str(wsi / name) for name in names]
    assert run_app(["info", *slides, "--mpp", "0.5"]) == 1
    said = capsys.readouterr().out
    real, boxes, broken, unreadable = re.split(r"^(?=\S)", said, flags=re.M)[1:]
    assert "  format     aperio\n" in real
    assert "  mpp        0.499 um/px, from: file\n  objective  20x\n" in real
    assert "level 0 as it is: 0.499 um/px for 0.5 asked" in real
    assert "  to predict 20 of 20 patches, in 1 chunk\n" in real
    assert "  level 3    37 x 31 px, 1:8.086\n  unusable   the file has no" in boxes
    assert "  unusable   broken.svs: a text file, not a slide" in broken
    assert "  size       16 x 16 px\n" in unreadable
    assert "cannot be read at (0, 0): Bogus marker length" in unreadable


# run, prepare and segment.


@dataclass(frozen=True)
class Prepared:
    """A run that was prepared and then segmented, and what was said of each."""

    cohort: Path
    config: Path
    run: RunDirectory
    codes: tuple[int, int]
    said: tuple[str, str]


@pytest.fixture(scope="module")
def prepared(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """One slide that works and one of no mpp, on two networks."""
    folder = tmp_path_factory.mktemp("prepared")
    cohort, config = folder / "slides", folder / "config.toml"
    cohort.mkdir()
    write_slide(cohort / "good.tif")
    pixels = np.full((160, 200, 3), (200, 60, 160), np.uint8)
    write_pyramid(cohort / "no_mpp.tif", pixels, mpp=None)
    # Of the paper's kind: the size of their heatmaps' files is held to the estimate.
    deep = {"architecture": "Unet", "encoder": "resnet18", "weights": "random"}
    members = [{**m, **deep} for m in SMALL["members"]]
    # One reader: Ray warns of more readers than there are shards to read.
    own = {"members": members, "compute": {"readers": 1}}
    config.write_text(tomli_w.dumps(merge(SMALL, own)))
    run = RunDirectory(folder / "run")
    prepare = ["prepare", str(cohort), "--config", str(config), "--out", str(run.root)]
    codes, said = [], []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for command in (prepare, ["segment", str(run.root)]):
            heard = io.StringIO()
            patch.setattr(sys, "stdout", heard)
            codes.append(run_app(command))
            said.append(heard.getvalue())
    return Prepared(cohort, config, run, tuple(codes), tuple(said))


@on_ray
def test_prepare_shows_masks_and_names_the_next_step(prepared: Prepared) -> None:
    root = prepared.run.root
    assert prepared.codes[0] == 1
    assert prepared.said[0].splitlines()[-7:] == [
        "prepare: 2/2 slides",
        "failed no_mpp at prepare: "
        "the file has no plausible micrometers per pixel (mpp)",
        "   fix: give --slide-mpp, or a column mpp in the manifest",
        "1 of 2 slides prepared, 1 failed; 24 patches",
        "flag      little tissue: 1 slide (good)",
        f"masks     {root}/masks/*_overlay.jpg",
        f"next      digipath segment {root}",
    ]


@on_ray
def test_segment_finishes_and_keeps_what_could_not_be_prepared(
    prepared: Prepared,
) -> None:
    run, said = prepared.run, prepared.said[1]
    assert prepared.codes[1] == 1
    assert read_heatmap(run.heatmap("good")).channels == (
        "probability",
        "aleatoric",
        "epistemic",
    )
    (failure,) = pq.read_table(run.failures).to_pylist()
    assert (failure["slide_id"], failure["step"]) == ("no_mpp", "prepare")
    assert "failed no_mpp at prepare: the file has no plausible micrometers" in said
    assert "1 of 2 slides finished, 1 failed\n" in said
    assert re.search(r"^24 patches, [0-9.]+/s; batches 100% full; busy: ", said, re.M)
    assert "note      untrained members: not a prediction\n" in said
    assert "2 networks x 2 transforms on 4 CPU cores\n" in said
    assert f"pictures  {run.root}/overlays/*.png\n" in said
    assert f"heatmaps  {run.root}/heatmaps/*.ome.tiff  (pyramids of values)\n" in said
    assert f"tables    {run.outcomes}, failures.parquet\n" in said


@on_ray
def test_run_again_does_nothing_again(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(prepared.run.root, run.root)
    stamp = run.done("good").stat().st_mtime_ns
    assert run_app(["segment", str(run.root)]) == 1
    assert "1 of 2 slides finished (1 was already), 1 failed" in (
        capsys.readouterr().out
    )
    command = ["run", str(prepared.cohort / "good.tif"), "--out", str(run.root)]
    assert run_app([*command, "--config", str(prepared.config)]) == 0
    assert (
        "1 of 1 slide finished (1 was already), 0 failed\n" in capsys.readouterr().out
    )
    assert run.done("good").stat().st_mtime_ns == stamp


# plan.


@on_ray
def test_plan_counts_what_prepare_places_and_leaves_nothing_behind(
    prepared: Prepared,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slide = str(prepared.cohort / "good.tif")
    command = ["plan", slide, "--config", str(prepared.config), "--out", str(tmp_path)]
    assert run_app([*command, "--rate", "0.001", "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    assert "slides    1 with 0.0 mm2 of tissue\n" in said
    assert "patches   24 of 64 px every 32 px at 1 um/px\n" in said
    # 24 patches at one per 1000 s are 24,000 s.
    assert "time      6.67 GPU hours at 0.001 patches/s: 3.3 h on 2 GPUs\n" in said
    assert "disk      about 3.0 MB of results; " in said
    assert list(tmp_path.iterdir()) == []

    assert run_app(["plan", str(prepared.cohort), *command[2:]]) == 1
    said = capsys.readouterr().out
    assert "failed no_mpp at prepare: the file has no plausible micrometers" in said
    assert "time      give --rate, the patches/s of one GPU" in said

    unusable = str(prepared.cohort / "no_mpp.tif")
    assert run_app(["plan", unusable, *command[2:], "--rate", "60"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "nothing to plan: the slide cannot be used"
    )

    (tmp_path / "slides").mkdir()
    manifest, options = contradicted(tmp_path / "slides")
    assert run_app(["plan", manifest, *options, "--out", str(tmp_path)]) == 0
    assert "flag      mpp differs from file: 1 slide (a)\n" in capsys.readouterr().out


@on_ray
def test_planned_bytes_are_those_of_a_real_heatmap(prepared: Prepared) -> None:
    table = pq.read_table(prepared.run.patches("good"))
    cells = np.stack([table["row"].to_numpy(), table["col"].to_numpy()], axis=1)
    blocks = {(r + i, c + j) for r, c in cells.tolist() for i in (0, 1) for j in (0, 1)}
    heatmap = read_heatmap(prepared.run.heatmap("good"))
    covered = int((heatmap.weight > 0).sum())
    side = 8  # of a block, 32 model px at downsample 4
    inside = np.zeros(heatmap.weight.shape, bool)
    for row, col in blocks:
        inside[row * side : (row + 1) * side, col * side : (col + 1) * side] = True
    assert covered == inside.sum()
    assert cost.FILE_BYTES_PER_BYTE == 0.88
    file_bytes = prepared.run.heatmap("good").stat().st_size
    # The file is small: its header of 2 KB is not what the estimate is about.
    assert (file_bytes - 2048) / (covered * 3 * 4 * 4 / 3) == pytest.approx(
        0.8, abs=0.2
    )


COST = Cost(
    slides=10,
    patches=1000,
    tissue_mm2=100.0,
    heatmap_bytes=100 * 2.0**30,
    largest_bytes=1 << 20,
    chunk_bytes=1e6,
)


def test_plan_refuses_what_the_disk_cannot_hold() -> None:
    grid = {"mpp": 0.5, "patch_px": 1024, "stride_px": 512, "downsample": 1}
    config = config_as_known({"grid": grid})
    assert refuse_disk(COST, config, free_bytes=101 << 30) is None
    assert refuse_disk(COST, config, free_bytes=7 << 30) == (
        "the results need about 100.0 GB and 7.0 GB are free: --downsample 4 takes "
        "6.3 GB; or free some space, or choose another disk with --out"
    )
    odd = config_as_known({"grid": {**grid, "patch_px": 1022, "stride_px": 511}})
    assert refuse_disk(COST, odd, free_bytes=7 << 30) == (
        "the results need about 100.0 GB and 7.0 GB are free: free some space, or "
        "choose another disk with --out"
    )


def test_time_of_a_night() -> None:
    assert "give --rate" in format_time(1000, Pace())
    assert format_time(36_000, Pace(rate=10.0)) == (
        "1 GPU hours at 10 patches/s: 60 min on 1 GPU"
    )
    on_cpu = Pace(rate=0.5, gpus=4, device="CPU")
    assert format_time(1800, on_cpu) == "1 CPU hours at 0.5 patches/s: 60 min on 1 CPU"
    assert format_time(20, Pace(rate=60, gpus=4)) == (
        "1 GPU minute at 60 patches/s: under a second on 4 GPUs"
    )
    assert format_time(10**8, Pace(rate=10, gpus=8)) == (
        "2,778 GPU hours at 10 patches/s: 347.2 h on 8 GPUs"
    )


def test_rate_and_measure_are_one_or_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = str(write_slide(tmp_path / "a.tif"))
    assert run_app(["plan", slide, "--rate", "1", "--measure"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_measured_rate_is_of_patches_that_all_members_have_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock of one second a look: it starts at 0, one batch of 4 is over at 1, and
    # the rate is taken at 2, however many networks were asked.
    config = small_config()
    for members in (config.members, config.members[:1]):
        seconds = itertools.count()
        monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))  # noqa: B023
        rate = measure_rate(replace(config, members=members), device="cpu", seconds=1.0)
        assert rate == pytest.approx(4 / 2)


# compare.


@on_ray
def test_compare_a_run_with_itself(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(prepared.run.root)
    assert run_app(["compare", root, root, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^good +probability +0 +0 +1 +1 ", said, re.M)
    assert "2 slides; Dice at probability 0.5\n" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "comparison.parquet",
        "good.png",
    ]
    table = pq.read_table(tmp_path / "out" / "comparison.parquet")
    assert table["dice"].to_pylist() == [1.0, None, None, None]


@on_ray
def test_compare_takes_the_runs_threshold(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(prepared.run.root, other)
    settings = RunDirectory(other).settings
    tree = tomllib.loads(settings.read_text())
    tree["outcome"]["threshold"] = 0.4
    settings.write_text(tomli_w.dumps(tree))
    assert run_app(["compare", str(other), str(other)]) == 0
    assert "Dice at probability 0.4" in capsys.readouterr().out
    command = ["compare", str(prepared.run.root), str(other)]
    assert run_app(command) == 2
    assert "made with threshold 0.5 and " in capsys.readouterr().err
    assert run_app([*command, "--threshold", "0.3"]) == 0
    assert "Dice at probability 0.3" in capsys.readouterr().out


# doctor.


@pytest.mark.ray
@pytest.mark.slow
def test_doctor_looks_at_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["doctor", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    for what in (
        "openslide",
        "torch",
        "smp",
        "onnx",
        "ray",
        "cores",
        "memory",
        "shared memory",
    ):
        assert re.search(rf"^(  ok|warn)  {what} ", said, re.M)
    assert re.search(r"^  ok  openslide +\S+, reads a test slide$", said, re.M)
    assert re.search(r"  ray +\S+ runs a task; 1 node, ", said)
    assert f" free at {tmp_path}/run" in said
    assert not (tmp_path / "run").exists()


def test_doctor_says_where_onnx_networks_run() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    verdict, what, found = doctor.check_onnx()
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert what == "onnx"
    assert f"{onnxruntime.__version__}" in found
    assert verdict == "ok" or not gpu


def test_doctor_fails_where_a_run_would(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    verdict, what, found = doctor.check_run_folder(tmp_path / "file" / "run")
    assert (verdict, what) == ("fail", "run directory")
    assert found == f"{tmp_path}/file/run: check the disk and the path, then run again"


@pytest.mark.slow
def test_doctor_says_that_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    assert doctor.check_ray() == (
        "fail",
        "ray",
        "RAY_ADDRESS=nowhere: no address of the form HOST:PORT (as 10.0.0.1:6379); "
        "start it, or unset RAY_ADDRESS to run on this machine alone",
    )


def test_doctor_on_shared_memory_of_a_container(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "shm"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("this sandbox does not let mount a small disk")
    try:
        verdict, _, found = doctor.check_shared_memory(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert verdict == "warn"
    assert found.startswith(f"64.0 MB free in {place}, Ray's object store wants ")
    assert re.search(r"start the container with --shm-size=\d+g$", found)


def test_doctor_says_what_limits_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("digipath_ray.machine.CGROUP", tmp_path)
    monkeypatch.setattr("digipath_ray.machine.OWN_GROUPS", tmp_path / "own")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    assert doctor.check_cpus() == (
        "warn",
        "cores",
        f"0.5 (control group, {tmp_path}/cpu.max); a fast GPU wants about 8 to read "
        "for it",
    )
    assert doctor.check_memory() == (
        "warn",
        "memory",
        f"3.0 GB of 3.0 GB free (control group, {tmp_path}/memory.max); a large slide "
        "wants several GB",
    )


# Words.


def test_counts_and_sizes() -> None:
    assert [count(n, "patch") for n in (0, 1, 12_345)] == [
        "0 patches",
        "1 patch",
        "12,345 patches",
    ]
    assert count(2, "slide") == "2 slides"
    assert [size(n) for n in (0, 900, 5 << 20, 3 << 30)] == [
        "0 KB",
        "1 KB",
        "5.0 MB",
        "3.0 GB",
    ]
