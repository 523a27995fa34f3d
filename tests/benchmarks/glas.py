"""Real results on GlaS: glands of malignant images as tumor, and what errors look like.

    python -m tests.benchmarks.glas cohort GLAS_FOLDER --out glas.csv [--test 3,7,9]
    digipath train glas.csv --config jobs/glas.toml --out fit
    digipath run glas.csv --config jobs/glas.toml --weights fit --out-of-fold \\
        --keep-members --out run
    python -m tests.benchmarks.glas scores glas.csv run [--against other]

GLAS_FOLDER holds glas.csv (slide_id, image, mask, patient_id, grade), the images and
the instance masks of their glands. A benign image has no tumor pixel. A proxy of tumor
segmentation, not comparable with DigestPath. With --against both runs are scored, each
at its own threshold, and image by image the difference to the other.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import auc, roc_auc_score

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.config.toml import read_toml
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.compare import mask_dice
from digipath_ray.run.directory import RunDirectory
from digipath_ray.tissue.mask import at_centers

PIXELS = 2_000_000
"""Pixels drawn for the scores of uncertainty: all of them would tell no more."""
RESAMPLES = 2000
MPP = 0.62
"""Of the images, um per px."""


def write_cohort(folder: Path, out: Path, test_patients: Sequence[str]) -> None:
    """The table of GlaS as a cohort: benign images are negative slides."""
    with (folder / "glas.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = [
        SlideRow(
            slide_id=row["slide_id"],
            path=str((folder / row["image"]).absolute()),
            annotation=(
                str((folder / row["mask"]).absolute())
                if row["grade"] == "malignant"
                else None
            ),
            label="tumor" if row["grade"] == "malignant" else "negative",
            patient_id=row["patient_id"],
            split="test" if row["patient_id"] in test_patients else "train",
        )
        for row in found
    ]
    write_manifest(rows, out)


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """An image with its truth and its maps, float32 [H, W] by name."""

    row: SlideRow
    truth: NDArray[np.bool_]
    maps: dict[str, NDArray[np.float32]]

    @property
    def malignant(self) -> bool:
        return self.row.annotation is not None


def read_case(row: SlideRow, run: RunDirectory) -> Case:
    heatmap = read_heatmap(run.heatmap(row.slide_id))
    truth = np.zeros((heatmap.height, heatmap.width), bool)
    if row.annotation is not None:
        drawn = np.asarray(Image.open(row.annotation)) > 0
        onto = heatmap.mpp_x, heatmap.mpp_y
        shape = heatmap.height, heatmap.width
        truth = at_centers(drawn, shape, mpp=(MPP, MPP), onto=onto)
    maps = dict(zip(heatmap.channels, heatmap.data, strict=True))
    return Case(row=row, truth=truth, maps=maps)


def jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def interval(
    values: Sequence[float], patients: Sequence[str], rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of the mean when patients are drawn anew (percentile bootstrap)."""
    groups = {
        p: [v for v, q in zip(values, patients, strict=True) if q == p]
        for p in patients
    }
    names = sorted(groups)
    means = []
    for _ in range(RESAMPLES):
        drawn = rng.choice(names, len(names))
        means.append(np.mean([v for name in drawn for v in groups[name]]))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def score_map(cases: Sequence[Case], name: str, threshold: float) -> str:
    """A member's or the ensemble's row of the table, over images that it predicted."""
    rng = np.random.default_rng(0)
    cases = [c for c in cases if name in c.maps]
    sick = [c for c in cases if c.malignant]
    patients = [str(c.row.patient_id) for c in sick]
    found = [c.maps[name] >= threshold for c in sick]
    cells = []
    measures: tuple[Callable[..., float], ...] = (mask_dice, jaccard)
    for measure in measures:
        values = [float(measure(f, c.truth)) for f, c in zip(found, sick, strict=True)]
        low, high = interval(values, patients, rng)
        cells.append(f"{np.mean(values):.3f} ({low:.3f}-{high:.3f})")
    hit = sum(int((f & c.truth).sum()) for f, c in zip(found, sick, strict=True))
    both = sum(int(f.sum() + c.truth.sum()) for f, c in zip(found, sick, strict=True))
    well = [float((c.maps[name] >= threshold).mean()) for c in cases if not c.malignant]
    area = f"{np.mean(well):.1%}" if well else "-"
    return f"| {name} | {cells[0]} | {cells[1]} | {2 * hit / both:.3f} | {area} |"


