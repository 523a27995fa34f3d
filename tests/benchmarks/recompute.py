"""How long outcomes take to be made anew from stored heatmaps, without a GPU.

    python -m tests.benchmarks.recompute RUN [--slides 500] [--side 5000]

Writes a run directory of slides with stored heatmaps (side x side px of 4 um, three
channels, tissue on a third, up to a dozen lesions and specks; ten different ones,
linked under many names), then measures it by ``digipath stage``.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from scipy import ndimage

from digipath_ray.config.run import MemberSpec, OutcomeSpec, RunConfig
from digipath_ray.config.toml import to_tree
from digipath_ray.heatmap.file import write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.run.directory import RunDirectory
from digipath_ray.schema import SLIDES
from digipath_ray.tissue.mask import Mask, write_mask

DISTINCT = 10
MPP, L0_MPP = 4.0, 0.25
MASK_MPP = 8.0
MEMBERS = ("first", "second")


def draw_disc(side: int, x: float, y: float, radius: float) -> np.ndarray[Any, Any]:
    row, col = np.ogrid[:side, :side]
    return np.asarray((row - y) ** 2 + (col - x) ** 2 <= radius**2)


def draw_heatmap(side: int, seed: int) -> Heatmap:
    """Noise that is smooth, over tissue alone, and lesions from 20 um to 4 mm."""
    rng = np.random.default_rng(seed)
    tissue = draw_disc(side, side / 2, side / 2, side * 0.33)
    coarse = ndimage.zoom(rng.random((side // 16, side // 16)), 16, order=1)
    noise = np.zeros((side, side))
    noise[: coarse.shape[0], : coarse.shape[1]] = coarse
    probability = 0.3 * noise
    for _ in range(int(rng.integers(0, 12))):
        x, y = rng.uniform(0.25, 0.75, 2) * side
        radius = np.exp(rng.uniform(np.log(2.5), np.log(500)))
        probability[draw_disc(side, x, y, radius)] = rng.uniform(0.7, 0.99)
    specks = rng.integers(0, side, (200, 2))
    probability[specks[:, 0], specks[:, 1]] = 0.6
    probability = np.where(tissue, probability, 0).astype(np.float32)
    epistemic = (probability * (1 - probability) / 4).astype(np.float32)
    return Heatmap(
        channels=("probability", "epistemic"),
        data=np.stack([probability, epistemic]),
        weight=tissue.astype(np.float32) * 4,
        mpp_x=MPP,
        mpp_y=MPP,
    )


def slide_row(slide_id: str, side: int, tissue_mm2: float) -> dict[str, Any]:
    length = int(side * MPP / L0_MPP)
    return {
        **dict.fromkeys(SLIDES.names),
        "slide_id": slide_id,
        "path": f"/slides/{slide_id}.tif",
        "patient_id": slide_id.rsplit("_node_", 1)[0],
        "width": length,
        "height": length,
        "mpp_x": L0_MPP,
        "mpp_y": L0_MPP,
        "mpp_source": "file",
        "level_downsamples": [1.0],
        "level": 0,
        "effective_mpp_x": L0_MPP,
        "effective_mpp_y": L0_MPP,
        "upsampled": False,
        "patches": 1,
        "chunks": 1,
        "tissue_mm2": tissue_mm2,
        **dict.fromkeys(("ink", "ink_over_tissue", "blur", "black", "blank"), 0.0),
        "mpp_deviation": 0.0,
        "qc": [],
        "seen_by": [],
    }


def write_run(root: Path, slides: int, side: int) -> None:
    """A run directory as a night leaves it, its heatmaps linked from ten."""
    run = RunDirectory(root)
    run.create()
    config = RunConfig(
        members=tuple(MemberSpec(name=n, architecture="Unet") for n in MEMBERS),
        outcome=OutcomeSpec(),
    )
    run.settings.write_text(tomli_w.dumps(to_tree(config)), encoding="utf-8")
    rows = []
    for number in range(slides):
        slide_id = f"patient_{number // 5:03}_node_{number % 5}"
        like = number % DISTINCT
        if number < DISTINCT:
            heatmap = draw_heatmap(side, seed=number)
            write_heatmap(run.heatmap(slide_id), heatmap, name=slide_id)
            tissue: Map = heatmap.weight[::2, ::2]
            mask = Mask(array=tissue > 0, mpp_x=MASK_MPP, mpp_y=MASK_MPP)
            write_mask(run.mask(slide_id), mask)
        else:
            first = f"patient_{like // 5:03}_node_{like % 5}"
            for file in (run.heatmap, run.mask):
                os.link(file(first), file(slide_id))
        row = slide_row(slide_id, side, float(np.pi * (side * 0.33 * MPP / 1e3) ** 2))
        rows.append(row)
        outcome = {"slide_id": slide_id, "seconds": 1.0, "members": list(MEMBERS)}
        record = {
            "outcome": outcome,
            "slide": row,
            "slide_mpp": None,
            "mask_digest": None,
            "precision": "float32",
            "members": dict.fromkeys(MEMBERS),
        }
        run.write_json(run.done(slide_id), record)
    run.write_table(run.slides, rows, SLIDES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--slides", type=int, default=500)
    parser.add_argument("--side", type=int, default=5000)
    given = parser.parse_args()
    if not (given.run / "run.toml").exists():
        write_run(given.run, given.slides, given.side)
    started = time.perf_counter()
    digipath = Path(sys.executable).with_name("digipath")
    subprocess.run([digipath, "stage", str(given.run)], check=True)
    seconds = time.perf_counter() - started
    print(
        f"{given.slides} slides of {given.side} x {given.side} px: {seconds:.0f} s, "
        f"{seconds / given.slides:.2f} s a slide on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
