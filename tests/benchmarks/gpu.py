"""What a GPU does with this package: one command, one JSON and one Markdown table.

    python -m tests.benchmarks.gpu --out FOLDER [--parts PART ...] [--tiny]

Nothing is fetched: weights are random and slides are drawn. Each part is a process of
its own, and the tables are written anew after each, so that what broke or was cut off
costs no more than itself. ``--tiny`` goes through all of it on a CPU in minutes; its
figures say nothing. See docs/gpu.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from numpy.typing import NDArray

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import MemberSpec, Precision, RunConfig
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import build_cohort, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.demo.fit_cohort import brief_slides
from digipath_ray.networks.posteriors import predict_blocks
from digipath_ray.networks.resolve import resolve
from digipath_ray.networks.weights import load_member
from digipath_ray.patches import share_blocks
from digipath_ray.training.directory import FitDirectory

Rows = list[dict[str, Any]]
MODES: dict[str, tuple[Precision, bool, bool]] = {
    "float32": ("float32", False, False),
    "tf32": ("float32", True, False),
    "float16": ("float16", True, False),
    "bfloat16": ("bfloat16", True, False),
    "compiled": ("float16", True, True),
    "compiled again": ("float16", True, True),
}
"""Name -> (precision, whether float32 products may round to TF32, compile). The last is
a new process that finds what the one before has compiled."""
CPU_MODES = ("float32",)


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        patch_px: side of a patch; the stride is half of it.
        batch: patches.
        cells: side of the square of patches that the bare networks predict at once.
        seconds: that a rate is measured for.
        side: of the slides, px.
        slides: in the run.
        epoch: patches of an epoch of training, of 256 px.
    """

    patch_px: int = 1024
    batch: int = 8
    cells: int = 8
    seconds: float = 10.0
    side: int = 20_000
    slides: int = 3
    epoch: int = 4000


TINY = Size(256, batch=2, cells=2, seconds=1.0, side=640, slides=2, epoch=32)


def has_gpu() -> bool:
    return torch.cuda.is_available()


def config_of(size: Size, **compute: Any) -> RunConfig:
    """The paper's three members, random weights, one transform."""
    overrides = {
        "grid": {
            "mpp": 1.0,
            "patch_px": size.patch_px,
            "stride_px": size.patch_px // 2,
        },
        "ensemble": {"tta": ["identity"]},
        "compute": {
            "batch_size": size.batch,
            "chunk_cells": size.cells**2,
            **compute,
        },
    }
    tree = load_config(preset="camelyon16", overrides=overrides)
    return resolve(tree, weights="random")


# Each part: what it measures as rows of a table.


def describe_machine(size: Size, work: Path, mode: str = "") -> Rows:
    """The card, and the versions that matter."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": commit(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "digipath_ray")},
    }
    if has_gpu():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": f"{torch.cuda.device_count()} x {card.name}",
            "memory": f"{card.total_memory / 2**30:.0f} GiB",
            "cuda": torch.version.cuda,
        }
    return [found]


def commit() -> str:
    """The commit that is measured, if git is there to say so."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def run_tests(size: Size, work: Path, mode: str = "") -> Rows:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "tests"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    return [{"status": done.returncode, "result": lines[-1] if lines else ""}]


def measure_networks(size: Size, work: Path, mode: str = "") -> Rows:
    """Each member in each mode, bare: a process for each mode."""
    rows: Rows = []
    modes = tuple(MODES) if has_gpu() else CPU_MODES
    for mode in modes:
        # What is compiled is kept here alone, so that the first time is a first time.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
        rows += call("mode", size, work, mode=mode, environment=environment)
    return rows


def measure_mode(size: Size, work: Path, mode: str) -> Rows:
    """Each member in one mode."""
    config = config_of(size)
    rows = []
    for spec in config.members:
        try:
            rows.append(
                {"mode": mode, **measure_member(spec, mode, config, size, work)}
            )
        except (RuntimeError, ValueError) as e:
            rows.append({"mode": mode, "member": spec.name, "error": str(e)[:200]})
    return rows


