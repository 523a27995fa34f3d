"""What this process may use: CPU cores, memory, disk space.

A scheduler, a container and a user each give less than the whole machine: by CPU
affinity, by the control groups (v1 and v2) that the process is in, of which the least
along the path counts, and by variables of the environment.
"""

import ctypes
import math
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from digipath_ray.words import size

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt, as its malloc.h numbers them."""
SCHEDULER_CPUS = (
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPUS_ON_NODE",
    "PBS_NCPUS",
    "NSLOTS",
    "LSB_DJOB_NUMPROC",
)
"""CPUs of a job: Slurm (the task's, else all on this node), PBS, Grid Engine, LSF."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What this process may use, and what says so.

    Attributes:
        cores: CPU cores; a fraction where a control group's quota is one.
        cores_by: what limits them, as ``CPU affinity``; empty if nothing does.
        memory: bytes.
        memory_by: as ``cores_by``.
        note: what was asked for and cannot be had.
    """

    cores: float
    cores_by: str = ""
    memory: int
    memory_by: str = ""
    note: str = ""

    def __str__(self) -> str:
        """As ``4 of 64 CPU cores (CPU affinity), 16.0 GB of 256.0 GB memory (...)``."""
        machine = psutil.virtual_memory().total
        cores = f"{self.cores:g} CPU core{'' if self.cores == 1 else 's'}"
        if self.cores_by:
            cores = f"{self.cores:g} of {machine_cores()} CPU cores ({self.cores_by})"
        memory = f"{size(self.memory)} memory"
        if self.memory_by:
            memory = f"{size(self.memory)} of {size(machine)} memory ({self.memory_by})"
        return f"{cores}, {memory}"


def machine_cores() -> int:
    """Cores of the whole machine."""
    return os.cpu_count() or 1


def allowance(
    cpus: int | None = None, environment: Mapping[str, str] | None = None
) -> Allowance:
    """What this process may use.

    Args:
        cpus: what the user allows; it takes the place of a scheduler's variable.
        environment: variables; None takes those of this process.
    """
    environment = os.environ if environment is None else environment
    cores, cores_by = _enforced_cores()
    note = ""
    if cpus is not None:
        if cpus > cores:
            note = f"{cpus} CPUs were asked for, this process may use {cores:g}"
        elif cpus < cores:
            cores, cores_by = cpus, "--cpus"
    else:
        for name in SCHEDULER_CPUS:
            text = environment.get(name, "").strip()
            if text.isdecimal() and int(text) > 0:
                if int(text) < cores:
                    cores, cores_by = int(text), name
                break
    memory, memory_by = float(psutil.virtual_memory().total), ""
    limit, by = group_limit("memory")
    if limit < memory:
        memory, memory_by = limit, by
    text = environment.get("SLURM_MEM_PER_NODE", "").strip()  # MB; 0 is all
    if text.isdecimal() and 0 < int(text) << 20 < memory:
        memory, memory_by = int(text) << 20, "SLURM_MEM_PER_NODE"
    return Allowance(
        cores=cores,
        cores_by=cores_by,
        memory=int(memory),
        memory_by=memory_by,
        note=note,
    )


def _enforced_cores() -> tuple[float, str]:
    """Cores that the system lets this process use, and what limits them."""
    cores, by = float(machine_cores()), ""
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cores:
        cores, by = float(len(os.sched_getaffinity(0))), "CPU affinity"
    limit, group = group_limit("cpu")
    return (limit, group) if limit < cores else (cores, by)


def group_limit(controller: str) -> tuple[float, str]:
    """The least limit of this process's control groups, and the file that sets it.

    Args:
        controller: ``cpu`` (cores) or ``memory`` (bytes).

    Returns:
        Infinite and an empty text if there is no limit.
    """
    least, by = math.inf, ""
    for folder in group_folders(controller):
        for name, limit in _limits(controller, folder):
            if limit < least:
                least, by = limit, f"control group, {folder / name}"
    return least, by


def group_folders(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process, from its own to the root."""
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        lines = []
    groups = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    v1 = [path for _, names, path in groups if controller in names.split(",")]
    v2 = [path for number, names, path in groups if number == "0" and not names]
    for root, paths in (
        (CGROUP / controller, v1),
        (CGROUP, v2),
        (CGROUP / "unified", v2),
    ):
        yield from _path_of(root, (paths or ["/"])[0])


def _path_of(root: Path, group: str) -> Iterator[Path]:
    """Folders from a group to its root; a container may see only the path's end."""
    parts = [part for part in group.split("/") if part not in ("", "..")]
    while parts and not (root / "/".join(parts)).is_dir():
        parts = parts[1:]
    for depth in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:depth])


def _limits(controller: str, folder: Path) -> Iterator[tuple[str, float]]:
    """The limits that a group's files set: of v2, and of v1."""
    if controller == "memory":
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isnumeric():
                yield name, int(text)
        return
    quota, _, period = _read(folder / "cpu.max").partition(" ")  # microseconds
    name = "cpu.max"
    if not quota:
        name = "cpu.cfs_quota_us"  # -1 without a limit
        quota, period = _read(folder / name), _read(folder / "cpu.cfs_period_us")
    if quota.isnumeric() and period.isnumeric() and int(period) > 0:
        yield name, int(quota) / int(period)


def _read(path: Path) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def processor_name() -> str:
    """What the CPU calls itself, as ``Intel(R) Xeon(R) Platinum 8480+``."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # no Linux
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> float:
    """Memory that this process may use, in bytes."""
    return allowance().memory


def available_memory() -> float:
    """Bytes of it that are free: on the machine, and in each control group."""
    free = float(psutil.virtual_memory().available)
    for folder in group_folders("memory"):
        limits = [limit for _, limit in _limits("memory", folder)]
        used = _read(folder / "memory.current") or _read(
            folder / "memory.usage_in_bytes"
        )
        if limits and used.isnumeric():
            # Cached files count as used, and go when memory is asked for.
            free = min(free, min(limits) - int(used) + _cached(folder))
    return max(0.0, min(free, memory_bytes()))


def _cached(folder: Path) -> int:
    """Bytes of files that a group has cached and would give up."""
    file = folder / "memory.stat"
    v1 = _counter(file, "total_inactive_file")
    return (_counter(file, "inactive_file") or 0) if v1 is None else v1


def check_compiler() -> str:
    """The C++ compiler that torch.compile would call.

    Raises:
        ValueError: there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise ValueError(
        f"--compile-networks needs a C++ compiler, and there is no {names[0]} on "
        f"{platform.node()}: apt-get install g++ (or name one in CXX), or leave "
        "--compile-networks out"
    )


def oom_kills() -> int:
    """How often the kernel has ended a process for memory, in this group or at all."""
    for folder in group_folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            if (kills := _counter(folder / name, "oom_kill")) is not None:
                return kills
    return _counter(Path("/proc/vmstat"), "oom_kill") or 0


def _counter(path: Path, name: str) -> int | None:
    """A named number of a file with one a line; None if it has none."""
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isnumeric():
            return int(value)
    return None


def free_disk_bytes(path: Path) -> int:
    """Free bytes on the disk where ``path`` is or would be created."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next allocation (glibc alone).

    A network on a CPU allocates and frees the same large maps for each batch. By
    default glibc hands each back to the system, which clears its pages anew: a third of
    the CPU time of the demo's networks (tests/benchmarks/cpu_networks.py).
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    )
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
