"""What a job may use of its machine: affinity, control groups, schedulers, --cpus."""

import json
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from digipath_ray import machine
from digipath_ray.machine import (
    allowance,
    available_memory,
    group_folders,
    group_limit,
)

GB = 1 << 30
ALL = os.cpu_count() or 1
MEASURE = """
import json, os, sys
for file in sys.argv[1:]:
    open(file, "w").write(str(os.getpid()))
from digipath_ray.machine import allowance
print(json.dumps(vars(allowance())))
"""
START = """
import ray
from digipath_ray.distributed.connect import connected, describe_place
from digipath_ray.distributed.resources import divide
from tests.runs import small_config

with connected():
    share = divide(small_config())
    print(ray.cluster_resources()["CPU"], share.actors, share.actor_threads,
          share.readers)
    print(describe_place())
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up /sys/fs/cgroup; ``own`` in it is /proc/self/cgroup."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_the_least_along_the_path_counts(tree: Path) -> None:
    write(
        tree,
        {
            "own": "0::/slurm/job_1/step_0",
            "slurm/memory.max": str(64 * GB),
            "slurm/cpu.max": "800000 100000",
            "slurm/job_1/memory.max": str(3 * GB),
            "slurm/job_1/cpu.max": "150000 100000",
            "slurm/job_1/step_0/memory.max": "max",
            "slurm/job_1/step_0/cpu.max": "max 100000",
            "other/memory.max": "1",
        },
    )
    job = tree / "slurm/job_1"
    assert group_limit("memory") == (3 * GB, f"control group, {job}/memory.max")
    assert group_limit("cpu") == (1.5, f"control group, {job}/cpu.max")
    write(tree, {"slurm/job_1/step_0/memory.high": str(2 * GB)})
    assert group_limit("memory")[0] == 2 * GB


def test_groups_of_version_1(tree: Path) -> None:
    write(
        tree,
        {
            "own": "9:name=systemd:/\n4:memory:/job/a\n3:cpu,cpuacct:/job\n0::/",
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
            "memory/job/memory.limit_in_bytes": str(5 * GB),
            "memory/job/a/memory.limit_in_bytes": str(2**63 - 4096),
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
            "cpu/job/cpu.cfs_quota_us": "50000",
            "cpu/job/cpu.cfs_period_us": "100000",
        },
    )
    assert group_limit("memory")[0] == 5 * GB
    assert group_limit("cpu")[0] == 0.5


def test_a_container_sees_the_end_of_its_path_or_none(tree: Path) -> None:
    write(tree, {"own": "0::/docker/abc/inner", "inner/memory.max": str(GB)})
    assert tree / "inner" in list(group_folders("memory"))
    assert group_limit("memory")[0] == GB
    write(tree, {"own": "0::/../../elsewhere", "memory.max": str(2 * GB)})
    assert group_limit("memory")[0] == 2 * GB


def test_no_group_is_no_limit(tree: Path) -> None:
    assert group_limit("memory") == (math.inf, "")
    assert group_limit("cpu") == (math.inf, "")
    write(tree, {"own": "nonsense", "memory.max": "max", "cpu.max": "max 100000"})
    assert group_limit("memory") == (math.inf, "")
    assert group_limit("cpu") == (math.inf, "")
    assert allowance(environment={}).memory == psutil.virtual_memory().total


def test_free_memory_is_that_of_the_group(tree: Path) -> None:
    write(
        tree,
        {
            "own": "0::/job",
            "job/memory.max": str(2 * GB),
            "job/memory.current": str(GB + (GB >> 1)),
            "job/memory.stat": f"anon 5\ninactive_file {GB >> 2}",
        },
    )
    assert available_memory() == (GB >> 1) + (GB >> 2)


def test_what_the_scheduler_gave(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_cores", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))

    def given(**environment: str) -> tuple[float, str]:
        found = allowance(environment=environment)
        return found.cores, found.cores_by

    assert given() == (64, "")
    assert given(SLURM_CPUS_PER_TASK="4", SLURM_CPUS_ON_NODE="16") == (
        4,
        "SLURM_CPUS_PER_TASK",
    )
    assert given(SLURM_CPUS_ON_NODE="16") == (16, "SLURM_CPUS_ON_NODE")
    assert given(NSLOTS="3") == (3, "NSLOTS")
    for text in ("", "0", "all", "-4"):
        assert given(SLURM_CPUS_PER_TASK=text) == (64, "")
    memory = allowance(environment={"SLURM_MEM_PER_NODE": "1024"})
    assert (memory.memory, memory.memory_by) == (GB, "SLURM_MEM_PER_NODE")
    assert allowance(environment={"SLURM_MEM_PER_NODE": "0"}).memory_by == ""


def test_what_the_user_gave(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "machine_cores", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    slurm = {"SLURM_CPUS_PER_TASK": "4"}
    assert allowance(2, slurm).cores == 2
    assert allowance(6, slurm).cores == 6, "the user knows better than a variable"
    more = allowance(16, slurm)
    assert (more.cores, more.cores_by) == (8, "CPU affinity")
    assert more.note == "16 CPUs were asked for, this process may use 8"
    assert str(allowance(2, slurm)).startswith("2 of 64 CPU cores (--cpus), ")
    assert str(more).startswith("8 of 64 CPU cores (CPU affinity), ")


def measured(*files: Path, cpus: set[int] | None = None) -> dict[str, object]:
    """The allowance of a process that joins these groups, or has these CPUs."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(ALL < 2, reason="there is one CPU")
def test_cpu_affinity() -> None:
    one = {min(os.sched_getaffinity(0))}
    found = measured(cpus=one)
    assert (found["cores"], found["cores_by"]) == (1.0, "CPU affinity")


@pytest.fixture
def group() -> Iterator[tuple[Path, str]]:
    """A control group made here, and the name of its file with the limit."""
    for root, name in (
        (machine.CGROUP / "memory", "memory.limit_in_bytes"),
        (machine.CGROUP, "memory.max"),
    ):
        folder = root / f"digipath-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir()
        except OSError:
            continue
        if (folder / name).exists():
            yield folder, name
            folder.rmdir()
            return
        folder.rmdir()
    pytest.skip("this machine lets nobody make a control group for memory")


def test_a_group_made_here(group: tuple[Path, str]) -> None:
    folder, name = group
    inner = folder / "step"
    inner.mkdir()
    try:
        (folder / name).write_text(str(GB))
        found = measured(inner / "cgroup.procs")
    finally:
        inner.rmdir()
    assert (found["memory"], found["memory_by"]) == (
        GB,
        f"control group, {folder}/{name}",
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(ALL < 2, reason="there is one CPU")
def test_ray_readers_actors_and_threads_follow() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", cpu, sys.executable, "-c", START],
        env={**os.environ, "RAY_ADDRESS": "local"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    shares, place = done.stdout.splitlines()
    assert shares == "1.0 1 1 1"
    assert place.startswith(f"on 1 of {ALL} CPU cores (CPU affinity), ")
