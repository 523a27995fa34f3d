"""Forests against the size rule on simulated cohorts, and what SMOTETomek does for ITC.

    python -m tests.benchmarks.staging [--seeds 20] [--patients 100] [--noise 1.0]
        [--cache FOLDER] [--trees 1000] [--processes 1]

A seed draws patients of 5 nodes to fit on, and as many unseen ones. Their nodes are
those of CAMELYON17's 100 labeled patients, drawn with replacement. Every slide is a
probability map of 20 um/px: lesions of a known extent, blurred and with gaps, false
alarms that are long and often less sure, and noise; from there on all goes through
find_lesions, merge_lesions and measure_features as in a run. The noise is set so that
the fitted size rule has a patient kappa of 0.6 to 0.8. Nothing here says how well real
slides are staged.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from digipath_ray.config.run import OutcomeSpec
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.features import HIGH, LOW, measure_features
from digipath_ray.outcome.lesions import find_lesions
from digipath_ray.outcome.metastasis.fit_forests import Training, fit_forests
from digipath_ray.outcome.metastasis.fit_size_rule import (
    fit_size_rule,
    type_of_groups,
    undominated,
)
from digipath_ray.outcome.metastasis.forests import FORESTS, feature_matrix
from digipath_ray.outcome.metastasis.scores import score_types
from digipath_ray.outcome.metastasis.size_rule import (
    LesionGroup,
    SizeRule,
    merge_lesions,
)
from digipath_ray.outcome.metastasis.validation import LabeledSlides
from digipath_ray.outcome.staging import Metastasis

Map = NDArray[np.float32]
Draw = np.random.Generator

MPP = 20.0
SIDE = 256
RESAMPLES = 10_000
COMPOSITIONS = {
    "nnnnn": 24, "nnnnu": 9, "nnnnm": 9, "nmmmm": 8, "nnnuu": 6, "nuumm": 6,
    "nnnni": 4, "nnnii": 4, "nniii": 4, "nnnmm": 4, "nnnum": 3, "nnimm": 2,
    "nuuum": 2, "nnuum": 2, "iuumm": 2, "nnuuu": 2, "nnniu": 1, "nniiu": 1,
    "nnumm": 1, "nnnim": 1, "niumm": 1, "nnium": 1, "nummm": 1, "nniuu": 1,
    "nnmmm": 1,
}  # fmt: skip
"""Nodes of CAMELYON17's labeled patients: negative, itc, micro (u), macro."""
LETTERS = dict(zip("nium", Metastasis, strict=True))
EXTENTS_UM = {
    Metastasis.ITC: (60.0, 200.0),
    Metastasis.MICRO: (230.0, 2000.0),
    Metastasis.MACRO: (2100.0, 4200.0),
}
"""Extents of a slide's largest lesion, drawn evenly by their logarithm."""
SPEC = OutcomeSpec()
PRESET = SizeRule(
    min_extent_um=SPEC.min_lesion_um, min_p=SPEC.min_lesion_p, merge_um=SPEC.merge_um
)


# Slides.


def texture(draw: Draw, sigma: float) -> Map:
    """Smooth noise [SIDE, SIDE] of variance 1."""
    field = gaussian_filter(
        draw.standard_normal((SIDE, SIDE), np.float32), sigma, mode="wrap"
    )
    return np.asarray(field / field.std(), np.float32)


