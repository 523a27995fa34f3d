"""``digipath doctor``: checks this machine, and names what to mend."""

import importlib.metadata
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from digipath_ray.distributed.surroundings import (
    STORE_MOST,
    STORE_SHARE,
    Finding,
    look_around,
    ray_folder,
)
from digipath_ray.machine import (
    allowance,
    available_memory,
    check_compiler,
    free_disk_bytes,
)
from digipath_ray.run.failure import explain_os_error
from digipath_ray.storage import bucket
from digipath_ray.storage.cache import default_cache
from digipath_ray.storage.files import is_url, place
from digipath_ray.words import count, redacted, size

GB = 2**30
COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}

RAY_START_S = 60
SPILL_FULL = 0.95
"""How full a disk may be for Ray to spill to it (local_fs_capacity_threshold)."""

RAY_SCRIPT = """
import ray
from digipath_ray.distributed.connect import connect
connect()
assert ray.get(ray.remote(num_cpus=0.1)(lambda: 2 + 2).remote()) == 4
have = ray.cluster_resources()
print("found:", ray.__version__, len(ray.nodes()), have.get("CPU", 0),
      have.get("GPU", 0), have.get("object_store_memory", 0))
"""


def examine(console: Console, out: Path) -> int:
    """Print every finding as it comes; 1 if one is a failure."""
    worst = 0
    for verdict, what, found in findings(out):
        color = COLORS[verdict]
        console.print(f"[{color}]{verdict:>4}[/]  {what:<14}{escape(redacted(found))}")
        worst = max(worst, int(verdict == "fail"))
    return worst


def findings(out: Path) -> Iterator[Finding]:
    """All findings, in the order in which a run would meet them."""
    checks: tuple[Callable[[], Finding], ...] = (
        check_openslide,
        check_torch,
        check_networks,
        check_onnx,
    )
    for check in checks:
        yield check()
    around = list(look_around())
    yield from around
    if not any(verdict == "fail" for verdict, *_ in around):
        yield check_ray()
    checks = (
        check_cpp,
        check_cpus,
        check_memory,
        check_shared_memory,
        lambda: check_run_folder(out),
        check_cache,
        check_spill_folder,
        check_open_files,
    )
    for check in checks:
        yield check()


def check_openslide() -> Finding:
    """Whether OpenSlide's library loads and reads a slide."""
    try:
        import openslide
        import tifffile

        from digipath_ray.slide.open import open_slide
    except (ImportError, OSError) as e:
        return "fail", "openslide", f"{e}: pip install openslide-python openslide-bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        gray = np.full((512, 512, 3), 128, np.uint8)
        tifffile.imwrite(path, gray, tile=(256, 256), photometric="rgb")
        with open_slide(path, mpp=1.0) as slide:
            ok = slide.info.format == "generic-tiff"
            ok = ok and bool((slide.read_level(0, 0, 0, 512, 512) == 128).all())
    version = openslide.__library_version__
    if not ok:
        return "fail", "openslide", f"{version}, but misreads a slide: reinstall it"
    if version.startswith(("3.", "4.0.0")):
        what = "swaps the mpp of x and y in DICOM, and fails where tiles are missing"
        fix = "pip install 'openslide-bin>=4.0.1.1'"
        return "warn", "openslide", f"{version}, which {what}: {fix}"
    return "ok", "openslide", f"{version}, reads a test slide"


def check_torch() -> Finding:
    """Whether torch computes, and on which GPUs."""
    import torch

    version = torch.__version__
    if not torch.cuda.is_available():
        why = "no GPU"
        if shutil.which("nvidia-smi"):
            build = (
                "is built without CUDA" if torch.version.cuda is None else "has CUDA"
            )
            why = f"a GPU is here but torch does not see it (it {build})"
        return "warn", "torch", f"{version}, {why}: networks run on the CPU, slowly"
    gpus = range(torch.cuda.device_count())
    try:
        for i in gpus:
            torch.ones(8, device=f"cuda:{i}").sum().item()
        memory = [torch.cuda.mem_get_info(i) for i in gpus]
    except RuntimeError as e:
        return "fail", "torch", f"{version} cannot use the GPU: {e}"
    names = ", ".join(sorted({torch.cuda.get_device_name(i) for i in gpus}))
    text = f"{version}, CUDA {torch.version.cuda}, {count(len(gpus), 'GPU')} ({names})"
    free, total = min(memory)
    text += f", {size(free)} of {size(total)} free"
    if free < total / 2:
        return "warn", "torch", f"{text}: something else is using it"
    return "ok", "torch", text


def check_networks() -> Finding:
    """Which smp builds the networks, and where ImageNet weights would come from."""
    version = importlib.metadata.version("segmentation-models-pytorch")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    where = "from the cache alone (HF_HUB_OFFLINE)" if offline else "from the hub"
    return "ok", "smp", f"{version}; ImageNet weights, if asked for, come {where}"


