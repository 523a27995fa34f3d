"""This package beside TIAToolbox and a plain DataLoader, on one slide with one network.

    python -m tests.benchmarks.peer [SLIDE] [--weights FILE] [--venv FOLDER]
        [--rounds 2] [--only ours tiatoolbox ...]

All get the same weights, tissue mask, patches of 1024 px at a stride of 512, batch and
CPUs, and run in turn, each a process of its own. Wall and CPU seconds and memory are of
that process and all that it starts, from its start to its end. Differences are between
the heatmap and the peer's map averaged down to it, over what both cover.
TIAToolbox, which is no dependency, lies in an environment of its own; where there is
none, it is made with pip (3 GB). Without a slide one is drawn; without weights they are
random, so that only ``ours`` with full overlap is of use.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import tomli_w
import torch
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import from_tree
from digipath_ray.demo.cohort import write_pyramid
from digipath_ray.distributed.bench import repeat_tissue
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.networks.build import build_network
from digipath_ray.networks.card import read_card
from digipath_ray.networks.weights import save_weights
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import read_mask

PEERS = Path(__file__).parent / "peers"
PACKAGES = ("tiatoolbox==2.1.3", "segmentation-models-pytorch==0.6.0")
OURS = {
    "ours": [],
    "ours adaptive": ["--overlap", "adaptive"],
}
MAIN = "from digipath_ray.cli import main; main()"
Map = NDArray[np.float32]


@dataclass
class Cost:
    """What a process and all that it started took.

    Attributes:
        wall: seconds.
        cpu: seconds of all CPUs.
        memory: most memory at once, bytes; shared pages are counted once.
    """

    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    _spent: dict[tuple[int, float], float] = field(default_factory=dict)

    def look(self, root: psutil.Process) -> None:
        """Take a reading of the process and its descendants."""
        held = 0
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
                held += process.memory_full_info().pss
                key = process.pid, process.create_time()
            except psutil.Error:
                continue
            self._spent[key] = times.user + times.system
        self.memory = max(self.memory, held)
        self.cpu = sum(self._spent.values())


def run_measured(
    command: Sequence[str], environment: dict[str, str], *, cwd: Path | None = None
) -> Cost:
    """Run a command to its end and measure it."""
    cost = Cost()
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, env=environment, cwd=cwd, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, cost, ended))
        watch.start()
        status = process.wait()
        cost.wall = time.perf_counter() - started
        ended.set()
        watch.join()
        if status != 0:
            log.seek(0)
            raise RuntimeError(
                f"{' '.join(command)} ended with {status}:\n{log.read()}"
            )
    return cost


def _watch(pid: int, cost: Cost, ended: threading.Event) -> None:
    while not ended.wait(0.25):
        try:
            cost.look(psutil.Process(pid))
        except psutil.Error:
            return


def member_of(weights: Path | None) -> MemberSpec:
    """The network: of a file and its card, or U-Net/ResNet-18 with random weights."""
    if weights is None:
        return MemberSpec(
            name="unet", architecture="Unet", encoder="resnet18", weights="random"
        )
    card = read_card(weights)
    return MemberSpec(
        name=card.name,
        architecture=card.architecture,
        encoder=card.encoder,
        weights=str(weights.absolute()),
        options=dict(card.options),
        mean=card.mean,
        std=card.std,
        temperature=card.temperature,
    )


def settings(arguments: argparse.Namespace, spec: MemberSpec, mpp: float) -> RunConfig:
    """One member, one transform, the paper's patches."""
    member = {k: v for k, v in vars(spec).items() if v is not None and k != "options"}
    member |= {"options": dict(spec.options)} if spec.options else {}
    half = (128 / 255,) * 3
    return from_tree(
        {
            "grid": {
                "mpp": mpp,
                "patch_px": arguments.patch_px,
                "stride_px": arguments.patch_px // 2,
            },
            "tissue": {"tissue": "otsu"},
            "compute": {"batch_size": arguments.batch, "chunk_cells": 64},
            "members": [{"mean": half, "std": half, **member}],
        }
    )


def to_toml(config: RunConfig) -> str:
    """The settings of a run that are not defaults here."""
    (member,) = config.members
    row = {k: v for k, v in vars(member).items() if v not in (None, {}, ())}
    grid, compute = config.grid, config.compute
    return tomli_w.dumps(
        {
            "grid": {
                name: getattr(grid, name) for name in ("mpp", "patch_px", "stride_px")
            },
            "compute": {
                name: getattr(compute, name) for name in ("batch_size", "chunk_cells")
            },
            "members": [row],
        }
    )