def log_uniform(draw: Draw, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def paint_blob(
    field: Map, draw: Draw, extent_um: float, aspect: float, strength: float
) -> None:
    """Raise ``field`` to ``strength`` over an ellipse of a length, anywhere on it."""
    half = max(extent_um / MPP / 2, 0.5)
    margin = min(half + 2, SIDE / 2 - 1)
    row, col = draw.uniform(margin, SIDE - margin, 2)
    reach = int(half) + 4
    window = tuple(
        slice(max(int(at) - reach, 0), min(int(at) + reach + 1, SIDE))
        for at in (row, col)
    )
    rows, cols = np.mgrid[window]
    angle = draw.uniform(0, np.pi)
    along = (rows - row) * np.sin(angle) + (cols - col) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (cols - col) * np.sin(angle)
    away = np.hypot(along, across / aspect) - half
    height = strength / (1 + np.exp(np.clip(2.0 * away, -30, 30)))
    np.maximum(field[window], height, out=field[window])


def paint_lesions(draw: Draw, kind: Metastasis) -> Map:
    """What the slide's metastases add to the logit; the first has the extent."""
    field = np.zeros((SIDE, SIDE), np.float32)
    if kind is Metastasis.NEGATIVE:
        return field
    low, high = EXTENTS_UM[kind]
    largest = log_uniform(draw, low, high)
    sureness = draw.normal(6.5, 1.5) + min(1.5, 0.6 * np.log(largest / 200.0))
    paint_blob(field, draw, largest, draw.uniform(0.4, 1.0), sureness)
    for _ in range(draw.poisson(2.0)):
        extent = log_uniform(draw, 40.0, max(0.6 * largest, 50.0))
        paint_blob(
            field, draw, extent, draw.uniform(0.4, 1.0), sureness + draw.normal(-1, 1)
        )
    return field


def paint_alarms(draw: Draw, noise: float) -> Map:
    """What false alarms add: longer than wide, and mostly of middling probability."""
    field = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(draw.poisson(noise * draw.gamma(1.0, 3.0))):
        extent = log_uniform(draw, 40.0, 700.0)
        paint_blob(field, draw, extent, draw.uniform(0.1, 0.4), draw.normal(6.0, 1.3))
    return field


def draw_heatmap(draw: Draw, kind: Metastasis, noise: float) -> Heatmap:
    lesions = paint_lesions(draw, kind)
    gaps = 1.0 - 0.25 * np.maximum(texture(draw, 4.0), 0)
    signal = np.maximum(lesions * gaps, paint_alarms(draw, noise))
    logit = -5.0 + signal + 0.4 * (texture(draw, 1.0) + texture(draw, 3.0))
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return Heatmap(
        channels=("probability",),
        data=probability[None],
        weight=np.ones((SIDE, SIDE), np.float32),
        mpp_x=MPP,
        mpp_y=MPP,
    )


def measure(heatmap: Heatmap) -> tuple[dict[str, float], list[LesionGroup]]:
    """A slide's features, and those of its merged lesions that can decide its size."""
    lesions = find_lesions(heatmap, OutcomeSpec().threshold)
    high, low = find_lesions(heatmap, HIGH), find_lesions(heatmap, LOW)
    tissue_mm2 = (SIDE * MPP / 1000) ** 2
    features = measure_features(high, low, tissue_mm2=tissue_mm2)
    return features, undominated(merge_lesions(lesions, SPEC.merge_um))


# Cohorts.


def draw_cohort(seed: Sequence[int], patients: int, noise: float) -> LabeledSlides:
    draw = np.random.default_rng(seed)
    weights = np.array(list(COMPOSITIONS.values())) / sum(COMPOSITIONS.values())
    drawn = draw.choice(list(COMPOSITIONS), patients, p=weights)
    kinds = [LETTERS[letter] for composition in drawn for letter in composition]
    found = [measure(draw_heatmap(draw, kind, noise)) for kind in kinds]
    names = [f"p{i:03}" for i in range(patients) for _ in range(5)]
    return LabeledSlides(
        slide_ids=[f"{name}_{i}" for i, name in enumerate(names)],
        patients=names,
        types=np.array(kinds, np.int64),
        features=feature_matrix([features for features, _ in found]),
        groups=[groups for _, groups in found],
    )


def cached_cohort(
    folder: Path | None, seed: int, part: int, *, patients: int, noise: float
) -> LabeledSlides:
    """The cohort of a seed; part 0 to fit on, 1 unseen."""
    if folder is None:
        return draw_cohort([seed, part], patients, noise)
    path = folder / f"{seed}-{part}-{patients}-{noise:g}.json"
    if not path.exists():
        cohort = draw_cohort([seed, part], patients, noise)
        told = {
            "slide_ids": cohort.slide_ids,
            "patients": cohort.patients,
            "types": cohort.types.tolist(),
            "features": cohort.features.tolist(),
            "groups": [[(g.extent_um, g.max_p) for g in gs] for gs in cohort.groups],
        }
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(told))
    told = json.loads(path.read_text())
    return LabeledSlides(
        slide_ids=told["slide_ids"],
        patients=told["patients"],
        types=np.array(told["types"], np.int64),
        features=np.array(told["features"], np.float64),
        groups=[
            [LesionGroup(numbers=(), extent_um=um, max_p=p) for um, p in groups]
            for groups in told["groups"]
        ],
    )


