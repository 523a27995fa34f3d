"""``digipath doctor``: what will bite on this machine."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from digipath_ray.rundir import free_disk_bytes

GB = 2**30
Finding = tuple[str, str, str]
"""Verdict (ok, warn or fail), what was looked at, what was found."""


def examine(console: Console, out: Path) -> int:
    """Print every finding; 1 if one is a failure."""
    colors = {"ok": "green", "warn": "yellow", "fail": "red"}
    worst = 0
    for verdict, what, found in findings(out):
        color = colors[verdict]
        console.print(
            f"[{color}]{verdict:>4}[/]  {what:<14}{found}", highlight=False, markup=True
        )
        worst = max(worst, verdict == "fail")
    return worst


def findings(out: Path) -> Iterator[Finding]:
    """All findings, in the order in which a run would meet them."""
    checks: tuple[Callable[[], Finding], ...] = (
        check_openslide,
        check_torch,
        check_ray,
        check_cpus,
        check_memory,
        check_shared_memory,
        lambda: check_disk(out, "run directory"),
        lambda: check_disk(Path(tempfile.gettempdir()), "spill folder"),
        check_open_files,
        check_hub,
    )
    for check in checks:
        yield check()


def check_openslide() -> Finding:
    """Whether OpenSlide's library loads and reads a slide."""
    try:
        import openslide
        import tifffile

        from digipath_ray.slide import open_slide
    except (ImportError, OSError) as e:
        return "fail", "openslide", f"{e}: pip install openslide-python openslide-bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        gray = np.full((512, 512, 3), 128, np.uint8)
        tifffile.imwrite(path, gray, tile=(256, 256), photometric="rgb")
        with open_slide(path, mpp=1.0) as slide:
            ok = bool((slide.read_level(0, 0, 0, 512, 512) == 128).all())
    version = openslide.__library_version__
    return ("ok" if ok else "fail"), "openslide", f"{version}, reads a test slide"


def check_torch() -> Finding:
    """Whether torch sees a GPU."""
    import torch

    if not torch.cuda.is_available():
        return "warn", "torch", f"{torch.__version__}, no GPU: networks run on the CPU"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info()
    text = f"{torch.__version__}, CUDA {torch.version.cuda}, {', '.join(names)}; "
    text += f"{free / GB:.0f} of {total / GB:.0f} GB free on the first"
    return ("ok" if free > total / 2 else "warn"), "torch", text


def check_ray() -> Finding:
    """Whether Ray starts and runs a task, and where."""
    import ray

    from digipath_ray.distributed.cluster import connect

    try:
        connect()
        node = ray.get(ray.remote(num_cpus=0.1)(os.getpid).remote(), timeout=60)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError) as e:
        return "fail", "ray", f"does not run a task: {e}"
    have = ray.cluster_resources()
    store = have.get("object_store_memory", 0) / GB
    text = (
        f"{ray.__version__}, {len(ray.nodes())} node(s), {have.get('CPU', 0):g} CPUs, "
        f"{have.get('GPU', 0):g} GPUs, {store:.1f} GB object store"
    )
    return ("ok" if node and store > 1 else "warn"), "ray", text


def check_cpus() -> Finding:
    """Whether there are enough cores to feed GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    cores = cores or os.cpu_count() or 1
    few = cores < 8
    return (
        "warn" if few else "ok",
        "cores",
        f"{cores}" + ("; a fast GPU wants about 8 to read for it" if few else ""),
    )


def check_memory() -> Finding:
    """Whether memory is free."""
    memory = psutil.virtual_memory()
    text = f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    return ("ok" if memory.available > 4 * GB else "warn"), "memory", text


def check_shared_memory() -> Finding:
    """Whether /dev/shm holds Ray's object store; a container's default is 64 MB."""
    place = Path("/dev/shm")
    if not place.exists():
        return "warn", "shared memory", "no /dev/shm: Ray uses slower files in /tmp"
    free = shutil.disk_usage(place).free
    enough = free > 2 * GB
    advice = "" if enough else "; in a container start it with --shm-size=8g"
    return (
        "ok" if enough else "warn",
        "shared memory",
        f"{free / GB:.1f} GB free in {place}{advice}",
    )


def check_disk(folder: Path, name: str) -> Finding:
    """Whether a folder's disk has room."""
    free = free_disk_bytes(folder.absolute())
    verdict = "fail" if free < GB else "warn" if free < 20 * GB else "ok"
    return verdict, name, f"{free / GB:.1f} GB free at {folder.absolute()}"


def check_open_files() -> Finding:
    """Whether enough files may be open for Ray."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= 4096 or soft == resource.RLIM_INFINITY
    text = f"{soft} allowed" + ("" if enough else "; Ray wants more: ulimit -n 65536")
    return ("ok" if enough else "warn"), "open files", text


def check_hub() -> Finding:
    """Where ImageNet weights would come from."""
    version = importlib.metadata.version("segmentation-models-pytorch")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    where = "offline: only cached weights" if offline else "from the hub when asked for"
    return "ok", "smp", f"{version}, ImageNet weights {where}"