def print_difference(
    cases: Sequence[Case], threshold: float, others: Sequence[Case], at: float
) -> None:
    """How much better the first run is than the other, image by image."""
    rng = np.random.default_rng(0)
    pairs = [(c, o) for c, o in zip(cases, others, strict=True) if c.malignant]
    patients = [str(c.row.patient_id) for c, _ in pairs]
    for measure in (mask_dice, jaccard):
        gains = [
            float(measure(c.maps["probability"] >= threshold, c.truth))
            - float(measure(o.maps["probability"] >= at, o.truth))
            for c, o in pairs
        ]
        low, high = interval(gains, patients, rng)
        better = sum(gain > 0 for gain in gains)
        print(
            f"{measure.__name__}: {np.mean(gains):+.3f} ({low:+.3f} to {high:+.3f}), "
            f"better on {better} of {len(gains)} images"
        )


def draw_pixels(cases: Sequence[Case]) -> dict[str, NDArray[np.float32]]:
    """Pixels of all images together, as many of them as scores need."""
    rng = np.random.default_rng(0)
    share = min(1.0, PIXELS / sum(c.truth.size for c in cases))
    chosen = [rng.random(c.truth.shape) < share for c in cases]
    names = set.intersection(*(set(c.maps) for c in cases))
    pixels = {
        n: np.concatenate([c.maps[n][k] for c, k in zip(cases, chosen, strict=True)])
        for n in names
    }
    truth = [c.truth[k] for c, k in zip(cases, chosen, strict=True)]
    return {**pixels, "truth": np.concatenate(truth).astype(np.float32)}


def score_uncertainty(cases: Sequence[Case], threshold: float) -> list[str]:
    """How well each map tells errors, beside the plain distance from 0.5."""
    pixels = draw_pixels(cases)
    probability = pixels["probability"]
    wrong = (probability >= threshold) != (pixels["truth"] > 0)
    maps: dict[str, NDArray[np.float32]]
    maps = {n: pixels[n] for n in ("epistemic", "aleatoric") if n in pixels}
    maps["0.5 - abs(p - 0.5)"] = 0.5 - np.abs(probability - 0.5)
    rows = []
    for name, uncertainty in maps.items():
        order = np.argsort(uncertainty, kind="stable")
        risk = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
        coverage = np.arange(1, len(order) + 1) / len(order)
        at80 = risk[int(0.8 * len(order)) - 1]
        rows.append(
            f"| {name} | {roc_auc_score(wrong, uncertainty):.3f} | "
            f"{auc(coverage, risk):.4f} | {at80:.4f} | {wrong.mean():.4f} |"
        )
    return rows


def print_head(*names: str) -> None:
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))


def read_cases(cohort: Path, run: RunDirectory) -> tuple[list[Case], float]:
    """The images that a run has finished, and its threshold."""
    rows = [r for r in read_cohort([cohort]) if run.done(r.slide_id).exists()]
    threshold = read_toml(run.settings)["outcome"]["threshold"]
    return [read_case(row, run) for row in rows], threshold


def print_scores(cohort: Path, run: RunDirectory, against: Path | None) -> None:
    cases, threshold = read_cases(cohort, run)
    patients = {c.row.patient_id for c in cases}
    sick = sum(c.malignant for c in cases)
    print(f"{len(cases)} images ({sick} malignant) of {len(patients)} patients,")
    print(f"threshold {threshold:.3f} (chosen on the members' validation patients)\n")
    print_head("map", "Dice, malignant", "Jaccard", "pooled Dice", "benign area called")
    members = {n for c in cases for n in c.maps if n.startswith("member:")}
    for name in ["probability", *sorted(members)]:
        print(score_map(cases, name, threshold))
    if against is not None:
        others, at = read_cases(cohort, RunDirectory(against))
        print(score_map(others, "probability", at).replace("probability", against.name))
        print_difference(cases, threshold, others, at)
    print()
    print_head("uncertainty", "AUROC of error", "AURC", "risk at 80 %", "risk at 100 %")
    for line in score_uncertainty(cases, threshold):
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    cohort = commands.add_parser("cohort")
    cohort.add_argument("folder", type=Path)
    cohort.add_argument("--out", type=Path, required=True)
    cohort.add_argument("--test", default="", help="patients held out, comma-separated")
    scores = commands.add_parser("scores")
    scores.add_argument("cohort", type=Path)
    scores.add_argument("run", type=Path)
    scores.add_argument("--against", type=Path, help="another run of the images")
    given = parser.parse_args()
    if given.command == "cohort":
        write_cohort(given.folder, given.out, given.test.split(","))
    else:
        print_scores(given.cohort, RunDirectory(given.run), given.against)


if __name__ == "__main__":
    main()
