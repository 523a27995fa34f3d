"""What one driver sustains: whole plans whose actors only sleep, on logical GPUs.

    python -m tests.benchmarks.scale [--slides 200] [--chunks 20] [--gpus 4 8 16 32]
    python -m tests.benchmarks.scale --gpus 8 --beside 3    # a small job beside a large

Division, plan, ledger and collector are the product's. Three parts are stood in for,
since no machine has the GPUs and the disks: readers hand out ``--pixel-kb`` a chunk,
actors sleep as long as a GPU takes for a chunk (64 patches at ``--rate`` a second) and
answer with sums as large as real ones (camelyon17's grid and channels), and finish
tasks drop what they get. The head has no CPU, the driver runs there, and one node
beside it has all GPUs. ``--slides`` are for the most GPUs; others get as many fewer.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster

from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, load_config
from digipath_ray.distributed import collector, inference
from digipath_ray.distributed.attempts import counted
from digipath_ray.distributed.connect import connect
from digipath_ray.distributed.ledger import Ledger, Place
from digipath_ray.distributed.read import Batch, pixel_row
from digipath_ray.distributed.resources import Share, divide
from digipath_ray.patches import Cells, share_blocks
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.listeners import FailureLog, Listeners, Tally
from digipath_ray.run.record import SlideRecord
from tests.records import record_of
from tests.runs import hears

SIDE = 8
"""A chunk is a square of so many patches a side."""
READ_S = "SECONDS_TO_READ_A_CHUNK"
PREDICT_S = "SECONDS_TO_PREDICT_A_CHUNK"
PIXEL_KB = "PIXEL_KB_OF_A_CHUNK"
Row = dict[str, Any]


def square_chunk() -> tuple[Cells, np.ndarray]:
    """Blocks and index of a square of patches at 50 % overlap."""
    cells = np.argwhere(np.ones((SIDE, SIDE), bool)).astype(np.int32)
    return share_blocks(cells, 2)


def draw_shard(
    batch: Batch, *, root: str, config: RunConfig, ledger: Ledger
) -> Iterator[Batch]:
    """As ``read_shard``: a row per chunk, after the time that reading takes."""
    row = {name: values[0] for name, values in batch.items()}
    slide_id, first = str(row["slide_id"]), int(row["first_chunk"])
    blocks, index = square_chunk()
    pixels = np.zeros((1, int(os.environ[PIXEL_KB]) << 10, 1, 1), np.uint8)
    ledger.failure(slide_id)
    for number in range(first, first + int(row["chunks"])):
        with counted(ledger, f"read {slide_id} {number}", limit=3):
            time.sleep(float(os.environ[READ_S]))
        yield pixel_row(slide_id, number, blocks, pixels, index, 0.0)


class SleepingStage:
    """As ``PredictStage``, but sleeps in place of its members. Imports no torch."""

    def __init__(
        self, ledger: Ledger, members: Any, last: bool, config: RunConfig, share: Share
    ) -> None:
        self.ledger = ledger
        self.config = config
        self.place = Place(ledger, share.actor_gpus)

    def __call__(self, batch: Batch) -> Batch:
        self.place.keep()
        seconds = float(os.environ[PREDICT_S])
        work = f"predict 0 {batch['slide_id'][0]} {batch['chunk'][0]}"
        with counted(self.ledger, work, limit=3):
            time.sleep(seconds)
        n, side = len(batch["blocks"][0]), self.config.grid.hm_stride
        shape = (len(self.config.channels), n, side, side)
        kept = ("slide_id", "chunk", "error", "blocks", "read_seconds")
        return {
            **{name: batch[name] for name in kept},
            "sums": np.zeros((1, *shape), np.float32),
            "weight": np.zeros((1, *shape[1:]), np.float32),
            "patches": np.array([SIDE * SIDE]),
            "predicted": np.array([float(SIDE * SIDE)]),
            "read_px": np.array([batch["pixels"].size // 3]),
            "predict_seconds": batch["predict_seconds"] + seconds,
            "device": np.array(["none"]),
            "reduced_to": np.array([0]),
        }


def drop(root: str, prepared: SlideRecord, *rest: Any) -> tuple[float, None]:
    """In place of ``try_finish``: the slide's sums have come to a node, and go."""
    return 0.0, None