class Comparison:
    """One slide and network, and a folder for what all make of it."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.folder, self.arguments = folder, arguments
        self.slide = arguments.slide or self._draw()
        with open_slide(self.slide) as opened:
            self.mpp = opened.info.need_mpp()[0]
            self.size = opened.info.height, opened.info.width
        spec = member_of(arguments.weights)
        self.config = settings(arguments, spec, self.mpp)
        (folder / "run.toml").write_text(to_toml(self.config))
        self._prepare()
        self.task = self._write_task()

    def _draw(self) -> Path:
        path = self.folder / "slide.tif"
        write_pyramid(path, repeat_tissue(4096), mpp=0.5)
        return path

    def _ours(self, command: str, out: Path, *options: str) -> list[str]:
        config = str(self.folder / "run.toml")
        return [
            *(sys.executable, "-c", MAIN, command, str(self.slide)),
            *("--config", config, "--out", str(out), *options),
        ]

    def _prepare(self) -> None:
        """The tissue mask and the patches, which the peers are given."""
        out = self.folder / "prepared"
        subprocess.run(self._ours("prepare", out), check=True, capture_output=True)
        run = RunDirectory(out)
        (row,) = pq.read_table(run.slides).to_pylist()
        table = pq.read_table(run.patches(row["slide_id"]))
        self.corners = list(
            zip(*(table[name].to_pylist() for name in ("x", "y")), strict=True)
        )
        mask = read_mask(run.mask(row["slide_id"]))
        Image.fromarray(mask.array).save(self.folder / "mask.png")

    def _write_task(self) -> Path:
        (spec,) = self.config.members
        weights = self.folder / "weights.safetensors"
        if spec.weights == "random":
            save_weights(build_network(spec).state_dict(), weights)
        else:
            weights = Path(str(spec.weights))
        path = self.folder / "task.json"
        task: dict[str, Any] = {
            "slide": str(Path(self.slide).absolute()),
            "mask": str(self.folder / "mask.png"),
            "corners": [[round(x), round(y)] for x, y in self.corners],
            "size": self.size,
            "architecture": spec.architecture,
            "encoder": spec.encoder,
            "options": dict(spec.options),
            "weights": str(weights),
            "mean": spec.mean,
            "std": spec.std,
            "patch_px": self.config.grid.patch_px,
            "stride_px": self.config.grid.stride_px,
            "downsample": self.config.grid.downsample,
            "batch_size": self.arguments.batch,
            "workers": self.arguments.workers,
            "device": "cuda" if torch.cuda.is_available() else "cpu",
            "out": str(self.folder),
        }
        path.write_text(json.dumps(task), encoding="utf-8")
        return path

    def measure(self, name: str, number: int) -> Cost:
        """One process of ours or a peer, measured."""
        if name in OURS:
            out = self.folder / f"{name}-{number}"
            return run_measured(self._ours("run", out, *OURS[name]), dict(os.environ))
        python = sys.executable
        if name == "tiatoolbox":
            python = str(self.arguments.venv / "bin" / "python")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        script = str(PEERS / SCRIPTS[name])
        return run_measured([python, script, str(self.task)], environment)

    def map_of(self, name: str, number: int) -> Map:
        """The tumor probability at heatmap scale, NaN where it was not predicted."""
        if name not in OURS:
            return np.asarray(np.load(self.folder / f"{name}.npy"), np.float32)
        run = RunDirectory(self.folder / f"{name}-{number}")
        (row,) = pq.read_table(run.slides).to_pylist()
        heatmap = read_heatmap(run.heatmap(row["slide_id"]))
        return np.where(heatmap.covered, heatmap.probability, np.nan)


SCRIPTS = {"tiatoolbox": "tiatoolbox_segment.py", "dataloader": "dataloader.py"}


def difference(ours: Map, peer: Map) -> tuple[float, float]:
    """Largest and mean difference where both were predicted, the slide's edge apart.

    Beyond the edge each fills a patch with another color.
    """
    height, width = (min(a, b) for a, b in zip(ours.shape, peer.shape, strict=True))
    edge = 64
    inside = np.s_[: max(1, height - edge), : max(1, width - edge)]
    gap = np.abs(ours[:height, :width] - peer[:height, :width])[inside]
    gap = gap[~np.isnan(gap) & (peer[:height, :width][inside] > 0)]
    return float(gap.max()), float(gap.mean())


def make_environment(folder: Path) -> None:
    """An environment with the peers, unless it is there."""
    if (folder / "bin" / "python").exists():
        return
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", *PACKAGES], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--venv", type=Path, default=Path("peers-venv"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--patch-px", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=[*OURS, *SCRIPTS])
    arguments = parser.parse_args()
    if "tiatoolbox" in arguments.only:
        make_environment(arguments.venv)
    with tempfile.TemporaryDirectory() as name:
        comparison = Comparison(Path(name), arguments)
        patches = len(comparison.corners)
        print(f"{patches} patches, network {comparison.config.members[0].name}")
        costs: dict[str, list[Cost]] = {name: [] for name in arguments.only}
        for number in range(arguments.rounds):
            for who in arguments.only:
                costs[who].append(comparison.measure(who, number))
                cost = costs[who][-1]
                print(f"  {who}: {cost.wall:.0f} s", flush=True)
        print_table(comparison, costs, patches)


def print_table(
    comparison: Comparison, costs: dict[str, list[Cost]], patches: int
) -> None:
    """One row for each, against the first."""
    first = next(iter(costs))
    base = statistics.median(c.wall for c in costs[first])
    ours = comparison.map_of(first, 0)
    columns = "who|wall, s|times the first's|CPU s|memory, GB|patches/s|difference"
    print(f"| {' | '.join(columns.split('|'))} |")
    print("|" + "---|" * len(columns.split("|")))
    for name, found in costs.items():
        wall = statistics.median(c.wall for c in found)
        cpu = statistics.median(c.cpu for c in found)
        memory = max(c.memory for c in found) / 2**30
        largest, mean = difference(ours, comparison.map_of(name, 0))
        print(
            f"| {name} | {wall:.0f} | {wall / base:.2f} | {cpu:.0f} | {memory:.1f} "
            f"| {patches / wall:.2f} | {largest:.4f}, mean {mean:.5f} |"
        )


if __name__ == "__main__":
    main()
