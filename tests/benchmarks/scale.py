"""What one driver sustains: whole plans on logical GPUs that only sleep.

    python -m tests.benchmarks.scale [--slides 200] [--chunks 20] [--gpus 4 8 16 32]

The plan, the ledger and the collector are the product's; three parts are stood in for,
since one machine has neither the GPUs nor the disks. Readers hand out pixels of
``--pixel-kb`` a chunk, drawn once; actors sleep as long as an H100 takes for a chunk
(``--rate`` patches/s), then answer with sums of the size that real ones have (camelyon17
at its downsample); finish tasks drop what they get. Prints, for each number of GPUs,
chunks and MB per second, what that is of the ideal, and what driver and head took.
"""

import argparse
import json
import os
import statistics
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

from digipath_ray.config import RunConfig
from digipath_ray.distributed import collector, inference
from digipath_ray.distributed.cluster import Share, connect
from digipath_ray.distributed.collector import Tally
from digipath_ray.distributed.shard import Batch, pixel_row
from digipath_ray.distributed.stage import PredictStage
from digipath_ray.geometry import Frame
from digipath_ray.patches import share_blocks
from digipath_ray.prepared import PreparedSlide
from digipath_ray.rundir import RunDirectory
from digipath_ray.settings import from_tree, load_config

SIDE = 8
"""A chunk is a square of so many patches a side."""
READ_S = "SECONDS_TO_READ_A_CHUNK"
PREDICT_S = "SECONDS_TO_PREDICT_A_CHUNK"
PIXEL_KB = "PIXEL_KB_OF_A_CHUNK"


def pixels_of_a_chunk() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks and index of a chunk, and pixels far fewer than it has."""
    cells = np.argwhere(np.ones((SIDE, SIDE), bool)).astype(np.int32)
    blocks, index = share_blocks(cells, 2)
    pixels = np.zeros((1, int(os.environ[PIXEL_KB]) << 10, 1, 1), np.uint8)
    return blocks, pixels, index


def draw_shard(
    batch: Batch, *, root: str, config: RunConfig, ledger: Any
) -> Iterator[Batch]:
    """As ``read_shard``: a row per chunk, after the time that reading takes."""
    row = {name: values[0] for name, values in batch.items()}
    blocks, pixels, index = pixels_of_a_chunk()
    first = int(row["first_chunk"])
    ledger.failure(str(row["slide_id"]))
    for number in range(first, first + int(row["chunks"])):
        ledger.begin(f"read {row['slide_id']} {number}", 3)
        time.sleep(float(os.environ[READ_S]))
        ledger.end(f"read {row['slide_id']} {number}")
        yield pixel_row(str(row["slide_id"]), number, blocks, pixels, index, 0.0)


class SleepingStage(PredictStage):
    """The product's stage but for its members, in whose place it sleeps."""

    def _load(self, members: Any, share: Share) -> Any:
        return None

    def _predict(self, batch: Batch) -> Batch:
        seconds = float(os.environ[PREDICT_S])
        time.sleep(seconds)
        n, side = len(batch["blocks"][0]), self.config.grid.hm_stride
        row = {**batch, "predict_seconds": batch["predict_seconds"] + seconds}
        sums = np.zeros((len(self.config.channels), n, side, side), np.float32)
        weight = np.zeros((n, side, side), np.float32)
        return self._final_row(row, sums, weight, SIDE * SIDE)


def drop(root: str, prepared: PreparedSlide, *rest: Any) -> tuple[float, None]:
    return 0.0, None


def slides_of(count: int, chunks: int) -> list[PreparedSlide]:
    """Slides that nobody reads."""
    frame = Frame(
        level=0, lv_per_md_x=1.0, lv_per_md_y=1.0, l0_per_md_x=1.0, l0_per_md_y=1.0,
        mpp_x=0.5, mpp_y=0.5,
    )  # fmt: skip
    slide = PreparedSlide(
        row={},
        frame=frame,
        md_width=1,
        md_height=1,
        slide_mpp=None,
        mask_digest=None,
    )
    names = [f"s{i:05}" for i in range(count)]
    return [
        replace(
            slide, row={"slide_id": i, "path": i, "patient_id": None, "chunks": chunks}
        )
        for i in names
    ]


