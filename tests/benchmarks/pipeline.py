"""What the pipeline costs beside its networks: members that sleep, all else real.

    python -m tests.benchmarks.pipeline SLIDE [--rates 113 280 1000] [--copies 12]

One actor stands for one GPU: it takes a chunk's pixels as the real one does, sleeps as
long as a GPU would compute at a rate of patches of 1024 px a second (all members, all
transforms), and hands maps on. Reading, Ray, combining, summing, collecting, stitching
and writing are the product's, on this machine's cores. The slide is read ``--copies``
times, as slides of a cohort. Prints the rate that was reached beside the one slept at,
and what each stage cost: seconds of a core for 1,000 patches.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.run import MemberSpec, RunConfig
from digipath_ray.config.toml import load_config
from digipath_ray.distributed import inference, resources
from digipath_ray.distributed.predict import PredictStage
from digipath_ray.distributed.resources import Share
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.ensemble import MemberMaps
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import open_slide


class SleepingEnsemble:
    """Takes pixels, sleeps, and gives maps of one value, as a GPU would."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.rate = float(config.members[0].seed)
        self.pinned: NDArray[np.uint8] = np.empty(0, np.uint8)

    def predict(
        self, blocks: NDArray[np.uint8], index: NDArray[np.int64]
    ) -> MemberMaps:
        """A chunk's maps, after as long as the GPU would take."""
        started = time.perf_counter()
        if self.pinned.size < blocks.size:
            self.pinned = np.empty(blocks.size, np.uint8)
        self.pinned[: blocks.size] = blocks.ravel()  # into pinned memory
        n, side = len(index), self.config.grid.hm_patch
        shape = (len(self.config.members), n, side, side)
        means = np.full(shape, 0.2, np.float32)
        augmented = len(self.config.ensemble.tta) > 1
        variances = np.full(shape, 0.01, np.float32) if augmented else None
        left = n / self.rate - (time.perf_counter() - started)
        time.sleep(max(0.0, left))
        predicted = np.ones(shape[:2], np.bool_)
        return MemberMaps(
            means=means, variances=variances, predicted=predicted, seen=predicted
        )


class SleepingStage(PredictStage):
    """The stage with members that sleep."""

    def _load(self, members: Sequence[MemberSpec], share: Share) -> Any:
        return SleepingEnsemble(self.config)


def measure(slide: Path, config: RunConfig, rate: float, copies: int) -> None:
    # Workers outlive a run, and their environment with them: the config says the rate.
    members = tuple(replace(member, seed=round(rate)) for member in config.members)
    config = replace(config, members=members)
    rows = [SlideRow(slide_id=f"s{i}", path=str(slide)) for i in range(copies)]
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(inference, "PredictStage", SleepingStage),
        # Chunks as large as on a GPU, not what a CPU would do in a minute.
        mock.patch.object(resources, "patch_core_seconds", return_value=0.0),
    ):
        metrics = run_cohort(RunDirectory(folder), rows, config).metrics
    patches = metrics["patches"]
    reached = metrics["patches_per_s"]
    cost = 1000 / patches
    print(
        f"| {rate:g} | {patches} | {reached:.0f} | {reached / rate:.2f} | "
        f"{metrics['predict']['busy']:.0%} | {metrics['read']['busy']:.0%} | "
        f"{metrics['read']['seconds'] * cost:.1f} | "
        f"{metrics['finish']['seconds'] * cost:.1f} | {metrics['start_s']:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[113, 280, 1000])
    parser.add_argument("--copies", type=int, default=12)
    arguments = parser.parse_args()
    with open_slide(arguments.slide) as slide:
        mpp = slide.info.need_mpp()[0]
    over = {"grid": {"mpp": mpp}, "compute": {"actors": 1}}
    config = resolve(load_config(preset="camelyon16", overrides=over), weights="random")
    columns = "slept, patches/s; patches; reached; share; actor busy; readers busy; "
    columns += "read, s / 1,000; finish, s / 1,000; start, s"
    print("| " + columns.replace("; ", " | ") + " |")
    print("|---" * 9 + "|")
    for rate in arguments.rates:
        measure(arguments.slide, config, rate, arguments.copies)


if __name__ == "__main__":
    main()
