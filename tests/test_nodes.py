"""Runs on several nodes that share nothing but a bucket, and that come and go."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.distributed import resources as cluster
from digipath_ray.distributed.inference import actor_pool
from digipath_ray.distributed.nodes import has_several_nodes
from digipath_ray.distributed.resources import divide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage import bucket
from digipath_ray.storage.files import place, read_table
from tests.buckets import Bucket
from tests.runs import RAY_WARNINGS, heatmaps, make_run, small_config, write_cohort
from tests.several_nodes import Event, Plan, environment, write_plan

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings(RAY_WARNINGS)]
ROOT = Path(__file__).parents[1]
SLIDES = [f"s{i:02}" for i in range(9)]
CHANGES = {"compute": {"chunk_cells": 4, "precision": "float32"}}
"""Five or six chunks a slide; on GPUs the members would be in half precision."""
Done = tuple[str, int]


@dataclass(kw_only=True)
class Report:
    """What happened in the cluster's process."""

    started: float
    ended: float
    failures: list[Any]
    metrics: dict[str, Any]
    happened: list[tuple[float, str, str]]
    notes: list[tuple[float, str, str, str, int]]

    def nodes(self, what: str) -> set[str]:
        """Where this was done."""
        return {node for _, node, kind, _, _ in self.notes if kind == what}

    def done(self, what: str) -> list[tuple[float, Done]]:
        """When this was done, to which slide and chunk."""
        return [(at, (s, c)) for at, _, kind, s, c in self.notes if kind == what]

    def readers(self) -> dict[str, set[str]]:
        """Slide -> nodes that read of it."""
        found: dict[str, set[str]] = {}
        for _, node, kind, slide_id, _ in self.notes:
            if kind == "read":
                found.setdefault(slide_id, set()).add(node)
        return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "cohort"
    write_cohort(folder, len(SLIDES))
    return folder


@pytest.fixture
def cohort_url(bucket_url: str, cohort: Path) -> str:
    """The cohort, which no node has fetched yet."""
    for path in cohort.iterdir():
        bucket.upload(path, place(bucket_url) / "cohort" / path.name)
    return f"{bucket_url}/cohort"


