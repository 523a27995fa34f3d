"""The demo's ensemble against the best threshold on hematoxylin, on slides new to both.

    python -m tests.benchmarks.demo_quality [--seeds 7 301 302] [--out DIR]

Draws a demo cohort of each seed, runs it as ``digipath demo`` does, and holds it
against the truth. The threshold is given all it could wish for: the dyes' true colors,
tissue alone, the better direction, and the best of several scales of smoothing, scale
and threshold chosen on these very slides.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import DEMO_SEED, build_demo_cohort
from digipath_ray.demo.painting import EOSIN_OD, HEMATOXYLIN_OD
from digipath_ray.demo.score import SlideScore, dice_of, score_run
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import read_mask, read_mask_image

SEEDS = (DEMO_SEED, 301, 302)
SMOOTH_UM = (0, 2, 4, 8, 16, 32, 64, 128)
"""Deviations of the Gaussian; 0: pixel by pixel, 1 um wide."""
TRUTH_UM = 4
EDGES = np.linspace(-0.5, 3.0, 1401)
"""Of the bins of hematoxylin, between which thresholds lie."""
LESION = ("macro", "micro")


@dataclass(frozen=True, kw_only=True)
class Darkness:
    """How much of a slide's tissue, and of its tumor, is how dark, in mm2.

    Attributes:
        tissue, tumor: [scales, bins].
        tumor_mm2: all of it, in the tissue mask or not.
    """

    tissue: NDArray[np.float64]
    tumor: NDArray[np.float64]
    tumor_mm2: float

    def __add__(self, other: "Darkness") -> "Darkness":
        return Darkness(
            tissue=self.tissue + other.tissue,
            tumor=self.tumor + other.tumor,
            tumor_mm2=self.tumor_mm2 + other.tumor_mm2,
        )

    def best(self) -> tuple[float, int]:
        """The highest Dice of any threshold, and the smoothing it takes, um."""
        dice = np.zeros(len(SMOOTH_UM))
        for way in (slice(None), slice(None, None, -1)):  # darker, or paler
            found = np.cumsum(self.tissue[:, way], axis=1)
            shared = np.cumsum(self.tumor[:, way], axis=1)
            each = 2 * shared / (found + self.tumor_mm2)
            dice = np.maximum(dice, each.max(axis=1))
        return float(dice.max()), SMOOTH_UM[int(dice.argmax())]


def hematoxylin(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Density [H, W] of hematoxylin, eosin taken out, in the dyes' own colors."""
    dyes = np.array([HEMATOXYLIN_OD, EOSIN_OD])
    rest = np.cross(*dyes)
    unmix = np.linalg.inv(np.stack([*dyes, rest / np.linalg.norm(rest)]))[:, :1]
    density = -np.log(np.maximum(np.arange(256), 1) / 256).astype(np.float32)
    return (density[rgb] @ unmix.astype(np.float32))[..., 0]


def measure_darkness(
    rgb: NDArray[np.uint8], truth: NDArray[np.bool_], tissue: NDArray[np.bool_]
) -> Darkness:
    """The slide's hematoxylin at 1 um/px, by truth and tissue at TRUTH_UM."""
    found = []
    for values, zoom in smoothed(hematoxylin(rgb)):
        inside, tumor = (m.repeat(zoom, 0).repeat(zoom, 1) for m in (tissue, truth))
        px_mm2 = (TRUTH_UM / zoom) ** 2 / 1e6
        kinds = (values[inside], values[inside & tumor])
        found.append([np.histogram(k.clip(-0.5, 3), EDGES)[0] * px_mm2 for k in kinds])
    tissue_mm2, tumor_mm2 = np.array(found).transpose(1, 0, 2)
    return Darkness(
        tissue=tissue_mm2,
        tumor=tumor_mm2,
        tumor_mm2=float(truth.sum()) * TRUTH_UM**2 / 1e6,
    )


