"""What this machine has: memory, also where a container limits it, and free disk."""

import math
import shutil
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def container_memory() -> float:
    """Bytes that the container allows; infinite where there is no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = CGROUP / name
        if path.exists() and (text := path.read_text().strip()).isnumeric():
            return int(text)
    return math.inf


def memory_bytes() -> float:
    """Memory of the machine, or of the container if that is less."""
    return min(psutil.virtual_memory().total, container_memory())


def free_disk_bytes(path: Path) -> int:
    """Free space where ``path`` is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