def measure_member(
    spec: MemberSpec, mode: str, config: RunConfig, size: Size, work: Path
) -> dict[str, Any]:
    """Seconds to the first batch, then patches/s, and how far it is from float32."""
    precision, tf32, compiled = MODES[mode]
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if has_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    member = load_member(
        spec,
        device="cuda" if has_gpu() else "cpu",
        precision=precision,
        compile_networks=compiled,
    )
    blocks, index = squares(config, size)

    def predict(patches: NDArray[np.int64]) -> NDArray[np.float32]:
        posterior, *_ = predict_blocks(
            member,
            blocks,
            patches,
            patch_px=config.grid.patch_px,
            tta=config.ensemble.tta,
            downsample=config.grid.downsample,
            batch_size=config.compute.batch_size,
            pad=has_gpu() or compiled,
        )
        return posterior

    posterior = predict(index[: size.batch])
    first = time.perf_counter() - started
    rate = rate_of(lambda: len(predict(index)), size.seconds)
    row = {"member": spec.name, "first_batch_s": first, "patches_per_s": rate}
    if has_gpu():
        row["memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
    reference = work / f"{spec.name}.npy"
    if not reference.exists():
        np.save(reference, posterior)
    difference = np.abs(posterior - np.load(reference))
    return {
        **row,
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
    }


def squares(config: RunConfig, size: Size) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A square of patches of drawn tissue: its blocks, and the blocks of each patch."""
    cells = np.argwhere(np.ones((size.cells, size.cells), bool)).astype(np.int32)
    positions, index = share_blocks(cells, config.grid.blocks_per_side)
    stride = config.grid.stride_px
    field = draw_field((size.cells + 1) * stride)
    corners = [(row * stride, col * stride) for row, col in positions.tolist()]
    blocks = [field[y : y + stride, x : x + stride] for y, x in corners]
    return np.stack(blocks), index


def draw_field(side: int) -> NDArray[np.uint8]:
    """Tissue and some glass [side, side, 3]: a drawn slide, repeated."""
    pixels, _ = draw_slide(brief_slides()[0])
    pixels = pixels[256:, 256:]
    repeats = [-(-side // n) for n in pixels.shape[:2]]
    return np.tile(pixels, (*repeats, 1))[:side, :side]


def rate_of(predict: Callable[[], int], seconds: float) -> float:
    """Patches/s of a call that says how many it predicted."""
    started, patches = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        patches += predict()
    return patches / passed


def measure_runs(size: Size, work: Path, mode: str = "") -> Rows:
    """Runs of a cohort through Ray, beside the bare networks in as many processes."""
    slides = work / "slides"
    slides.mkdir()
    write_pyramid(slides / "s0.tif", draw_field(size.side))
    for number in range(1, size.slides):
        # A link, not a symbolic one: those are one slide to a run.
        os.link(slides / "s0.tif", slides / f"s{number}.tif")
    return [
        row
        for pools in ("shared", "per-member")
        for row in call("pools", size, work, mode=pools)
    ]


def measure_pools(size: Size, work: Path, mode: str) -> Rows:
    """One run, and the bare rate before and after it."""
    from digipath_ray.distributed.bench import bare_rate
    from digipath_ray.distributed.connect import connected
    from digipath_ray.distributed.resources import divide
    from digipath_ray.distributed.run import run_cohort
    from digipath_ray.run.directory import RunDirectory

    config = config_of(size, pools=mode)
    with connected():
        # Bare, all members share a process, whichever pools the run has.
        together = config_of(size, pools="shared")
        before = bare_rate(together, divide(together), seconds=size.seconds)
        with watching_gpu() as watch:
            run = RunDirectory(work / f"run-{mode}")
            metrics = run_cohort(run, read_cohort([work / "slides"]), config).metrics
        after = bare_rate(together, divide(together), seconds=size.seconds)
        actors = divide(config).actors
    rate = metrics["patches_per_s"]
    return [
        {
            "pools": mode,
            "actors_per_pool": actors,
            "patches": metrics["patches"],
            "bare_per_s": statistics.mean([before, after]),
            "patches_per_s": rate,
            "of_bare": rate / statistics.mean([before, after]),
            "batch_fill": metrics["batch_fill"],
            "start_s": metrics["start_s"],
            "bottleneck": metrics["bottleneck"],
            **watch.row(),
        }
    ]


class GpuWatch:
    """Readings of nvidia-smi: how busy the GPU is, percent, and its memory, MiB."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, float]] = []

    def row(self) -> dict[str, float]:
        """Idle share while there was work at all, and the most memory."""
        busy = [percent for percent, _ in self.readings]
        if not any(busy):
            return {}
        first = next(i for i, percent in enumerate(busy) if percent)
        last = max(i for i, percent in enumerate(busy) if percent)
        return {
            "gpu_idle": 1 - statistics.mean(busy[first : last + 1]) / 100,
            "gpu_memory_gib": max(memory for _, memory in self.readings) / 1024,
        }


@contextmanager
def watching_gpu() -> Iterator[GpuWatch]:
    """Readings five times a second; none without a GPU."""
    watch = GpuWatch()
    if not has_gpu():
        yield watch
        return
    query = "--query-gpu=utilization.gpu,memory.used"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "200"]
    with (
        tempfile.TemporaryFile("w+") as file,
        subprocess.Popen(command, stdout=file) as process,
    ):
        try:
            yield watch
        finally:
            process.terminate()
            process.wait()
            file.seek(0)
            lines = [line.split(",") for line in file.read().splitlines()]
            watch.readings = [(float(a), float(b)) for a, b in lines]


