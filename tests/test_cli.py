"""The command line as a user types it: what it takes, prints, makes and exits with."""

import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w
import typer

from digipath_ray import __version__
from digipath_ray.cli import doctor
from digipath_ray.cli.app import run_app
from digipath_ray.cli.options import config_as_known, with_config
from digipath_ray.cli.plan import Cost, Pace, measure_rate, refuse_disk, say_time
from digipath_ray.cli.words import count, size
from digipath_ray.config import PRESETS, Tree, load_config, merge, option_fields
from digipath_ray.heatmap import read_heatmap
from digipath_ray.rundir import RunDirectory
from tests.runs import RAY_WARNINGS, SMALL, small_config, write_slide
from tests.slides import write_pyramid

COMMANDS = ("run", "prepare", "segment", "demo", "info", "plan", "doctor", "compare")
WITH_CONFIG = ("run", "prepare", "info", "plan")
on_ray = (
    pytest.mark.ray,
    pytest.mark.filterwarnings(RAY_WARNINGS),
    pytest.mark.usefixtures("ray_here"),
)


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


@pytest.mark.parametrize("command", WITH_CONFIG)
def test_help_lists_every_field_with_its_default(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_app([command, "-h"]) == 0
    said = capsys.readouterr().out
    for section in ("slide", "tissue", "grid", "ensemble", "compute"):
        assert f" [{section}] " in said
    for name, (_, field, _) in option_fields().items():
        (line,) = [row for row in said.splitlines() if f"│ --{name.replace('_', '-')} " in row]
        if field.default is None:
            assert "[default" not in line
    assert "--mpp <float> um per model px [default: 0.25]" in plain(said)
    assert "--exclude-ink --no-exclude-ink <bool> drawn ink is not tissue" in plain(said)
    assert "rot270, hflip, vflip; or all [default: identity]" in plain(said)
    for name in ("--magnification", "--overlap-px", "--preset", "--config"):
        assert name in said


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
        ("run", "Missing argument 'SLIDES'"),
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
    timer = threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    assert run_app(["run", "a.svs", "--config", str(pipe), "--out", "x"]) == 130
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "Interrupted: the same command goes on from what is finished\n"
    )


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


def tree_of(*arguments: str) -> Tree:
    """What the options of a command make of a command line."""
    found: list[Tree] = []

    def show(*, tree: Tree) -> int:
        found.append(tree)
        return 0

    app = typer.Typer(
        context_settings={"token_normalize_func": lambda t: t.replace("_", "-")}
    )
    app.command()(with_config(show))
    with pytest.raises(SystemExit) as end:
        app(list(arguments))
    assert end.value.code == 0
    return found[0]


OTHER: dict[str, tuple[str, Any]] = {
    "slide_mpp": ("0.5", 0.5),
    "edge": ("reflect", "reflect"),
    "tissue": ("paip", "paip"),
    "tta": ("identity,rot90", ["identity", "rot90"]),
    "blend": ("linear", "linear"),
    "pools": ("per-member", "per-member"),
    "precision": ("float32", "float32"),
    "gpus_per_actor": ("0.5", 0.5),
    "min_saturation": ("0.25", 0.25),
    "threshold": ("0.25", 0.25),
}


@pytest.mark.parametrize("name", option_fields())
def test_every_field_is_an_option(name: str) -> None:
    section, field, _ = option_fields()[name]
    option = f"--{name.replace('_', '-')}"
    if isinstance(field.default, bool):
        assert tree_of(option)[section] == {name: True}
        assert tree_of(f"--no-{option[2:]}")[section] == {name: False}
        return
    text, value = OTHER.get(name, ("32", 32))
    assert tree_of(option, text)[section] == {name: value}
    assert tree_of(f"--{name}", text)[section] == {name: value}  # underscores too


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
    grid = tree_of("--config", str(path), "--overlap_px", "128", "--magnification", "20")
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
    options += " --open-um 5 --dilate-um 10 --min-tissue-mm2 0.0005 --tta all"
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
        "  read       level 1 as it is: 1 um/px for 1 asked",
        "  patches    64 px every 32 px",
        "  tissue     0.02 mm2 (otsu)",
        "  flags      little tissue",
        "  to predict 24 of 24 patches, in 1 chunk",
        "  heatmap    50 x 38 px of 4 um/px: probability, aleatoric, and epistemic "
        "with several members",
    ]


def test_info_without_mpp_says_what_it_can_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = read_pixels = write_slide(tmp_path / "with.tif", mpp=1.0)
    del read_pixels
    slide = write_pyramid(tmp_path / "without.tif", tissue_pixels(pixels), mpp=None)
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
        "  unusable   the file states no micrometers per pixel (mpp) that a "
        "microscope has",
        "  fix        give --slide-mpp, or a column mpp in the manifest",
    ]
    fixed = ["--slide-mpp", "1", "--mpp", "1", "--tissue", "all", "--patch-px", "64"]
    assert run_app(["info", str(slide), *fixed]) == 0
    assert "1 um/px, from: assumed (slide_mpp)" in capsys.readouterr().out
