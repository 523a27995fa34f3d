"""Memory of this machine or its container, and free disk space."""

import ctypes
import math
import os
import shutil
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt, as its malloc.h numbers them."""


def container_memory() -> float:
    """Memory limit of the container in bytes; infinite if there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = CGROUP / name
        if path.exists() and (text := path.read_text().strip()).isnumeric():
            return int(text)
    return math.inf


def memory_bytes() -> float:
    """Memory of the machine or its container, whichever is less, in bytes."""
    return min(psutil.virtual_memory().total, container_memory())


def free_disk_bytes(path: Path) -> int:
    """Free bytes on the disk where ``path`` is or would be created."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next allocation (glibc alone).

    A network on a CPU allocates and frees the same large maps for each batch. By
    default glibc hands each back to the system, which clears its pages anew: a quarter
    to a third of the CPU time of the demo's networks (tests/benchmarks/kept_memory.py).
    """
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    )
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