def slides_of(count: int, chunks: int, *, uneven: bool = False) -> list[SlideRecord]:
    """Slides in a bucket that nobody asks; ``uneven``: the largest 20 times the least.

    The largest come last, which is the worst for the end of a run.
    """
    sizes = np.full(count, chunks)
    if uneven:
        sizes = np.geomspace(chunks / 6, chunks * 3.5, count).round().astype(int)
    return [
        record_of(f"s{i:05}", path=f"s3://nowhere/s{i:05}.svs", chunks=int(size))
        for i, size in enumerate(sizes)
    ]


@dataclass
class Watch:
    """The driver's own memory, once a second, and the CPU time of driver and head.

    Own: without the pages of the object store that it has looked at.
    """

    own_mb: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @staticmethod
    def _seconds() -> dict[tuple[str, int], float]:
        """CPU time of the processes that a head has, by name and id."""
        driver = psutil.Process()
        found = {("driver", driver.pid): sum(driver.cpu_times()[:2])}
        for process in driver.children(recursive=True):
            try:
                said, times = process.name(), process.cpu_times()
            except psutil.Error:
                continue
            for name in ("gcs_server", "raylet", "Ledger"):
                if name in said:
                    found[name, process.pid] = sum(times[:2])
        return found

    def _look(self) -> None:
        while not self._over.wait(1):
            said = psutil.Process().memory_info()
            self.own_mb.append((said.rss - said.shared) / 2**20)

    def __enter__(self) -> "Watch":
        self._before = self._seconds()
        self._thread.start()
        return self

    def note(self) -> None:
        """The CPU time until now."""
        self.cpu_s = {}
        for key, seconds in self._seconds().items():
            spent = seconds - self._before.get(key, 0.0)
            self.cpu_s[key[0]] = self.cpu_s.get(key[0], 0.0) + spent

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def curve(self, points: int = 8) -> list[int]:
        """Memory at as many moments, the first when the plan had just begun."""
        at = np.linspace(0, len(self.own_mb) - 1, points).astype(int)
        return [round(self.own_mb[i]) for i in at]


def run_plan(slides: list[SlideRecord], config: RunConfig) -> Row:
    """One plan as a driver lays it, and what it took."""
    arrivals: list[float] = []
    share, watch = divide(config), Watch()

    def note(tally: Tally) -> None:
        if tally.patches > len(arrivals) * SIDE * SIDE:
            arrivals.append(time.time())
        if tally.slides == len(slides):
            watch.note()

    started = time.time()
    log = FailureLog()
    with tempfile.TemporaryDirectory() as folder, watch:
        tally = inference.segment_cohort(
            RunDirectory(folder),
            slides,
            config,
            share,
            Listeners(log, hears(tallied=note)),
        )
    assert (log.failures, tally.slides) == ([], len(slides))
    return {
        "gpus": share.actors,
        "slides": len(slides),
        "open_slides_max": tally.open_slides_max,
        "ended": round(time.time(), 1),
        "seconds": round(time.time() - started, 1),
        **rates(started, arrivals, config),
        "driver_own_mb": watch.curve(),
        "cpu_ms_per_chunk": {
            k: round(1000 * v / len(arrivals), 1) for k, v in watch.cpu_s.items()
        },
    }


def rates(started: float, arrivals: list[float], config: RunConfig) -> Row:
    """Chunks and MB a second in the middle of a run, and how its end went."""
    n = len(arrivals)
    first, last = n // 4, int(n * 0.9)
    rate = (last - first) / (arrivals[last] - arrivals[first])
    blocks, _ = square_chunk()
    chunk_mb = len(blocks) * config.grid.hm_stride**2 * 4 / 1e6
    gaps = np.diff(arrivals[first:last])
    return {
        "chunks": n,
        "start_s": round(arrivals[0] - started, 1),
        "chunks_per_s": round(rate, 2),
        "MB_per_s": round(rate * chunk_mb * (len(config.channels) + 1), 1),
        "longest_gap_s": round(float(gaps.max()), 2),
        "median_gap_s": round(statistics.median(gaps), 3),
        "t90_to_t100_s": round(arrivals[-1] - arrivals[last], 1),
    }