@pytest.fixture(scope="module")
def one_node(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same run in this process."""
    rows = read_cohort([cohort])
    out = tmp_path_factory.mktemp("one-node") / "run"
    return make_run(out, rows, small_config(CHANGES))


@pytest.fixture(scope="module")
def nodes_of_this_module(
    bucket_server: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["subprocess.Popen[str]"]:
    """The cluster, to which each test gives the nodes that it needs."""
    env = environment()
    script = "from tests.several_nodes import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path_factory.mktemp("caches"))],
        cwd=ROOT,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate()  # no more plans: it ends
    shutil.rmtree(env["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture
def on_nodes(
    nodes_of_this_module: "subprocess.Popen[str]",
    cohort_url: str,
    bucket_url: str,
    tmp_path: Path,
) -> Callable[..., Report]:
    """Runs the cohort on the cluster; what happened."""

    def run(
        nodes: Sequence[str], *events: Event, seconds: float = 0.0, **compute: Any
    ) -> Report:
        plan = Plan(
            cohort=cohort_url,
            out=f"{bucket_url}/run",
            report=str(tmp_path / "report.json"),
            folder=str(tmp_path),
            nodes=list(nodes),
            changes={"compute": {**CHANGES["compute"], **compute}},
            seconds=seconds,
            events=list(events),
        )
        write_plan(plan, tmp_path / "plan.json")
        cluster = nodes_of_this_module
        assert cluster.stdin
        assert cluster.stdout
        cluster.stdin.write(f"{tmp_path / 'plan.json'}\n")
        cluster.stdin.flush()
        assert "done\n" in iter(cluster.stdout.readline, ""), "its process has ended"
        return Report(**json.loads((tmp_path / "report.json").read_text()))

    return run


def assert_same(run: RunDirectory, other: RunDirectory) -> None:
    """The same tables, and heatmaps."""
    for path in ("slides", "outcomes"):
        found, wanted = (read_rows(getattr(r, path)) for r in (run, other))
        assert [row["slide_id"] for row in found] == SLIDES
        for row, same in zip(found, wanted, strict=True):
            for name, value in same.items():
                close = isinstance(value, float)
                assert row[name] == (pytest.approx(value, rel=1e-4) if close else value)
    maps, others = heatmaps(run), heatmaps(other)
    assert sorted(maps) == SLIDES
    for slide_id, heatmap in maps.items():
        np.testing.assert_allclose(heatmap.weight, others[slide_id].weight, rtol=1e-5)
        np.testing.assert_allclose(heatmap.data, others[slide_id].data, atol=1e-5)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A table's rows by slide, without the time that they took and the slide's path."""
    rows = read_table(path).to_pylist()
    apart = ("seconds", "path", "version")
    kept = [{k: v for k, v in row.items() if k not in apart} for row in rows]
    return sorted(kept, key=lambda row: str(row["slide_id"]))


HEAD = {"node:10.0.0.1": 1.0, "node:__internal_head__": 1.0, "memory": 16e9}


@pytest.mark.parametrize(
    ("have", "several"),
    [
        ({"CPU": 4.0}, False),
        ({**HEAD, "CPU": 8.0, "GPU": 1.0}, False),
        (HEAD, True),  # its nodes are still to come
        ({**HEAD, "node:10.0.0.2": 1.0, "CPU": 8.0}, True),
        ({**HEAD, "node:10.0.0.1": 2.0, "CPU": 8.0}, True),  # two on one machine
    ],
)
def test_a_cluster_has_nodes_beside_its_head(have, several):
    assert has_several_nodes(have) is several


@pytest.fixture
def cluster_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what Ray says: a head without CPUs, and nodes beside it."""

    def pretend(**have: float) -> None:
        told = {**HEAD, "node:10.0.0.2": 1.0, **have}
        monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: told)
        monkeypatch.setattr(cluster.ray, "available_resources", lambda: told)

    return pretend


def spread(**compute: Any) -> RunConfig:
    config = small_config(CHANGES)
    said = {"actors": None, **compute}
    return replace(config, compute=replace(config.compute, **said))


def test_pools_of_a_cluster_grow_unless_their_size_is_said(cluster_of):
    cluster_of(CPU=14.0, GPU=2.0)
    share = divide(spread())
    assert (share.actors, share.more_actors, share.more_readers) == (2, True, True)
    assert (share.reader_cpus, share.finish_cpus) == (0.99, 0.01), "one fits anywhere"
    pool = actor_pool(share, 50)
    assert (pool.min_size, pool.initial_size, pool.max_size) == (1, 2, 50)
    assert actor_pool(share, 1).max_size == 1, "no more than there is to do"

    share = divide(spread(actors=4, readers=6))
    assert (share.actors, share.more_actors) == (4, False)
    assert (share.readers, share.more_readers) == (6, False)
    pool = actor_pool(share, 50)
    assert (pool.min_size, pool.initial_size, pool.max_size) == (4, 4, 4)


def test_gpus_that_are_to_come_must_be_said(cluster_of, caplog):
    cluster_of(CPU=14.0)
    share = divide(spread())
    assert share.actor_gpus == 0
    assert not share.more_actors
    assert not share.more_readers
    assert "if nodes with GPUs will join, give --gpus-per-actor 1" in caplog.text
    caplog.clear()
    share = divide(spread(gpus_per_actor=1.0))
    assert (share.actors, share.actor_gpus, share.more_actors) == (1, 1.0, True)
    assert caplog.text == "", "it waits for them"


def test_a_head_whose_nodes_are_to_come_is_a_cluster(monkeypatch):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: HEAD)
    share = divide(spread(gpus_per_actor=1.0))
    assert (share.actors, share.more_actors, share.more_readers) == (1, True, True)
    assert share.actor_cpus == 1.0
    assert share.reader_cpus == 0.99
    assert share.finish_cpus == 0.01, "so none runs on the head"


def test_a_run_says_that_others_hold_the_gpus(cluster_of, monkeypatch, caplog):
    cluster_of(CPU=14.0, GPU=2.0)
    divide(spread())
    assert caplog.text == ""
    monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"CPU": 3.0})
    divide(spread())
    assert "all GPUs of the cluster are taken" in caplog.text


BLIND = """
import os, subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from digipath_ray.distributed.nodes import check_all_see
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError

cluster = Cluster()
cluster.add_node(num_cpus=1, include_dashboard=False)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
         "--num-cpus=1", f"--address={cluster.address}"]
apart = "mount -t tmpfs none " + sys.argv[1] + ' && exec "$@"'
node = subprocess.Popen(
    ["unshare", "-rm", "sh", "-c", apart, "sh", *start], stdout=subprocess.DEVNULL
)
while sum(n["Alive"] for n in ray.nodes()) < 2:
    assert node.poll() is None
    time.sleep(0.2)
for place in sys.argv[2], sys.argv[1] + "/run":
    os.makedirs(place, exist_ok=True)
    try:
        check_all_see(RunDirectory(place))
        print("seen by all", os.listdir(place))
    except RunError as e:
        print(e, os.listdir(place))