@dataclass
class Watch:
    """Memory and time of processes while a plan runs, once a second."""

    names: tuple[str, ...] = ("gcs_server", "raylet")
    rss_mb: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _seconds(self) -> dict[str, float]:
        driver = psutil.Process()
        found = {"driver": sum(driver.cpu_times()[:2])}
        for process in driver.children(recursive=True):
            try:
                name, times = process.name(), process.cpu_times()
            except psutil.Error:
                continue
            name = name if name in self.names else "workers"
            found[name] = found.get(name, 0.0) + sum(times[:2])
        return found

    def _look(self) -> None:
        while not self._over.wait(1):
            self.rss_mb.append(psutil.Process().memory_info().rss / 2**20)

    def __enter__(self) -> "Watch":
        self._before = self._seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        after = self._seconds()
        self.cpu_s = {
            k: round(v - self._before.get(k, 0.0), 1) for k, v in after.items()
        }


def run_plan(
    slides: list[PreparedSlide], config: RunConfig, share: Share
) -> dict[str, Any]:
    """One plan; what it took."""
    arrivals: list[float] = []

    def note(tally: Tally) -> None:
        if tally.patches > len(arrivals) * SIDE * SIDE:
            arrivals.append(time.time())

    started = time.time()
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        run = RunDirectory(folder)
        failures: list[Any] = []
        tally = inference.segment_cohort(
            run, slides, config, share, failures, report=note
        )
    assert failures == []
    assert tally.slides == len(slides)
    n = len(arrivals)
    # Steady: the middle of the run, when all actors are there and work is left.
    first, last = arrivals[n // 5], arrivals[int(n * 0.9)]
    rate = (int(n * 0.9) - n // 5) / (last - first)
    channels = len(config.channels) + 1
    blocks, _, _ = pixels_of_a_chunk()
    chunk_mb = len(blocks) * config.grid.hm_stride**2 * 4 * channels / 1e6
    rss = watch.rss_mb
    tenth = max(1, len(rss) // 10)
    return {
        "gpus": share.actors,
        "slides": len(slides),
        "chunks": n,
        "start_s": round(arrivals[0] - started, 1),
        "seconds": round(time.time() - started, 1),
        "chunks_per_s": round(rate, 2),
        "MB_per_s": round(rate * chunk_mb, 1),
        "tail_90_100_s": round(arrivals[-1] - last, 1),
        "open_slides_max": tally.open_slides_max,
        "driver_rss_mb": {
            "first_tenth": round(statistics.mean(rss[tenth : 2 * tenth])),
            "middle": round(statistics.mean(rss[len(rss) // 2 :][:tenth])),
            "last_tenth": round(statistics.mean(rss[-tenth:])),
            "max": round(max(rss)),
        },
        "cpu_ms_per_chunk": {k: round(1000 * v / n, 1) for k, v in watch.cpu_s.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--gpus", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rate", type=float, default=65.0, help="patches/s of a GPU")
    parser.add_argument("--pixel-kb", type=int, default=64)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    seconds = SIDE * SIDE / said.rate
    os.environ |= {
        PREDICT_S: str(seconds),
        READ_S: str(seconds / 2),
        PIXEL_KB: str(said.pixel_kb),
    }
    member = {"architecture": "Unet", "encoder": "resnet18", "weights": "random"}
    tree = load_config(preset="camelyon17")
    tree["members"] = [{**member, "name": n} for n in "abc"]
    config = from_tree(tree)
    inference.PredictStage = SleepingStage  # type: ignore[misc]
    inference.read_shard = draw_shard
    collector.finish_guarded = drop
    most = max(said.gpus)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    connect.__globals__["ray"]
    ray.init(
        address="local",
        num_cpus=2 * most,
        num_gpus=most,
        object_store_memory=1 << 30,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    found = []
    for gpus in said.gpus:
        share = Share(
            actors=gpus,
            actor_cpus=0.5,
            actor_gpus=1.0,
            actor_threads=1,
            readers=gpus,
            reader_cpus=0.9,
            finish_cpus=0.25,
        )
        row = run_plan(slides_of(said.slides, said.chunks), config, share)
        row["of_ideal"] = round(row["chunks_per_s"] * seconds / gpus, 3)
        print(json.dumps(row), flush=True)
        found.append(row)
    ray.shutdown()
    if said.json is not None:
        said.json.write_text(
            json.dumps({"argv": sys.argv[1:], "rows": found}, indent=1)
        )


if __name__ == "__main__":
    main()
