"""Runs that are killed, in part or as a whole, lose no finished slide and end whole."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tomli_w

from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.toml import to_tree
from digipath_ray.distributed import run as night
from digipath_ray.distributed.collector import try_finish
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.run import run_cohort
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.listeners import Tally
from tests.runs import (
    RAY_WARNINGS,
    hears,
    heatmaps,
    make_run,
    slow_config,
    stamps,
    wait_for_worker,
    workers,
    write_cohort,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings(RAY_WARNINGS),
]

ACTOR = f"MapWorker(MapBatches({PredictStage.__name__}))"
SLIDES = [f"s{i:02}" for i in range(6)]
DRIVER = """
import functools, sys
import ray
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.run import run_cohort
from digipath_ray.run.directory import RunDirectory
from tests.runs import slow_config

ray.init = functools.partial(ray.init, num_cpus=2, object_store_memory=200 << 20)
run_cohort(RunDirectory(sys.argv[2]), read_cohort([sys.argv[1]]), slow_config())
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[SlideRow]:
    return write_cohort(
        tmp_path_factory.mktemp("cohort") / "c", len(SLIDES), width=170, height=140
    )


@pytest.fixture(scope="module")
def undisturbed(
    ray_here: None, rows: list[SlideRow], tmp_path_factory: pytest.TempPathFactory
) -> RunDirectory:
    """The same run, made in one process."""
    return make_run(tmp_path_factory.mktemp("undisturbed"), rows, slow_config())


def assert_same_heatmaps(run: RunDirectory, other: RunDirectory) -> None:
    found, wanted = heatmaps(run), heatmaps(other)
    assert list(found) == list(wanted) == SLIDES
    for slide_id, heatmap in found.items():
        np.testing.assert_array_equal(heatmap.weight, wanted[slide_id].weight)
        np.testing.assert_allclose(heatmap.data, wanted[slide_id].data, atol=1e-6)


def start_driver(cohort: Path, root: Path) -> subprocess.Popen[bytes]:
    """A run with a Ray of its own, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(cohort), str(root)],
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def wait_until(condition, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_killed_run_goes_on_where_it_was(rows, undisturbed, tmp_path):
    run = RunDirectory(tmp_path / "run")
    cohort = Path(rows[0].path).parent / "cohort.csv"
    driver = start_driver(cohort, run.root)
    wait_until(lambda: len(run.read_done()) >= 2, seconds=120)
    family = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    # Its Ray goes with it, so nothing writes behind the back of the second start.
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    kept = stamps(run)
    assert 2 <= len(kept) < len(SLIDES)

    begun: list[int] = []
    listener = hears(planned=lambda slides, patches: begun.append(slides))
    summary = run_cohort(run, rows, slow_config(), listener=listener)

    assert begun == [len(SLIDES) - len(kept)]
    assert summary.skipped == len(kept)
    assert summary.failures == []
    assert [o["slide_id"] for o in summary.outcomes] == SLIDES
    after = stamps(run)
    assert {slide_id: after[slide_id] for slide_id in kept} == kept
    assert_same_heatmaps(run, undisturbed)


def test_a_lost_head_ends_a_run_with_its_own_status(rows, tmp_path, monkeypatch):
    """Ray would end it with 1, which says that all is done but some slides."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    run = RunDirectory(tmp_path / "run")
    config = tmp_path / "run.toml"
    # What is left after the first slide takes longer than the head is waited for.
    slow = slow_config(seconds=0.4)
    config.write_text(tomli_w.dumps(to_tree(slow)), "utf-8")
    main = "from digipath_ray.cli import main; main()"
    command = [sys.executable, "-c", main, "run", str(Path(rows[0].path).parent)]
    driver = subprocess.Popen(
        [*command, "--config", str(config), "--out", str(run.root), "--cpus", "2"],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(run.read_done()) >= 1, seconds=120)
    family = psutil.Process(driver.pid).children(recursive=True)
    (head,) = [p for p in family if p.name() == "gcs_server"]
    head.kill()
    _, words = driver.communicate(timeout=60)
    assert driver.returncode == 3, words
    assert "has not answered for 7 s" in words
    assert "give the same command" in words
    for process in family:  # Ray's take a minute to notice
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def test_a_finished_run_starts_nothing(rows, undisturbed, monkeypatch):
    def refuse() -> None:
        raise AssertionError("Ray was asked for")

    monkeypatch.setattr(night, "connected", refuse)
    before = stamps(undisturbed)
    summary = run_cohort(undisturbed, rows, slow_config())
    assert (summary.slides, summary.skipped, summary.failures) == (6, 6, [])
    assert [o["slide_id"] for o in summary.outcomes] == SLIDES
    assert stamps(undisturbed) == before