node.terminate()
node.wait()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_run_directory_that_a_node_does_not_see_is_refused(tmp_path):
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody mount a disk that others do not see")
    own, shared = tmp_path / "own", tmp_path / "shared"
    own.mkdir()
    env = environment()
    done = subprocess.run(
        [sys.executable, "-c", BLIND, str(own), str(shared)],
        cwd=ROOT,
        env=env,
        check=True,
        timeout=200,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(env["RAY_TMPDIR"], ignore_errors=True)
    seen, refused = done.stdout.splitlines()[-2:]
    assert seen == "seen by all []"
    assert refused.startswith(f"{own}/run is not seen by 1 of the cluster's nodes (")
    assert "on a path that all nodes share, or in a bucket" in refused
    assert refused.endswith("[]"), "nothing is left behind"


@pytest.mark.slow
def test_several_nodes_find_what_one_finds(
    bucket_server, on_nodes, bucket_url, cohort_url, one_node
):
    report = on_nodes(["cpu-0", "cpu-1", "gpu-0", "gpu-1"], seconds=0.1)
    assert report.failures == []
    assert_same(RunDirectory(f"{bucket_url}/run"), one_node)

    assert report.nodes("read") == {"cpu-0", "cpu-1"}
    assert report.nodes("predict") == {"gpu-0", "gpu-1"}
    assert report.nodes("finish") <= {"cpu-0", "cpu-1"}, "not on the head"

    # A slide goes to the node that prepares it and to the one that reads it. The last
    # are cut, so that no reader stands idle.
    where = cohort_url.rpartition("//")[2]
    fetched = [bucket_server.asked("GET", f"{where}/{i}.tif") for i in SLIDES]
    assert max(fetched) <= 3
    assert sum(fetched) <= 2.7 * len(SLIDES)
    cut = [i for i, nodes in report.readers().items() if len(nodes) > 1]
    assert len(cut) <= 2 * len(SLIDES) // 3


@pytest.mark.slow
def test_nodes_that_join_get_work(on_nodes, bucket_url, one_node):
    report = on_nodes(
        ["cpu-0"],
        Event(slides=0, join=["gpu-0", "cpu-1", "gpu-1"]),
        seconds=0.8,
        gpus_per_actor=1.0,
    )
    assert report.failures == []
    assert report.nodes("predict") == {"gpu-0", "gpu-1"}
    assert "cpu-1" in report.nodes("read") | report.nodes("finish")
    assert_same(RunDirectory(f"{bucket_url}/run"), one_node)


@pytest.mark.slow
def test_killed_nodes_cost_what_was_in_flight(on_nodes, bucket_url, one_node):
    report = on_nodes(
        ["cpu-0", "cpu-1", "gpu-0", "gpu-1"],
        Event(slides=1, kill="any"),
        Event(slides=3, kill="finishing"),
        Event(slides=5, kill="any"),
        seconds=0.5,
    )
    kills = [at for at, what, _ in report.happened if what == "kill"]
    assert len(kills) == 3
    assert report.failures == []
    run = RunDirectory(f"{bucket_url}/run")
    assert_same(run, one_node)
    outcomes = read_rows(run.outcomes)
    assert report.metrics["patches"] == sum(o["patches"] for o in outcomes)

    finished = {slide_id: at for at, (slide_id, _) in report.done("finished")}
    again = repeated(report.done("predict"))
    assert len(again) <= 6 * len(kills), report.happened
    for at, (slide_id, _) in again + repeated(report.done("read")):
        # A task whose answer has come, but not yet its end, is in flight to Ray.
        open_at = [k for k in kills if k < at and finished[slide_id] > k - 2]
        assert open_at, f"{slide_id} stood already: {report.happened}"


@pytest.mark.slow
def test_a_large_run_gives_way_to_a_small_one(on_nodes, bucket_url, one_node, tmp_path):
    report = on_nodes(
        ["cpu-0", "gpu-0", "gpu-1"], Event(slides=1, beside=1), seconds=1.0
    )
    small = json.loads((tmp_path / "report.json-beside").read_text())
    assert report.failures == small["failures"] == []
    assert small["ended"] < report.ended, "it did not wait for the large one"
    again = {slide_id for _, (slide_id, _) in repeated(report.done("predict"))}
    assert again <= {"s00"}, "who gives way has done its chunk; s00 is in both runs"
    assert_same(RunDirectory(f"{bucket_url}/run"), one_node)
    beside = RunDirectory(f"{bucket_url}/run-beside")
    mine, wanted = heatmaps(beside)["s00"], heatmaps(one_node)["s00"]
    np.testing.assert_allclose(mine.data, wanted.data, atol=1e-5)


def repeated(done: list[tuple[float, Done]]) -> list[tuple[float, Done]]:
    """What had been done before."""
    seen: Counter[Done] = Counter()
    found = []
    for at, what in done:
        if seen[what]:
            found.append((at, what))
        seen[what] += 1
    return found
