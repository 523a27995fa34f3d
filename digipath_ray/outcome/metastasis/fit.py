"""A stage model is fitted: cross-validated with patients whole, then on all slides."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata

import digipath_ray
from digipath_ray.outcome.metastasis.fitting import Training, count_types, fit_forests
from digipath_ray.outcome.metastasis.model import HeatmapSetting, StageCard, StageModel
from digipath_ray.outcome.metastasis.scores import score_types
from digipath_ray.outcome.metastasis.size_fit import fit_size_rule
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
    """Forests and size rule fitted on all slides, their card with scores on others.

    Args:
        slides: of heatmaps that are best out of fold.
        training: how forests are fitted.
        folds: of the cross-validation.
        preset: the size rule to start from.
        setting: of the run that made the heatmaps.
        effective_mpp: lowest and highest um per model px among the slides.
        overlap: slides predicted by members that had been fitted on them.
        notes: what else is amiss.

    Raises:
        ValueError: too few patients, or slides of one type only.
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