def test_another_config_is_refused_with_the_difference(rows, undisturbed):
    before = stamps(undisturbed)
    other = slow_config({"ensemble": {"tta": ["identity"], "blend": "linear"}})
    with pytest.raises(RunError) as caught:
        run_cohort(undisturbed, rows, other)
    message = str(caught.value)
    assert "ensemble.blend: mean -> linear" in message
    assert "ensemble.tta: ['identity', 'hflip'] -> ['identity']" in message
    assert "--overwrite" in message
    assert stamps(undisturbed) == before
    # Where and how fast it runs is no difference.
    faster = slow_config({"compute": {"pools": "per-member", "readers": 3}})
    assert run_cohort(undisturbed, rows, faster).skipped == len(SLIDES)


def test_a_slide_that_is_another_file_now_is_refused(rows, undisturbed, tmp_path):
    (tmp_path / "cohort.csv").write_text(f"slide_id,path\ns03,{rows[0].path}\n")
    with pytest.raises(RunError, match=r"s03 was finished from .*s03\.tif") as caught:
        run_cohort(undisturbed, read_cohort([tmp_path / "cohort.csv"]), slow_config())
    assert "s00.tif" in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_a_second_run_into_one_directory_is_refused(rows, undisturbed):
    with (
        undisturbed.lock(),
        pytest.raises(RunError, match=f"in use by process {os.getpid()}"),
    ):
        run_cohort(undisturbed, rows, slow_config())


class Killer:
    """Kills an actor of members in its work, and the first finish task's worker."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.actor: int | None = None
        self.finisher: int | None = None
        self.done_at_kill: list[str] | None = None
        # Ray may take its time to end those of an earlier run.
        self._others = {process.pid for process in workers(ACTOR)}
        self._thread = threading.Thread(target=self._kill_finisher)

    def actors(self) -> list[psutil.Process]:
        """Actors of this run."""
        return [p for p in workers(ACTOR) if p.pid not in self._others]

    def kill_actor(self, tally: Tally) -> None:
        """Told of the progress: kill the actor once patches have come."""
        if self.actor is None and tally.patches > 0:
            (process,) = self.actors()
            process.kill()
            self.actor = process.pid

    def _kill_finisher(self) -> None:
        process = wait_for_worker(try_finish.__name__, seconds=120)
        process.kill()
        self.finisher = process.pid
        process.wait(10)
        self.done_at_kill = list(self.run.read_done())

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def test_killed_workers_lose_nothing(rows, undisturbed, tmp_path):
    shutil.copytree(undisturbed.root, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    before = stamps(run)
    actors: set[int] = set()

    def note(tally: Tally) -> None:
        killer.kill_actor(tally)
        actors.update(p.pid for p in killer.actors())

    with Killer(run) as killer:
        summary = run_cohort(
            run, rows, slow_config(), overwrite=True, listener=hears(tallied=note)
        )
    assert summary.failures == []
    assert summary.skipped == 0
    assert killer.done_at_kill == []  # its slide had not been finished, and now is
    assert killer.finisher is not None
    assert len(actors - {killer.actor}) == 1  # another took the actor's place
    assert_same_heatmaps(run, undisturbed)
    after = stamps(run)
    assert all(after[i][0] > before[i][0] for i in SLIDES)  # --overwrite made all again
    assert summary.metrics["patches"] == sum(o["patches"] for o in summary.outcomes)