def check_onnx() -> Finding:
    """Whether members from ONNX files would run, and on the GPU if there is one."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        fix = "pip install onnxruntime, on GPUs onnxruntime-gpu"
        return "ok", "onnx", f"not installed; for networks from .onnx files: {fix}"
    version = onnxruntime.__version__
    gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if torch.cuda.is_available() and not gpu:
        fix = "pip uninstall onnxruntime, pip install onnxruntime-gpu"
        return "warn", "onnx", f"{version} has no CUDA: .onnx runs on the CPU: {fix}"
    return "ok", "onnx", f"onnxruntime {version}, on the {'GPU' if gpu else 'CPU'}"


def check_ray() -> Finding:
    """Whether Ray starts (or is joined) and runs a task; a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", RAY_SCRIPT],
            capture_output=True,
            text=True,
            timeout=RAY_START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        address = os.environ.get("RAY_ADDRESS")
        where = f"; RAY_ADDRESS is {address}: does Ray run there?" if address else ""
        return "fail", "ray", f"ran no task in {RAY_START_S} s{where}"
    lines = [line for line in done.stdout.splitlines() if line.startswith("found: ")]
    if done.returncode != 0 or not lines:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        return (
            "fail",
            "ray",
            lines[-1].removeprefix("digipath_ray.run.failure.RunError: "),
        )
    _, version, *numbers = lines[-1].split()
    nodes, cpus, gpus, store = (float(n) for n in numbers)
    text = (
        f"{version} runs a task; {count(int(nodes), 'node')}, "
        f"{count(int(cpus), 'CPU')}, {count(int(gpus), 'GPU')}, {size(store)} of "
        "object store"
    )
    if store < GB:
        return "warn", "ray", f"{text}: too little, chunks will be small and slow"
    return "ok", "ray", text


def check_cpp() -> Finding:
    """Whether --compile-networks would find a compiler."""
    try:
        return "ok", "compiler", f"{check_compiler()}, for --compile-networks"
    except ValueError as e:
        return "warn", "compiler", str(e)


def check_cpus() -> Finding:
    """Whether there are enough cores to feed a GPU."""
    allowed = allowance()
    cores = allowed.cores
    text = f"{cores:g}" + (f" ({allowed.cores_by})" if allowed.cores_by else "")
    if cores < 8:
        return "warn", "cores", f"{text}; a fast GPU wants about 8 to read for it"
    return "ok", "cores", text


def check_memory() -> Finding:
    """Whether memory is free, of what this process may use."""
    allowed, free = allowance(), available_memory()
    text = f"{size(free)} of {size(allowed.memory)} free"
    if allowed.memory_by:
        text += f" ({allowed.memory_by})"
    if free < 4 * GB:
        return "warn", "memory", f"{text}; a large slide wants several GB"
    return "ok", "memory", text


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Whether ``folder`` holds Ray's object store; a container's default is 64 MB."""
    if not folder.exists():
        return "ok", "store", f"in {ray_folder(os.environ)}"
    free = shutil.disk_usage(folder).free
    store = min(STORE_SHARE * available_memory(), STORE_MOST)
    text = f"{size(free)} free in {folder}"
    if free >= store:
        return "ok", "store", text
    return (
        "warn",
        "store",
        f"{text}, Ray's object store wants {size(store)}: it will use slower files in "
        f"{ray_folder(os.environ)}; "
        f"start the container with --shm-size={math.ceil(store / GB)}g",
    )


def check_run_folder(folder: Path) -> Finding:
    """Whether runs can be written there, and how much."""
    if is_url(folder):
        return check_bucket(folder)
    folder = folder.absolute()
    there = folder
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as probe:
            probe.write(bytes(1 << 20))
    except OSError as e:
        return "fail", "run directory", f"{folder}: {explain_os_error(e)}"
    free = free_disk_bytes(there)
    text = f"{size(free)} free at {folder}"
    if free < GB:
        return "fail", "run directory", f"{text}: too little for any cohort"
    if free < 20 * GB:
        return "warn", "run directory", f"{text}: see digipath plan for what you need"
    return "ok", "run directory", text


def check_bucket(folder: Path) -> Finding:
    """Whether a bucket can be written, and keeps two runs apart."""
    probe = place(folder) / f"doctor-{uuid.uuid4().hex}"
    try:
        etag = bucket.put_if(probe, b"1", etag=None)
        try:
            bucket.put_if(probe, b"2", etag=etag)
            bucket.put_if(probe, b"3", etag=etag)
        except FileExistsError:
            text = f"{probe.parent}: written and read; two runs are kept apart"
            return "ok", "run directory", text
        finally:
            probe.unlink()
    except OSError as e:
        return "fail", "run directory", f"{e}; {explain_os_error(e)}"
    text = f"{probe.parent}: the store puts over a version that is gone: one run only"
    return "warn", "run directory", text


def check_cache() -> Finding:
    """Where copies of a bucket's slides are kept, and how much of them."""
    try:
        cache = default_cache()
        cache.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, ValueError) as e:
        return "fail", "slide cache", f"{e}; name another folder in DIGIPATH_CACHE"
    limit = cache.limit()
    text = f"up to {size(int(limit))} at {cache.folder} (DIGIPATH_CACHE)"
    if limit < 20 * GB:
        return "warn", "slide cache", f"{text}: room for few slides of a bucket"
    return "ok", "slide cache", text


def check_spill_folder() -> Finding:
    """Whether Ray can put objects on disk when its memory is full."""
    folder = ray_folder(os.environ)
    there = folder if folder.exists() else folder.parent
    if not there.exists():
        return "fail", "spill folder", f"no {there}: set RAY_TMPDIR or TMPDIR"
    disk = shutil.disk_usage(there)
    full = 1 - disk.free / disk.total
    text = f"{size(disk.free)} free at {folder}, {full:.0%} full"
    if full > SPILL_FULL:
        advice = f"Ray spills nothing beyond {SPILL_FULL:.0%}: free space or set TMPDIR"
        return "warn", "spill folder", f"{text}; {advice}"
    return ("warn" if disk.free < 10 * GB else "ok"), "spill folder", text


def check_open_files() -> Finding:
    """Whether enough files may be open for Ray."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        return "warn", "open files", f"{soft} allowed; Ray wants more: ulimit -n 65536"
    return "ok", "open files", f"{soft} allowed"
