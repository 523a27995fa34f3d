"""A short campaign of faults, and proof that the campaign sees what is lost."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from digipath_ray.heatmap.file import read_heatmap, write_heatmap
from digipath_ray.run.checksums import seal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.schema import FAILURES
from digipath_ray.storage.files import file_digest
from tests.chaos.campaign import run_seed
from tests.chaos.checks import check_processes, check_run
from tests.chaos.cohort import SICK, Cohort, build_cohort, fresh_copy
from tests.chaos.faults import FAULTS, Planned, draw_schedule
from tests.chaos.work import Runs

SLIDES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Cohort:
    return build_cohort(folder / "cohort", SLIDES)


@pytest.mark.ray
@pytest.mark.slow
def test_a_short_campaign_loses_nothing(folder: Path) -> None:
    schedule = [
        Planned("kill-member", 0.5, busy=True),
        Planned("slide-cut", 0.5, busy=False),
        Planned("driver-killed", 0.5, busy=True),
        Planned("driver-terminated", 1.0, busy=True),
    ]
    outcome = run_seed(0, Runs(folder / "runs", SLIDES), schedule)
    assert outcome.wrong == []
    assert [one.name for one in outcome.struck] == [p.name for p in schedule]
    assert outcome.injections >= 3
    assert outcome.starts >= 2


def test_a_seed_draws_one_schedule() -> None:
    assert draw_schedule(3, 50, None) == draw_schedule(3, 50, None)
    assert draw_schedule(3, 50, None) != draw_schedule(4, 50, None)
    drawn = {p.name for seed in range(40) for p in draw_schedule(seed, 12, None)}
    assert drawn == FAULTS.keys()
    assert {p.name for p in draw_schedule(0, 9, ["disk-full"])} == {"disk-full"}


@pytest.fixture
def ended(cohort: Cohort, tmp_path: Path) -> tuple[Cohort, RunDirectory]:
    """A run that has ended as it should, made in one process."""
    own = fresh_copy(cohort, tmp_path / "cohort")
    shutil.copytree(cohort.folder / "truth", tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    for slide_id in run.finished_ids():
        if slide_id not in own.healthy:
            run.forget(slide_id)
    shutil.copy(own.manifest, run.manifest)
    failed = [
        Failure(
            slide_id=slide_id, path="", patient_id=None, step="read", attempt=1,
            error=f"it is {word}", hint="",
        )
        for slide_id, word in SICK.items()
    ]  # fmt: skip
    run.write_table(run.failures, [vars(f) for f in failed], FAILURES)
    seal(run)
    return own, run


def wrong_of(ended: tuple[Cohort, RunDirectory]) -> list[str]:
    """What is found, but that nobody wrote tables anew of so few slides."""
    tables = ("verify: outcomes", "verify: features", "verify: patients")
    cohort, run = ended
    return [w for w in check_run(cohort, run.root) if not w.startswith(tables)]


def test_an_undisturbed_run_is_whole(ended: tuple[Cohort, RunDirectory]) -> None:
    assert wrong_of(ended) == []


def test_a_lost_slide_is_seen(ended: tuple[Cohort, RunDirectory]) -> None:
    ended[1].forget("s01")
    assert "s01 is healthy, and not finished" in wrong_of(ended)


def change(run: RunDirectory, *, weight: float, probability: float) -> None:
    heatmap = read_heatmap(run.heatmap("s02"))
    heatmap.weight[...] *= weight
    heatmap.probability[heatmap.covered] *= probability
    write_heatmap(run.heatmap("s02"), heatmap, name="s02")
    record = run.read_record("s02")
    files = {**record.files, "heatmap": file_digest(run.heatmap("s02"))}
    run.write_record(replace(record, files=files))
    seal(run)


def test_patches_counted_twice_are_seen(ended: tuple[Cohort, RunDirectory]) -> None:
    change(ended[1], weight=2, probability=1)
    assert "s02: its patches were not counted once" in wrong_of(ended)


def test_another_heatmap_is_seen(ended: tuple[Cohort, RunDirectory]) -> None:
    change(ended[1], weight=1, probability=0.9)
    assert "s02: its heatmap is another" in wrong_of(ended)


def test_another_reason_and_another_failure_are_seen(
    ended: tuple[Cohort, RunDirectory],
) -> None:
    run = ended[1]
    failures = run.read_failures()
    other = replace(failures[0], slide_id="s03", error="lost")
    changed = replace(failures[0], error="no idea")
    rows = [vars(f) for f in (changed, *failures[1:], other)]
    run.write_table(run.failures, rows, FAILURES)
    found = wrong_of(ended)
    assert f"{failures[0].slide_id}: fails with 'no idea'" in "\n".join(found)
    assert "s03 failed: lost" in found


def test_what_is_left_over_is_seen(ended: tuple[Cohort, RunDirectory]) -> None:
    path = ended[1].root / "masks" / ".writing-1.s00.png"
    path.touch()
    assert str(path) in wrong_of(ended)
    with subprocess.Popen(["sleep", "60"]) as process:
        found = list(check_processes([psutil.Process(process.pid)], seconds=0.1))
        process.kill()
    assert "is left: sleep 60" in found[0]


def test_a_replaced_slide_has_the_other_truth(cohort: Cohort, tmp_path: Path) -> None:
    own = fresh_copy(cohort, tmp_path)
    first = own.heatmap_of(own.healthy["s00"])
    shutil.copy(own.spare[0], own.healthy["s00"])
    other = own.heatmap_of(own.healthy["s00"])
    assert not np.array_equal(first.data, other.data)
