"""What defocus does to tumor that a network finds, and what leaving it out takes away.

    python -m tests.benchmarks.artifact_tumor DATA WEIGHTS [--images N]

DATA is the shared data's folder, WEIGHTS a member fitted on some patients of GlaS. Of N
images of others, half of them malignant, the right half is put out of focus by disks of
several radii. Printed over that half: radius in um; percent of its area that is called
tumor and is none (false), and that is tumor and not found (missed); Dice; and of the
false and of the true tumor found there the percent that lies in the map's blur.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from digipath_ray.artifacts.find import find_artifacts
from digipath_ray.artifacts.read import read_detail
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import load_config, merge
from digipath_ray.networks.predict import load_ensemble
from digipath_ray.networks.resolve import resolve
from digipath_ray.pipeline.prepare import find_slide_tissue
from digipath_ray.pipeline.segment import PredictChunk, segment_slide
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import at_centers
from tests.benchmarks.glas import print_head
from tests.flaws import Bools, Pixels, defocused, scanned

MPP = 0.62
RADII_UM = (0, 1, 2, 4, 8)


def predict_and_look(
    rgb: Pixels, config: RunConfig, predict: PredictChunk, file: Path
) -> tuple[Bools, Bools]:
    """Tumor and blur [rows, cols] at the image's px."""
    Image.fromarray(rgb).save(file, compress_level=1)
    heatmap = segment_slide(file, config, predict, slide_mpp=MPP)
    with open_slide(file, mpp=MPP) as slide:
        thumbnail, tissue = find_slide_tissue(slide, config)
        found = find_artifacts(thumbnail, tissue, read_detail(slide, tissue.mask))
    tumor = heatmap.above(config.outcome.threshold)
    onto = (heatmap.mpp_x, heatmap.mpp_y)
    blur = at_centers(
        found.where("blur"), tumor.shape, mpp=(found.mpp_x, found.mpp_y), onto=onto
    )
    return tumor, blur


def held_out(data: Path, card: Path, images: int) -> list[dict[str, str]]:
    """Rows of glas.csv of patients that a member never saw, both grades in turn."""
    seen = set(json.loads(card.read_text("utf-8"))["training_slides"])
    with (data / "glas" / "glas.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    patients = {row["patient_id"] for row in rows if row["slide_id"] in seen}
    rest = [row for row in rows if row["patient_id"] not in patients]
    grades = [[r for r in rest if r["grade"] == g] for g in ("benign", "malignant")]
    picked = [g[:: max(1, 2 * len(g) // images)][: images // 2] for g in grades]
    return [row for pair in zip(*picked, strict=False) for row in pair]


def format_row(
    radius: int,
    area: float,
    false: float,
    missed: float,
    true: float,
    false_out: float,
    true_out: float,
) -> str:
    """A row of the table, of px summed over the images."""
    dice = 2 * true / max(2 * true + false + missed, 1)
    return (
        f"| {radius} | {100 * false / area:.1f} | {100 * missed / area:.1f} "
        f"| {dice:.3f} | {100 * false_out / max(false, 1):.0f} "
        f"| {100 * true_out / max(true, 1):.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--scratch", type=Path, default=Path())
    arguments = parser.parse_args()
    print_head()
    ensemble = {"ensemble": {"tta": ["identity"]}, "grid": {"downsample": 4}}
    tree = merge(load_config(preset="glas"), ensemble)
    config = resolve(tree, weights=str(arguments.weights))
    predict = load_ensemble(config)
    card = arguments.weights.with_suffix(".json")
    rows = held_out(arguments.data, card, arguments.images)
    sums = {radius: np.zeros(6) for radius in RADII_UM}
    for row in rows:
        glas = arguments.data / "glas"
        with Image.open(glas / row["image"]) as image:
            rgb = np.asarray(image.convert("RGB"))
        with Image.open(glas / row["mask"]) as mask:
            truth = np.asarray(mask) > 0
        truth &= row["grade"] == "malignant"
        right = np.zeros(truth.shape, np.bool_)
        right[:, truth.shape[1] // 2 :] = True
        for radius in RADII_UM:
            made = defocused(rgb, right, radius_px=radius / MPP) if radius else rgb
            tumor, blur = predict_and_look(
                scanned(made), config, predict, arguments.scratch / "half.png"
            )
            onto = (config.grid.mpp * config.grid.downsample,) * 2
            scale = {"mpp": (MPP, MPP), "onto": onto}
            where = at_centers(right, tumor.shape, **scale)
            real = at_centers(truth, tumor.shape, **scale)
            false, true = tumor & ~real & where, tumor & real & where
            missed = real & ~tumor & where
            counted = (where, false, missed, true, false & blur, true & blur)
            sums[radius] += [plane.sum() for plane in counted]
    print(len(rows), "images")
    for radius, counts in sums.items():
        print(format_row(radius, *counts.tolist()))


if __name__ == "__main__":
    main()
