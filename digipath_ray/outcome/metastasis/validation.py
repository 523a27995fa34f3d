"""Cross-validation of forests and size rule.

Split by patient: nodes of one patient are never on both sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath_ray.outcome.metastasis.fit_forests import Training, Types, fit_forests
from digipath_ray.outcome.metastasis.fit_size_rule import fit_size_rule, type_of_groups
from digipath_ray.outcome.metastasis.forests import FORESTS, Numbers
from digipath_ray.outcome.metastasis.size_rule import LesionGroup, SizeRule
from digipath_ray.outcome.staging import Metastasis

ALL_FORESTS = "four forests"
PRESET_RULE = "size rule, preset"
FITTED_RULE = "size rule, fitted"


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledSlides:
    """Slides of known type.

    Attributes:
        slide_ids: [n].
        patients: [n], patient of each slide; a slide without one is its own patient.
        types: int [n], reference types.
        features: float64 [n, 32].
        groups: [n], merged lesions of each slide, for the size rule.
    """

    slide_ids: Sequence[str]
    patients: Sequence[str]
    types: Types
    features: Numbers
    groups: Sequence[Sequence[LesionGroup]]

    def take(self, chosen: NDArray[np.bool_]) -> "LabeledSlides":
        """Subset of the slides."""
        index = np.flatnonzero(chosen).tolist()
        return LabeledSlides(
            slide_ids=[self.slide_ids[i] for i in index],
            patients=[self.patients[i] for i in index],
            types=self.types[chosen],
            features=self.features[chosen],
            groups=[self.groups[i] for i in index],
        )


def cross_validate(
    slides: LabeledSlides, training: Training, *, folds: int, preset: SizeRule
) -> dict[str, Types]:
    """Predict types [n] with models fitted on other patients.

    Returns:
        types of the joint vote, of each forest, and of the size rule with preset and
        with fitted thresholds.

    Raises:
        ValueError: too few patients, or a fold leaves only one type to fit.
    """
    fold_of = deal_patients(slides, folds=folds, seed=training.seed)
    _check_types(slides.types, fold_of)
    names = (ALL_FORESTS, *(f.name for f in FORESTS), PRESET_RULE, FITTED_RULE)
    predicted = {name: np.zeros(len(slides.types), np.int64) for name in names}
    for fold in range(folds):
        held, others = (
            slides.take(fold_of == fold),
            slides.take(fold_of != fold),
        )
        for name, types in _predict_held_out(held, others, training, preset).items():
            predicted[name][fold_of == fold] = types
    return predicted


def _check_types(types: Types, fold_of: NDArray[np.int64]) -> None:
    """Raise if the slides to fit, overall or without a fold, have only one type."""
    for fold in range(int(fold_of.max()) + 1):
        left = np.unique(types[fold_of != fold])
        if len(left) == 1:
            without = "" if len(np.unique(types)) == 1 else ", without one fold,"
            raise ValueError(
                f"all slides to fit on{without} are {Metastasis(left[0]).label}: label "
                "slides of other types, of more patients"
            )


def _predict_held_out(
    held: LabeledSlides, others: LabeledSlides, training: Training, preset: SizeRule
) -> Mapping[str, Sequence[Metastasis]]:
    """Predict the held-out slides with models fitted on the others."""
    forests = fit_forests(others.features, others.types, training)
    verdicts = forests.predict(held.features)
    fitted = fit_size_rule(others.groups, others.types, preset)
    votes = {
        spec.name: [verdict.votes[i] for verdict in verdicts]
        for i, spec in enumerate(FORESTS)
    }
    return {
        ALL_FORESTS: [verdict.type for verdict in verdicts],
        **votes,
        PRESET_RULE: [type_of_groups(groups, preset) for groups in held.groups],
        FITTED_RULE: [type_of_groups(groups, fitted) for groups in held.groups],
    }


def deal_patients(slides: LabeledSlides, *, folds: int, seed: int) -> NDArray[np.int64]:
    """Fold [n] of each slide: patients dealt in turn, most severe first.

    Folds have equal numbers of patients of every severity, within one; patients of
    equal severity are shuffled.

    Raises:
        ValueError: fewer than two folds, or fewer patients than folds.
    """
    nodes: dict[str, list[int]] = {}
    for patient, kind in zip(slides.patients, slides.types.tolist(), strict=True):
        nodes.setdefault(patient, []).append(kind)
    if not 2 <= folds <= len(nodes):
        raise ValueError(
            f"{len(nodes)} patients cannot be split into {folds} folds: label slides "
            "of more patients, or choose from 2 folds up to the number of patients"
        )
    patients = sorted(nodes)
    shuffled = np.random.default_rng(seed).permutation(len(patients)).tolist()
    gravest = {p: sorted(nodes[p], reverse=True) for p in patients}
    dealt = sorted(shuffled, key=lambda i: gravest[patients[i]], reverse=True)
    fold_of = {patients[i]: turn % folds for turn, i in enumerate(dealt)}
    return np.array([fold_of[patient] for patient in slides.patients], np.int64)
