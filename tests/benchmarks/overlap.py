"""Adaptive overlap and cascade beside the whole ensemble at full overlap.

    python -m tests.benchmarks.overlap [--seeds 7 8 9] [--doubt 0.02 0.05 0.1]
    python -m tests.benchmarks.overlap --slides A.tif B.tif --weights FIT --mpp 0.5

For every bound: patches that the networks predicted against full overlap, the largest
and mean difference over tissue, IoU of what is above the threshold, the largest
difference of a slide's longest lesion, how many slide types differ, and the share of
tissue with epistemic uncertainty. Networks and slides are the demo's, of several seeds;
or slides and a fit of yours, run at the mpp given whatever its cards say.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import load_config, merge, to_tree
from digipath_ray.demo.cohort import build_cohort, demo_slides
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Map
from digipath_ray.machine import keep_freed_memory
from digipath_ray.networks.adaptive import Bools
from digipath_ray.networks.chunk_pixels import Views
from digipath_ray.networks.ensemble import PatchMaps, combine_members
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.chunk import Arrays
from digipath_ray.pipeline.eager import run_eagerly
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.info import Pixels
from digipath_ray.tissue.mask import read_mask

Answers = dict[tuple[str, bytes], tuple[Map, Map | None]]
"""Member and a patch's pixels, as a digest -> its posterior and variance [p, p]."""


class Counting(EnsemblePredictor):
    """An ensemble that counts what its members predict, and predicts nothing twice.

    What a member says of a patch is the same in every variant, so that each costs as
    much time as its patches that no variant before it has predicted.
    """

    def __init__(self, config: RunConfig, answers: Answers, threads: int) -> None:
        keep_freed_memory()
        super().__init__(config.members, config, threads=threads)
        self.answers = answers
        self.done = self.all = 0

    def __call__(self, pixels: Pixels, index: NDArray[np.int64]) -> Arrays:
        self.places = {i.tobytes(): blake2b(pixels[i]).digest() for i in index}
        maps = self.predict(pixels, index)
        self.done += int(maps.predicted.sum())
        self.all += maps.predicted.size
        return combine_members(maps, self.config)

    def _predict_patches(self, name: str, views: Views) -> PatchMaps:
        index = views.index
        keys = [(name, self.places[i.tobytes()]) for i in index]
        new = [i for i, key in enumerate(keys) if key not in self.answers]
        if new:
            chosen = np.isin(np.arange(len(index)), new)
            means, variances, _ = super()._predict_patches(name, views.take(chosen))
            for n, i in enumerate(new):
                variance = None if variances is None else variances[n]
                self.answers[keys[i]] = means[n], variance
        side = self.config.grid.hm_patch
        found = [self.answers[key] for key in keys]
        mean = np.reshape([m for m, _ in found], (-1, side, side))
        if len(self.config.ensemble.tta) == 1:
            return PatchMaps(np.asarray(mean, np.float32), None, None)
        variance = np.reshape([v for _, v in found], (-1, side, side))
        both = np.asarray(mean, np.float32), np.asarray(variance, np.float32)
        return PatchMaps(*both, None)


@dataclass(frozen=True)
class Result:
    run: RunDirectory
    outcomes: dict[str, dict[str, Any]]
    share: float


def measure(
    folder: Path,
    rows: Sequence[SlideRow],
    config: RunConfig,
    answers: Answers,
    threads: int,
) -> Result:
    """One run in this process."""
    run, predict = RunDirectory(folder), Counting(config, answers, threads)
    outcomes = run_eagerly(run, rows, config, predict)
    by_slide = {row["slide_id"]: row for row in outcomes}
    return Result(run, by_slide, predict.done / predict.all)


def compare(full: Result, other: Result, threshold: float) -> dict[str, float]:
    """How the slides of two runs differ."""
    both = either = 0
    largest, means, feret, types = 0.0, [], 0.0, 0
    estimated = []
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
        if b.epistemic is not None:
            estimated.append(float((~np.isnan(b.epistemic[tissue])).mean()))
        longest = [r["largest_um"] or 0.0 for r in (row, found)]
        feret = max(feret, abs(longest[0] - longest[1]))
    return {
        "largest": largest,
        "mean": float(np.mean(means)),
        "iou": both / either if either else 1.0,
        "feret_um": feret,
        "types": types,
        "estimated": float(np.mean(estimated)) if estimated else 0.0,
    }


def on_tissue(run: RunDirectory, slide_id: str, shape: Sequence[int]) -> Bools:
    """The tissue at heatmap scale, by nearest neighbor."""
    mask = read_mask(run.mask(slide_id)).array
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def variants(
    config: RunConfig, bounds: Sequence[float]
) -> Iterator[tuple[str, RunConfig]]:
    """Adaptive overlap, cascade, and both, at each bound."""
    for bound in bounds:
        for name, overlap, cascade in (
            ("adaptive", "adaptive", False),
            ("cascade", "full", True),
            ("both", "adaptive", True),
        ):
            if cascade and len(config.members) < 2:
                continue
            changes = {
                "grid": {"overlap": overlap, "doubt": bound},
                "ensemble": {"cascade": cascade},
            }
            yield (
                f"{name} {bound:g}",
                resolve(merge(to_tree(config), changes), force=True),
            )


def demo_cohorts(
    folder: Path, seeds: Sequence[int]
) -> Iterator[tuple[str, list[SlideRow]]]:
    """The demo's cohort drawn from each seed, without its damaged slide."""
    for seed in seeds:
        manifest = build_cohort(folder / str(seed), demo_slides(seed))
        rows = [r for r in read_cohort([manifest]) if "node_3" not in r.slide_id]
        yield f"seed {seed}", rows


def settings(arguments: argparse.Namespace) -> RunConfig:
    """The demo's, or those of a fit, with two transforms."""
    compute = {"chunk_cells": arguments.chunk_cells}
    if arguments.weights is None:
        return resolve(load_config(preset="demo", overrides={"compute": compute}))
    grid = {"mpp": arguments.mpp, "downsample": 16}
    overrides = {
        "grid": {k: v for k, v in grid.items() if v is not None},
        "compute": compute,
        "ensemble": {"tta": ["identity", "hflip"]},
        "outcome": {"outcome": "stage"},
    }
    tree = load_config(overrides=overrides)
    return resolve(tree, weights=arguments.weights, force=True, allow_partial=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--doubt", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--chunk-cells", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of the networks")
    parser.add_argument("--slides", nargs="+")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--mpp", type=float)
    arguments = parser.parse_args()
    config, threads = settings(arguments), arguments.threads
    columns = (
        *("slides", "what", "predicted", "largest", "mean", "IoU"),
        *("longest lesion, um", "types", "epistemic over"),
    )
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohorts = demo_cohorts(folder / "cohorts", arguments.seeds)
        if arguments.slides:
            cohorts = iter([(Path(s).stem, read_cohort([s])) for s in arguments.slides])
        for cohort, rows in cohorts:
            runs = folder / cohort
            answers: Answers = {}
            full = measure(runs / "full", rows, config, answers, threads)
            print(f"| {cohort} | full | 100 % |" + " |" * 6)
            for what, changed in variants(config, arguments.doubt):
                other = measure(runs / what, rows, changed, answers, threads)
                found = compare(full, other, config.outcome.threshold)
                print(
                    f"| {cohort} | {what} | {other.share:.0%} "
                    f"| {found['largest']:.3f} | {found['mean']:.5f} "
                    f"| {found['iou']:.4f} | {found['feret_um']:.0f} "
                    f"| {found['types']:.0f} | {found['estimated']:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