def smoothed(
    density: NDArray[np.float32],
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Each smoothing's values, and how many of their px lie along one of the truth."""
    rows, cols = (side // TRUTH_UM for side in density.shape)
    means = density.reshape(rows, TRUTH_UM, cols, TRUTH_UM).mean((1, 3))
    for um in SMOOTH_UM:
        if um < TRUTH_UM:
            yield ndimage.gaussian_filter(density, um) if um else density, TRUTH_UM
        else:
            yield ndimage.gaussian_filter(means, um / TRUTH_UM), 1


def measure_thresholds(run: RunDirectory, manifest: Path) -> dict[str, Darkness]:
    """The darkness of every finished slide."""
    found = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not run.done(row["slide_id"]).exists():
            continue
        with open_slide(manifest.parent / row["path"]) as slide:
            rgb = slide.read_level(0, 0, 0, slide.info.width, slide.info.height)
        truth = np.zeros([side // TRUTH_UM for side in rgb.shape[:2]], np.bool_)
        if row["annotation"]:
            truth = read_mask_image(manifest.parent / row["annotation"])
        mask = Image.fromarray(read_mask(run.mask(row["slide_id"])).array)
        tissue = np.asarray(mask.resize(truth.shape[::-1], Image.Resampling.NEAREST))
        found[row["slide_id"]] = measure_darkness(rgb, truth, tissue)
    return found


def run_seed(folder: Path, seed: int) -> tuple[list[SlideScore], dict[str, Darkness]]:
    """Draw a demo cohort, run it, and measure both."""
    manifest = build_demo_cohort(folder / "cohort", seed=seed)
    config, run = resolve(load_config(preset="demo")), RunDirectory(folder / "run")
    run_cohort(run, read_cohort([manifest]), config)
    scores = score_run(run, manifest, threshold=config.outcome.threshold)
    return scores, measure_thresholds(run, manifest)


def pool(darkness: Mapping[str, Darkness]) -> Darkness:
    """All slides together, so that one threshold has to do for them."""
    first, *others = darkness.values()
    return sum(others, start=first)


def print_seed(
    seed: int, scores: list[SlideScore], darkness: dict[str, Darkness]
) -> None:
    for s in scores:
        line = f"{seed:<5}{s.slide_id:<18}{s.label:<10}{s.tumor_mm2:>9.3f}"
        dice = f"{dice_of([s]):.3f}" if s.tumor_mm2 else "-"
        line += f"{s.found_mm2:>9.3f}{dice:>8}{s.false_share:>12.2%}"
        if s.tumor_mm2:
            best, um = darkness[s.slide_id].best()
            line += f"{best:>10.3f} at {um} um"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    print(
        f"{'seed':<5}{'slide':<18}{'planted':<10}{'tumor mm2':>9}{'found':>9}"
        f"{'Dice':>8}{'false area':>12}   threshold of its own"
    )
    scores: list[SlideScore] = []
    darkness: dict[str, Darkness] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in arguments.seeds:
            folder = (arguments.out or Path(temporary)) / str(seed)
            new, dark = run_seed(folder, seed)
            print_seed(seed, new, dark)
            scores += new
            darkness |= {f"{seed} {name}": d for name, d in dark.items()}
    with_tumor = {k: d for k, d in darkness.items() if d.tumor_mm2}
    large = [s for s in scores if s.label in LESION]
    small = [s for s in scores if s.label == "itc"]
    print(f"ensemble, all {len(scores)} slides together: Dice {dice_of(scores):.3f}")
    print(f"  macro and micro: {dice_of(large):.3f}, lowest of a slide ", end="")
    print(f"{min(dice_of([s]) for s in large):.3f}")
    print(f"  isolated cells: {dice_of(small):.3f}")
    print(f"  false area: at most {max(s.false_share for s in scores):.2%} of tissue")
    for name, some in (("all slides", darkness), ("those with tumor", with_tumor)):
        best, um = pool(some).best()
        print(f"best threshold on hematoxylin, {name}: Dice {best:.3f} (at {um} um)")


if __name__ == "__main__":
    main()
