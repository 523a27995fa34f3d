"""What artifacts do to tumor that a network finds, and what leaving them out takes.

    python -m tests.benchmarks.artifact_tumor DATA WEIGHTS [--images N]

DATA is the shared data's folder, WEIGHTS a member fitted on some patients of GlaS. Into
N images of others, half of them malignant, one artifact is put at a time: their right
half out of focus by disks of several radii, or a fold, pen, rim or blot. Printed over
the artifact, with it and, in brackets, without it at the same place: percent of the
area that is called tumor and is none (false), and that is tumor and not found (missed);
Dice; and of the false and of the true tumor found there the percent that lies in the
map of artifacts, of any kind.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.artifacts.find import find_artifacts
from digipath_ray.artifacts.kinds import BY_NAME
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
from tests.flaws import (
    Bools,
    Pixels,
    band,
    defocused,
    disk,
    folded,
    gray,
    overlaid,
    ring,
    scanned,
    stained,
)

Counts = NDArray[np.float64]
MPP = 0.62
RADII_UM = (1, 2, 4, 8)


def flaws(rgb: Pixels, seed: int) -> Iterator[tuple[str, Pixels, Bools]]:
    """Every artifact, each in a copy of the image, and where it lies."""
    shape, x, y = rgb.shape[:2], rgb.shape[1] / 2, rgb.shape[0] / 2
    right = np.zeros(shape, np.bool_)
    right[:, shape[1] // 2 :] = True
    for um in RADII_UM:
        name = f"out of focus, disk of {um} um"
        yield name, defocused(rgb, right, radius_px=um / MPP), right
    lying = band(shape, width_px=60 / MPP, length_px=400 / MPP, seed=seed)
    for times in (1.5, 2, 3):
        name = f"fold 60 um wide, density x {times:g}"
        yield name, folded(rgb, lying, times=times), lying
    over = overlaid(rgb, lying, shift=(130, 210))
    yield "fold 60 um wide, another part over it", over, lying
    stroke = band(shape, width_px=150 / MPP, length_px=400 / MPP, seed=seed)
    for ink, color in (("blue", (60, 90, 190)), ("green", (60, 150, 90))):
        yield f"{ink} pen 150 um wide", stained(rgb, stroke, color=color), stroke
    rim = ring(shape, x=x, y=y, radius_px=140 / MPP, width_px=24 / MPP)
    yield "rim 24 um wide, density 0.6", stained(rgb, rim, color=gray(0.6)), rim
    spot = disk(shape, x=x, y=y, radius_px=50 / MPP)
    for density in (0.4, 0.8):
        name = f"blot 100 um wide, density {density:g}"
        yield name, stained(rgb, spot, color=gray(density)), spot


def predict_and_look(
    rgb: Pixels, config: RunConfig, predict: PredictChunk, file: Path
) -> tuple[Bools, Bools]:
    """Tumor and artifacts of any kind [rows, cols] at the heatmap's px."""
    Image.fromarray(rgb).save(file, compress_level=1)
    heatmap = segment_slide(file, config, predict, slide_mpp=MPP)
    with open_slide(file, mpp=MPP) as slide:
        thumbnail, tissue = find_slide_tissue(slide, config)
        found = find_artifacts(thumbnail, tissue, read_detail(slide, tissue.mask))
    tumor = heatmap.above(config.outcome.threshold)
    onto = (heatmap.mpp_x, heatmap.mpp_y)
    anything = found.where(*BY_NAME)
    where = (found.mpp_x, found.mpp_y)
    return tumor, at_centers(anything, tumor.shape, mpp=where, onto=onto)


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


def count(tumor: Bools, real: Bools, where: Bools, artifact: Bools) -> Counts:
    """Px over ``where``: all, false, missed, true; false and true in artifacts."""
    false, true = tumor & ~real & where, tumor & real & where
    missed = real & ~tumor & where
    planes = (where, false, missed, true, false & artifact, true & artifact)
    return np.array([plane.sum() for plane in planes], float)


def format_row(name: str, flawed: Counts, clean: Counts) -> str:
    """A row of the table, of px summed over the images."""
    cells = []
    for area, false, missed, true, *_ in (flawed, clean):
        dice = 2 * true / max(2 * true + false + missed, 1)
        cells.append(
            (f"{100 * false / area:.1f}", f"{100 * missed / area:.1f}", f"{dice:.3f}")
        )
    both = [f"{new} ({old})" for new, old in zip(*cells, strict=True)]
    _, false, _, true, false_out, true_out = flawed
    both += [f"{100 * false_out / max(false, 1):.0f}" if false else "-"]
    both += [f"{100 * true_out / max(true, 1):.0f}" if true else "-"]
    return f"| {name} | {' | '.join(both)} |"


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
    flawed: dict[str, Counts] = {}
    clean: dict[str, Counts] = {}
    onto = (config.grid.mpp * config.grid.downsample,) * 2
    for seed, row in enumerate(rows):
        glas = arguments.data / "glas"
        with Image.open(glas / row["image"]) as image:
            rgb = np.asarray(image.convert("RGB"))
        with Image.open(glas / row["mask"]) as mask:
            truth = np.asarray(mask) > 0
        truth &= row["grade"] == "malignant"
        file = arguments.scratch / "half.png"
        plain = predict_and_look(scanned(rgb), config, predict, file)
        real = at_centers(truth, plain[0].shape, mpp=(MPP, MPP), onto=onto)
        for name, made, place in flaws(rgb, seed):
            found = predict_and_look(scanned(made), config, predict, file)
            where = at_centers(place, real.shape, mpp=(MPP, MPP), onto=onto)
            for sums, (tumor, artifact) in ((flawed, found), (clean, plain)):
                counts = count(tumor, real, where, artifact)
                sums[name] = sums.get(name, 0) + counts
    print(len(rows), "images")
    for name, counts in flawed.items():
        print(format_row(name, counts, clean[name]))


if __name__ == "__main__":
    main()