# Scores.


@dataclass(frozen=True, kw_only=True)
class SeedScores:
    """Scores on a seed's unseen patients, by who told the types."""

    kappa: dict[str, float]
    accuracy: dict[str, float]
    itc: dict[str, float]
    specificity: dict[str, float]


def score_seed(
    seed: int, *, patients: int, noise: float, trees: int, cache: Path | None
) -> SeedScores:
    seen, unseen = (
        cached_cohort(cache, seed, part, patients=patients, noise=noise)
        for part in (0, 1)
    )
    forests = fit_forests(
        seen.features, seen.types, Training(trees=trees, seed=seed, partial="empty")
    )
    verdicts = forests.predict(unseen.features)
    rule = fit_size_rule(seen.groups, seen.types, PRESET)
    said: dict[str, list[Metastasis]] = {
        "four forests": [v.type for v in verdicts],
        **{f.name: [v.votes[i] for v in verdicts] for i, f in enumerate(FORESTS)},
        "size rule, fitted": [type_of_groups(g, rule) for g in unseen.groups],
        "size rule, preset": [type_of_groups(g, PRESET) for g in unseen.groups],
    }
    scores = {
        name: score_types(unseen.types, np.array(types, np.int64), unseen.patients)
        for name, types in said.items()
    }
    return SeedScores(
        kappa={name: s.patient_kappa or 0.0 for name, s in scores.items()},
        accuracy={name: s.accuracy for name, s in scores.items()},
        itc={name: s.sensitivity[Metastasis.ITC] or 0.0 for name, s in scores.items()},
        specificity={name: s.sensitivity[0] or 0.0 for name, s in scores.items()},
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean over seeds (percentile bootstrap)."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def say(values: Sequence[float]) -> str:
    low, high = interval(values)
    return f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def print_scores(scores: Sequence[SeedScores]) -> None:
    columns: tuple[Callable[[SeedScores], dict[str, float]], ...] = (
        lambda s: s.kappa,
        lambda s: s.accuracy,
        lambda s: s.itc,
        lambda s: s.specificity,
    )
    heads = ("patient kappa", "slide accuracy", "ITC sensitivity", "negative right")
    print_table(
        ("told by", *heads, "kappa, lowest and highest"),
        [
            (
                name,
                *(say([column(s)[name] for s in scores]) for column in columns),
                f"{min(s.kappa[name] for s in scores):.3f}, "
                f"{max(s.kappa[name] for s in scores):.3f}",
            )
            for name in scores[0].kappa
        ],
    )


def print_differences(scores: Sequence[SeedScores]) -> None:
    pairs = (
        ("patient kappa", "four forests", "size rule, fitted"),
        ("patient kappa", "four forests", "size rule, preset"),
        ("ITC sensitivity", "RF-CB", "RF-CI"),
        ("ITC sensitivity", "RF-PB", "RF-PI"),
        ("patient kappa", "RF-CB", "RF-CI"),
        ("patient kappa", "RF-PB", "RF-PI"),
    )
    rows = []
    for what, first, second in pairs:
        of = [s.kappa if what == "patient kappa" else s.itc for s in scores]
        values = [found[first] - found[second] for found in of]
        above = sum(v > 0 for v in values)
        rows.append((what, f"{first} - {second}", say(values), f"{above}"))
    print_table(("of", "paired difference", "mean", f"above 0 of {len(scores)}"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--trees", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cache", type=Path)
    given = parser.parse_args()
    score = partial(
        score_seed,
        patients=given.patients,
        noise=given.noise,
        trees=given.trees,
        cache=given.cache,
    )
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    if given.processes > 1:
        with ProcessPoolExecutor(given.processes) as pool:
            scores = list(pool.map(score, seeds))
    else:
        scores = [score(seed) for seed in seeds]
    print(
        f"{given.seeds} seeds, each {given.patients} patients of 5 nodes to fit on and "
        f"as many unseen; noise {given.noise:g}, {given.trees} trees; mean over seeds "
        "(95 % interval)\n"
    )
    print_scores(scores)
    print_differences(scores)


if __name__ == "__main__":
    main()
