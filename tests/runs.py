"""What the tests of whole runs share: small cohorts, their config, their processes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import scipy.ndimage

from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree, from_tree, merge, to_tree
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.listeners import RunListener
from tests.slides import paint, write_pyramid

GLASS = 245
RAY_WARNINGS = "ignore::DeprecationWarning:ray.data.context"
"""Ray 2.60 warns of settings that it sets itself."""
SMALL: Tree = {
    "grid": {"mpp": 1.0, "patch_px": 64, "stride_px": 32, "downsample": 4},
    "tissue": {
        "mask_mpp": 4.0,
        "close_um": 10.0,
        "open_um": 5.0,
        "margin_um": 10.0,
        "min_tissue_mm2": 0.0005,
    },
    "ensemble": {"tta": ["identity", "hflip"]},
    "compute": {"batch_size": 4, "chunk_cells": 8, "actors": 1},
    "members": [
        {"name": "a", "architecture": "tests.tiny:Tiny", "seed": 0},
        {"name": "b", "architecture": "tests.tiny:Tiny", "seed": 1},
    ],
}
"""Two tiny networks of random weights over small patches."""


def small_config(changes: Tree | None = None) -> RunConfig:
    """SMALL with changes laid over it."""
    tree = merge(SMALL, changes or {})
    members = [{"weights": "random", **m} for m in tree["members"]]
    return from_tree({**tree, "members": members})


def before_stains_and_artifacts(config: RunConfig) -> Tree:
    """The settings as versions wrote them that knew neither, nor kept classes."""
    tree = to_tree(config)
    del tree["slide"]["stain"], tree["artifacts"], tree["ensemble"]["keep_classes"]
    two = {
        "classes": ["other", "tumor"],
        "tumor_classes": ["tumor"],
        "whole_classes": [],
        "output": "logits",
        "activation": "softmax",
        "output_stride": 1,
        "border_px": 0,
        "channel_order": "RGB",
        "layout": "NCHW",
        "encoder_by_order": False,
    }
    tree["members"] = [
        {k: v for k, v in member.items() if k not in two or v != two[k]}
        for member in tree["members"]
    ]
    return tree


def slow_config(changes: Tree | None = None, *, seconds: float = 0.02) -> RunConfig:
    """SMALL whose networks take a while, so that a test can end a run in its middle."""
    slow = {"options": {"seconds": seconds}}
    members = [{**m, **slow} for m in SMALL["members"]]
    return small_config(merge({"members": members}, changes or {}))


def write_slide(
    path: Path,
    *,
    width: int = 200,
    height: int = 160,
    seed: int = 0,
    mpp: float = 1.0,
    glass: int = 24,
    red: int = 220,
) -> Path:
    """A slide whose tissue, of random green, lies in a margin of ``glass`` px."""
    rng = np.random.default_rng(seed)
    field = scipy.ndimage.gaussian_filter(rng.random((height, width)), 4)
    field = (field - field.min()) / np.ptp(field)
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    inside = (slice(glass, height - glass), slice(glass, width - glass))
    pixels[inside] = paint(field)[inside]
    pixels[inside][..., 0] = red
    return write_pyramid(path, pixels, mpp=mpp)


def write_cohort(folder: Path, count: int, **options: Any) -> list[SlideRow]:
    """Slides s00, s01 ... of one patient p."""
    folder.mkdir(parents=True)
    lines = ["slide_id,path,patient_id"]
    for i in range(count):
        write_slide(folder / f"s{i:02}.tif", seed=i, **options)
        lines.append(f"s{i:02},s{i:02}.tif,p")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return read_cohort([folder / "cohort.csv"])


def make_run(
    root: Path | str, rows: Sequence[SlideRow], config: RunConfig
) -> RunDirectory:
    """A finished run, made in this process; drivers that import this need no torch."""
    from digipath_ray.networks.predict import load_ensemble
    from digipath_ray.pipeline.eager import run_eagerly

    run = RunDirectory(root)
    run_eagerly(run, rows, config, load_ensemble(config))
    return run


def heatmaps(run: RunDirectory) -> dict[str, Heatmap]:
    """The heatmaps of the finished slides."""
    return {i: read_heatmap(run.heatmap(i)) for i in run.read_done()}


def stamps(run: RunDirectory) -> dict[str, tuple[int, bytes]]:
    """Of each finished slide when it was finished, and its heatmap's bytes."""
    return {
        i: (run.done(i).stat().st_mtime_ns, run.heatmap(i).read_bytes())
        for i in run.read_done()
    }


def hears(**reactions: Callable[..., object]) -> RunListener:
    """A listener that calls these functions, by the names of its methods."""
    listener = RunListener()
    vars(listener).update(reactions)
    return listener


def workers(name: str, root: int | None = None) -> list[psutil.Process]:
    """This test's Ray workers (or those below process ``root``) busy with ``name``."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def wait_for_worker(name: str, *, seconds: float = 60) -> psutil.Process:
    """The first worker seen at ``name``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := workers(name):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"no worker ran {name} within {seconds} s")
