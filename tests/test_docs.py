"""Every command in the documentation exists, and is run here or in the test named."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from digipath_ray.cli import run_app
from digipath_ray.cli.app import app
from tests.old_runs import unpack_run
from tests.runs import RAY_WARNINGS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_HERE = {
    "digipath status run --watch",
    "digipath compare run run2 --out side-by-side",
    "digipath export run --format csv --out tables",
    "digipath export run --format geojson --out for-qupath",
    "digipath report run",
}
RUN_HERE_ON_RAY = {
    "digipath stage run --threshold 0.4 --min-lesion-um 50",
    "digipath burden run --refine-hull",
    "digipath burden run --threshold 0.4 --refine-hull",
}
TESTED = {
    "digipath bench": "test_plan_prices.py",
    "digipath burden": "test_old_runs.py",
    "digipath calibrate": "test_plan_prices.py",
    "digipath cohort": "test_datasets.py",
    "digipath demo": "test_demo.py",
    "digipath doctor": "test_cli.py",
    "digipath evaluate": "test_evaluate_masks.py",
    "digipath export": "test_export.py",
    "digipath import-weights": "test_original.py",
    "digipath info": "test_cli.py",
    "digipath mine": "test_mining.py",
    "digipath plan": "test_cli.py",
    "digipath prepare": "test_jobs.py",
    "digipath run": "test_old_runs.py",
    "digipath segment": "test_jobs.py",
    "digipath stage": "test_stage_cli.py",
    "digipath train": "test_demo.py",
    "digipath verify": "test_verify.py",
    "digipath weights": "test_inspect_weights.py",
    "digipath view": "test_viewer_serve.py",
    "pip install": "../.ci/run",
    "ray job": "test_jobs.py",
}
"""Commands that need large data or a server, run with small values elsewhere."""
NOT_RUN = {
    "python -m": "tests/test_fuzz.py runs it with fewer mutants",
    "python3 -m": ".ci/run makes its environment by the same line",
    "bash findings/NAME.sh": "downloads packages, so it is outside CI",
    "export RAY_AUTH_MODE=token": "an environment variable; tests/heads.py sets it",
    "pytest": "is what runs this",
    "rsync -a": "tests/test_privacy.py copies the same files",
    "ruff format": "CI runs it",
}


def commands() -> Iterator[str]:
    """Every command of a console block, without its comment."""
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
            for line in block.splitlines():
                for command in line.split("#")[0].split(" && "):
                    words = " ".join(command.split())
                    if words and not words.startswith((". ", "mypy", "ruff check")):
                        yield words


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_run_by_a_test_or_explained(command: str) -> None:
    prefix = " ".join(command.split()[:2])
    if command in RUN_HERE | RUN_HERE_ON_RAY or command in NOT_RUN:
        return
    if prefix in NOT_RUN or command.split()[0] in NOT_RUN:
        return
    assert prefix in TESTED, f"{command}: name the test that runs it"
    text = (ROOT / "tests" / TESTED[prefix]).read_text("utf-8")
    name = prefix.split()[1].replace("-", "[-_]")
    assert re.search(rf"\b{name}\b", text), f"{TESTED[prefix]}: {command}"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("digipath ")])
def test_options_in_the_documentation_exist(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed as on the command line, but not executed."""
    monkeypatch.chdir(tmp_path)
    first, *words = shlex.split(command)[1:]
    found = typer.main.get_command(app).commands[first]
    if first == "weights":
        found = found.commands[words.pop(0)]
    if first == "stage":  # "stage RUN" is "stage measure RUN"
        known = words[0] in found.commands
        found = found.commands[words.pop(0) if known else "measure"]
    found.make_context(first, words)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the commands name: a slide, a run, and another run of the same slides."""
    cohort, run = unpack_run(tmp_path)
    shutil.copy(cohort / "p_node_0.tif", tmp_path / "slide.svs")
    shutil.copytree(run, tmp_path / "run2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", sorted(RUN_HERE))
def test_the_commands_work(command: str) -> None:
    assert command in COMMANDS
    assert run_app(shlex.split(command)[1:]) == 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here", "folder")
@pytest.mark.filterwarnings(RAY_WARNINGS)
def test_the_commands_that_measure_again_work() -> None:
    for command in sorted(RUN_HERE_ON_RAY):
        assert command in COMMANDS
        assert run_app(shlex.split(command)[1:]) == 0