def measure_training(size: Size, work: Path, mode: str = "") -> Rows:
    """A fit of the paper's U-Net/DenseNet-121, in mixed precision and without."""
    cohort = build_cohort(work / "fit-cohort", brief_slides())
    precisions = ("auto", "float32") if has_gpu() else ("auto",)
    return [measure_fit(cohort, precision, size, work) for precision in precisions]


def measure_fit(cohort: Path, precision: str, size: Size, work: Path) -> dict[str, Any]:
    """Patches/s of its epochs but the first, and the share spent waiting for data."""
    recipe = {
        "preset": "camelyon16",
        "grid": {"mpp": 1.0},
        "sampling": {
            "tumor_per_slide": 50,
            "normal_per_slide": 50,
            "epoch_patches": size.epoch,
            "validation_patches": min(size.epoch, 64),
        },
        "fit": {"folds": 2, "epochs": 3, "precision": precision},
        "members": [
            {
                "name": "unet-densenet121",
                "architecture": "Unet",
                "encoder": "densenet121",
                "weights": "random",
            }
        ],
    }
    config = work / f"fit-{precision}.toml"
    config.write_text(tomli_w.dumps(recipe))
    out = work / f"fit-{precision}"
    main = "from digipath_ray.cli import main; main()"
    arguments = ["train", str(cohort), "--config", str(config), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", main, *arguments], capture_output=True, text=True
    )
    if done.returncode != 0:
        return {"precision": precision, "error": done.stderr[-300:]}
    history = FitDirectory(out).read_history("unet-densenet121")
    later = history[1:]
    return {
        "precision": precision,
        "epochs": len(history),
        "patches_per_s": statistics.median(row["samples_per_s"] for row in later),
        "waiting_for_data": statistics.median(row["data_wait"] for row in later),
    }


PARTS = {
    "machine": "Machine",
    "tests": "Tests marked gpu",
    "bare": "Networks alone, one process",
    "run": "A run through Ray",
    "training": "Training, one worker",
}
WORK: dict[str, Callable[[Size, Path, str], Rows]] = {
    "machine": describe_machine,
    "tests": run_tests,
    "bare": measure_networks,
    "mode": measure_mode,
    "run": measure_runs,
    "pools": measure_pools,
    "training": measure_training,
}
"""Name -> rows of (size, folder, mode). Each call is a process of its own."""


def call(
    part: str,
    size: Size,
    work: Path,
    *,
    mode: str = "",
    environment: dict[str, str] | None = None,
) -> Rows:
    """Rows of a part, from a process of its own."""
    answer = work / f"{part}.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", __spec__.name, "--only", part, "--mode", mode]
    command += ["--out", str(work), *(["--tiny"] if size == TINY else [])]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if answer.exists():
        rows: Rows = json.loads(answer.read_text())
        return rows
    error = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    return [{**({"mode": mode} if mode else {}), "error": error[:300]}]


def to_markdown(found: dict[str, Rows]) -> str:
    """A table for each part."""
    lines = []
    for part, rows in found.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines += [f"## {PARTS[part]}", "", f"| {' | '.join(names)} |"]
        lines.append(f"|{'---|' * len(names)}")
        for row in rows:
            cells = (text_of(row.get(name)) for name in names)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def text_of(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("\n", " ").replace("|", "/")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--mode", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    size, out = TINY if options.tiny else Size(), options.out
    if options.only:
        rows = WORK[options.only](size, out, options.mode)
        (out / f"{options.only}.json").write_text(json.dumps(rows))
        return
    out.mkdir(parents=True, exist_ok=True)
    json_file = out / "gpu.json"
    found: dict[str, Rows] = {}
    if json_file.exists():  # another part of the same machine's table
        found = json.loads(json_file.read_text())
    with tempfile.TemporaryDirectory() as work:
        for part in ("machine", *(p for p in options.parts if p != "machine")):
            started = time.perf_counter()
            found[part] = call(part, size, Path(work))
            json_file.write_text(json.dumps(found, indent=1))
            (out / "gpu.md").write_text(to_markdown(found))
            print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
    print(to_markdown(found))


if __name__ == "__main__":
    main()
