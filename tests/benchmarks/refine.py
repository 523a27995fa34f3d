"""Refined outlines against the threshold's, on images whose truth is known.

    python -m tests.benchmarks.refine RUN

RUN is a finished run whose slides have annotations, best predicted out of fold. For
each method the parameters are chosen by mean Dice on all patients but one, and scored
on that one; images without tumor have no part in the scores. The last column is the
area called tumor on images without any. The 95 % Hausdorff distance is the 95th
percentile of the distances from each outline to the other, the larger of the two.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import OutcomeSpec, Refine
from digipath_ray.config.toml import read_toml, recipe_from_tree
from digipath_ray.outcome.refine import refine_heatmap
from digipath_ray.pipeline.prepare import open_cohort_slide
from digipath_ray.run.compare import mask_dice
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import FinishedRun, read_run
from digipath_ray.run.truth import read_truth
from tests.benchmarks.glas import interval, jaccard, print_head

Bools = NDArray[np.bool_]
METHODS: tuple[Refine, ...] = ("crf", "random-walker", "contour")
NONE: Refine = "none"
UM, COLOR, STRENGTH = (5.0, 10.0, 20.0), (10.0, 20.0, 40.0), (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of an image: Dice, Jaccard, distance in um (NaN where one is empty)."""

    dice: float
    jaccard: float
    apart_um: float
    area: float


def hausdorff95(found: Bools, truth: Bools, um_per_px: float) -> float:
    """95 % Hausdorff distance of two outlines, um; NaN where one has none."""
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (found, truth)]
    if not all(edge.any() for edge in edges):
        return float("nan")
    ways = [
        np.percentile(ndimage.distance_transform_edt(~other)[edge], 95)
        for edge, other in (edges, edges[::-1])
    ]
    return float(max(ways) * um_per_px)


def specs(plain: OutcomeSpec, method: Refine) -> list[OutcomeSpec]:
    """The method with all parameters that are tried."""
    return [
        replace(
            plain,
            refine=method,
            refine_um=um,
            refine_color=color,
            refine_strength=strength,
        )
        for um, color, strength in itertools.product(UM, COLOR, STRENGTH)
    ]


def score_slide(
    run: FinishedRun,
    slide_id: str,
    tried: Sequence[OutcomeSpec],
    annotations: AnnotationSpec,
) -> list[Score]:
    """Scores of an image, one for each of what is tried."""
    slide = run.slide(slide_id)
    heatmap, truth = slide.heatmap, read_truth(slide, annotations)
    record, scale = slide.record, (slide.l0_per_hm_x, slide.l0_per_hm_y)
    with open_cohort_slide(record.path, record.mpp, run.config) as opened:
        height, width = heatmap.weight.shape
        colors = opened.means(scale, (slice(0, height), slice(0, width)))
    scores = []
    for spec in tried:
        found = heatmap.above(spec.threshold)
        if spec.refine != "none":
            found = refine_heatmap(heatmap, lambda box: colors[box], spec)
        scores.append(
            Score(
                dice=float(mask_dice(found, truth.tumor)),
                jaccard=jaccard(found, truth.tumor),
                apart_um=hausdorff95(found, truth.tumor, heatmap.mpp_x),
                area=float(found.mean()),
            )
        )
    return scores


def chosen(
    scores: dict[str, list[Score]], patients: dict[str, str]
) -> tuple[dict[str, Score], dict[str, int]]:
    """Scores by the parameters that are best on other patients; and which these are."""
    found, best = {}, {}
    for patient in sorted(set(patients.values())):
        others = [s for s, p in patients.items() if p != patient]
        means = np.mean([[t.dice for t in scores[s]] for s in others], 0)
        best[patient] = int(means.argmax())
        for slide_id, own in patients.items():
            if own == patient:
                found[slide_id] = scores[slide_id][best[patient]]
    return found, best


def main() -> None:
    """Print a row for the threshold and one for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--config", type=Path, help="TOML whose [annotations] count")
    asked = parser.parse_args()
    run = read_run(RunDirectory(asked.run))
    tree = read_toml(asked.config) if asked.config else {}
    annotations = recipe_from_tree({"annotations": tree.get("annotations", {})})
    sick = [s for s, r in run.records.items() if r.slide.annotation is not None]
    well = [s for s in run.records if s not in sick]
    patients = {s: str(run.records[s].slide.patient_id) for s in sick}
    plain = replace(run.config.outcome, refine="none")
    people = len(set(patients.values()))
    print(f"{len(sick)} images of {people} patients, {len(well)} benign")
    print_head("outline", "Dice", "Jaccard", "95 % Hausdorff, um", "benign", "chosen")
    for method in (NONE, *METHODS):
        tried = [plain] if method == NONE else specs(plain, method)
        scores = {
            s: score_slide(run, s, tried, annotations.annotations)
            for s in (*sick, *well)
        }
        found, best = chosen({s: scores[s] for s in sick}, patients)
        rng, cells = np.random.default_rng(0), []
        for name in ("dice", "jaccard", "apart_um"):
            values = {s: getattr(found[s], name) for s in sick}
            kept = [s for s, v in values.items() if not np.isnan(v)]
            numbers = [values[s] for s in kept]
            low, high = interval(numbers, [patients[s] for s in kept], rng)
            cells.append(f"{np.mean(numbers):.3f} ({low:.3f} to {high:.3f})")
        usual = max(set(best.values()), key=list(best.values()).count)
        area = np.mean([scores[s][usual].area for s in well]) if well else np.nan
        spec = tried[usual]
        named = (
            f"{spec.refine_um:g} um, {spec.refine_color:g}, {spec.refine_strength:g}"
        )
        print(f"| {method} | {' | '.join(cells)} | {area:.1%} | {named} |")


if __name__ == "__main__":
    main()
