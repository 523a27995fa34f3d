"""Memory of this machine or its container, and free disk space."""

import math
import shutil
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


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