def sleeping_config(rate: float, pixel_kb: int) -> RunConfig:
    """camelyon17 with three members; from now on this process lays sleeping plans."""
    seconds = SIDE * SIDE / rate
    os.environ |= {
        PREDICT_S: str(seconds),
        READ_S: str(seconds / 4),
        PIXEL_KB: str(pixel_kb),
    }
    setattr(inference, "PredictStage", SleepingStage)  # noqa: B010
    setattr(inference, "read_shard", draw_shard)  # noqa: B010
    setattr(collector, "try_finish", drop)  # noqa: B010
    tree = load_config(preset="camelyon17")
    member = {"architecture": "Unet", "encoder": "resnet18", "weights": "random"}
    tree["members"] = [{**member, "name": name} for name in "abc"]
    return from_tree(tree)


def start_cluster() -> Cluster:
    """A head without a CPU, which this process joins; no other Ray here sees it."""
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="dr", dir="/tmp")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=500 << 20)
    os.environ["RAY_ADDRESS"] = cluster.address
    connect()
    return cluster


def sweep(said: argparse.Namespace, cluster: Cluster, config: RunConfig) -> list[Row]:
    """The same plan on more and more GPUs."""
    found = []
    for gpus in said.gpus:
        node = cluster.add_node(
            num_cpus=2 * gpus, num_gpus=gpus, object_store_memory=1 << 30
        )
        cluster.wait_for_nodes()
        count = max(1, said.slides * gpus // max(said.gpus))
        slides = slides_of(count, said.chunks, uneven=said.uneven)
        row = run_plan(slides, config)
        row["of_ideal"] = round(row["chunks_per_s"] * SIDE**2 / said.rate / gpus, 3)
        print(json.dumps(row), flush=True)
        found.append(row)
        cluster.remove_node(node)
    return found


def beside(said: argparse.Namespace, cluster: Cluster) -> list[Row]:
    """A small job that begins when a large one is in full swing; two drivers."""
    gpus = said.gpus[0]
    cluster.add_node(num_cpus=2 * gpus, num_gpus=gpus, object_store_memory=1 << 30)
    cluster.wait_for_nodes()

    def start(slides: int, actors: int | None) -> subprocess.Popen[str]:
        options = ["--chunks", said.chunks, "--rate", said.rate, "--driver", slides]
        options += [] if actors is None else ["--actors", actors]
        command = [sys.executable, "-m", "tests.benchmarks.scale", *map(str, options)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    large, began = start(said.slides, said.actors), time.time()
    time.sleep(said.later)
    small, joined = start(said.beside, None), time.time()
    found = []
    for name, process, since in (("small", small, joined), ("large", large, began)):
        out, _ = process.communicate()
        (line,) = [line for line in out.splitlines() if line.startswith("{")]
        row = {"job": name, **json.loads(line)}
        row["after_s"] = round(row["ended"] - since, 1)
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rate", type=float, default=65.0, help="patches/s of a GPU")
    parser.add_argument("--pixel-kb", type=int, default=64)
    parser.add_argument("--uneven", action="store_true", help="slides of all sizes")
    parser.add_argument("--beside", type=int, metavar="SLIDES")
    parser.add_argument("--later", type=float, default=60.0, help="seconds")
    parser.add_argument(
        "--actors", type=int, help="of the large job; default: all GPUs"
    )
    parser.add_argument("--driver", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    config = sleeping_config(said.rate, said.pixel_kb)  # before any node has started
    if said.driver is not None:
        connect()
        config = replace(config, compute=replace(config.compute, actors=said.actors))
        print(json.dumps(run_plan(slides_of(said.driver, said.chunks), config)))
        return
    cluster = start_cluster()
    try:
        if said.beside is None:
            found = sweep(said, cluster, config)
        else:
            found = beside(said, cluster)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
    if said.json is not None:
        said.json.write_text(
            json.dumps({"told": sys.argv[1:], "rows": found}, indent=1)
        )


if __name__ == "__main__":
    main()
