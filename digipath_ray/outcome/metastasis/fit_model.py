"""Fits a stage model: cross-validated by patient, then on all slides."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata

import digipath_ray
from digipath_ray.outcome.metastasis.fit_forests import (
    Training,
    count_types,
    fit_forests,
)
from digipath_ray.outcome.metastasis.fit_size_rule import fit_size_rule
from digipath_ray.outcome.metastasis.model import HeatmapSetting, StageCard, StageModel
from digipath_ray.outcome.metastasis.scores import score_types
from digipath_ray.outcome.metastasis.size_rule import SizeRule
from digipath_ray.outcome.metastasis.validation import LabeledSlides, cross_validate

LIBRARIES = ("scikit-learn", "imbalanced-learn", "numpy", "scikit-image")


def fit_model(
    slides: LabeledSlides,
    training: Training,
    *,
    folds: int,
    preset: SizeRule,
    setting: HeatmapSetting,
    effective_mpp: tuple[float, float],
    overlap: int = 0,
    notes: Iterable[str] = (),
) -> StageModel:
    """Fit forests and size rule on all slides; the card has cross-validated scores.

    Args:
        slides: labeled slides, with heatmaps predicted out of fold if possible.
        training: settings of the forests.
        folds: number of cross-validation folds.
        preset: initial size rule.
        setting: setting of the run of the heatmaps.
        effective_mpp: minimum and maximum um per model px of the slides.
        overlap: slides predicted by members trained on them.
        notes: further warnings.

    Raises:
        ValueError: too few patients, or only one type of slides.
    """
    predicted = cross_validate(slides, training, folds=folds, preset=preset)
    forests = fit_forests(slides.features, slides.types, training)
    rule = fit_size_rule(slides.groups, slides.types, preset)
    card = StageCard(
        setting=setting,
        effective_mpp=effective_mpp,
        min_lesion_um=rule.min_extent_um,
        min_lesion_p=rule.min_p,
        trees=training.trees,
        seed=training.seed,
        partial=training.partial,
        folds=folds,
        seeds=forests.seeds,
        types=count_types(slides.types),
        fitted_on=forests.counts,
        slides=len(slides.types),
        patients=len(set(slides.patients)),
        overlap=overlap,
        scores={
            name: asdict(score_types(slides.types, types, slides.patients))
            for name, types in predicted.items()
        },
        versions=_versions(),
        notes=(*forests.notes, *notes),
    )
    return StageModel(forests=forests, card=card)


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in LIBRARIES}
    return {"digipath_ray": digipath_ray.__version__, **found}
