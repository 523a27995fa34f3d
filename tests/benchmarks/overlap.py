"""Adaptive overlap beside full overlap, on the demo's slides of several seeds.

    python -m tests.benchmarks.overlap [--seeds 7 8 9] [--doubt 0.02 0.05 0.1]

For every bound: patches that the networks predicted against full overlap, the largest
and mean difference over tissue, IoU of what is above the threshold, the largest
difference of a slide's longest lesion, and how many slide types differ. Networks and
slides are the demo's; no figure of real tissue.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import build_cohort, demo_slides
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.machine import keep_freed_memory
from digipath_ray.networks.adaptive import Bools
from digipath_ray.networks.ensemble import combine_members
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.chunk import Arrays
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import read_mask


class Counting:
    """An ensemble that counts what its members predict."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        keep_freed_memory()
        self.ensemble = EnsemblePredictor(config.members, config, threads=1)
        self.done = self.all = 0

    def __call__(self, pixels: Pixels, index: NDArray[np.int64]) -> Arrays:
        maps = self.ensemble.predict(pixels, index)
        self.done += int(maps.predicted.sum())
        self.all += maps.predicted.size
        return combine_members(maps, self.config)


@dataclass(frozen=True)
class Result:
    run: RunDirectory
    outcomes: dict[str, dict[str, Any]]
    share: float
    seconds: float


def measure(folder: Path, manifest: Path, config: RunConfig) -> Result:
    """One run in this process."""
    rows = [r for r in read_cohort([manifest]) if "node_3" not in r.slide_id]
    run, predict = RunDirectory(folder), Counting(config)
    started = time.perf_counter()
    outcomes = run_eagerly(run, rows, config, predict)
    seconds = time.perf_counter() - started
    by_slide = {row["slide_id"]: row for row in outcomes}
    return Result(run, by_slide, predict.done / predict.all, seconds)


def compare(full: Result, other: Result, threshold: float) -> dict[str, float]:
    """How the slides of two runs differ."""
    both = either = 0
    largest, means, feret, types = 0.0, [], 0.0, 0
    for slide_id, row in full.outcomes.items():
        a, b = (read_heatmap(r.run.heatmap(slide_id)) for r in (full, other))
        tissue = on_tissue(full.run, slide_id, a.probability.shape)
        difference = np.abs(a.probability - b.probability)[tissue]
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
        above_a, above_b = a.probability >= threshold, b.probability >= threshold
        both += int((above_a & above_b).sum())
        either += int((above_a | above_b).sum())
        found = other.outcomes[slide_id]
        types += row["metastasis"] != found["metastasis"]
        longest = [r["largest_um"] or 0.0 for r in (row, found)]
        feret = max(feret, abs(longest[0] - longest[1]))
    return {
        "largest": largest,
        "mean": float(np.mean(means)),
        "iou": both / either if either else 1.0,
        "feret_um": feret,
        "types": types,
    }


def on_tissue(run: RunDirectory, slide_id: str, shape: Sequence[int]) -> Bools:
    """The tissue at heatmap scale, by nearest neighbor."""
    mask = read_mask(run.mask(slide_id)).array
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--doubt", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--chunk-cells", type=int, default=64)
    arguments = parser.parse_args()
    config = resolve(load_config(preset="demo"))
    compute = replace(config.compute, chunk_cells=arguments.chunk_cells)
    config = replace(config, compute=compute)
    columns = (
        *("seed", "bound", "predicted", "seconds", "largest", "mean", "IoU"),
        *("longest lesion, um", "types"),
    )
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            manifest = build_cohort(folder / "cohort", demo_slides(seed))
            full = measure(folder / "full", manifest, config)
            print(
                f"| {seed} | full | 100 % | {full.seconds:.0f} | | | | | |", flush=True
            )
            for doubt in arguments.doubt:
                grid = replace(config.grid, overlap="adaptive", doubt=doubt)
                other = measure(
                    folder / f"{doubt}", manifest, replace(config, grid=grid)
                )
                found = compare(full, other, config.outcome.threshold)
                print(
                    f"| {seed} | {doubt} | {other.share:.0%} | {other.seconds:.0f} "
                    f"| {found['largest']:.3f} | {found['mean']:.5f} "
                    f"| {found['iou']:.4f} | {found['feret_um']:.0f} "
                    f"| {found['types']} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
