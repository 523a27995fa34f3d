"""Scores of predicted metastasis types and pN stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from digipath_ray.outcome.metastasis.fit_forests import Types
from digipath_ray.outcome.metastasis.forests import TYPES
from digipath_ray.outcome.staging import Metastasis, PnStage, stage_nodes


@dataclass(frozen=True, kw_only=True)
class TypeScores:
    """Scores of predicted types.

    Attributes:
        confusion: slides [true type][predicted type].
        accuracy: fraction of slides with the correct type.
        sensitivity: fraction of each true type's slides predicted correctly; None
            without slides.
        slide_kappa: quadratic-weighted kappa of the slides' types.
        patient_kappa: kappa of the patients' pN stages, as in CAMELYON17; None if all
            stages are equal.
    """

    confusion: tuple[tuple[int, ...], ...]
    accuracy: float
    sensitivity: tuple[float | None, ...]
    slide_kappa: float | None
    patient_kappa: float | None


def score_types(types: Types, predicted: Types, patients: Sequence[str]) -> TypeScores:
    """Score predicted types [n] against true types [n] of the patients' slides."""
    confusion = confusion_matrix(types, predicted, labels=range(TYPES))
    there = confusion.sum(axis=1)
    return TypeScores(
        confusion=tuple(map(tuple, confusion.tolist())),
        accuracy=float(np.trace(confusion) / confusion.sum()),
        sensitivity=tuple(
            float(row[i] / there[i]) if there[i] else None
            for i, row in enumerate(confusion)
        ),
        slide_kappa=quadratic_kappa(types.tolist(), predicted.tolist(), range(TYPES)),
        patient_kappa=quadratic_kappa(
            stage_patients(patients, types),
            stage_patients(patients, predicted),
            list(PnStage),
        ),
    )


def stage_patients(patients: Sequence[str], types: Types) -> list[PnStage]:
    """Stage each patient (pN), sorted by name."""
    nodes: dict[str, list[Metastasis]] = {}
    for patient, kind in zip(patients, types.tolist(), strict=True):
        nodes.setdefault(patient, []).append(Metastasis(kind))
    return [stage_nodes(nodes[patient]) for patient in sorted(nodes)]


def quadratic_kappa(
    true: Sequence[Any], predicted: Sequence[Any], labels: Sequence[Any]
) -> float | None:
    """Cohen's kappa with quadratic weights; None if all labels on both sides are equal.

    Args:
        true: reference labels.
        predicted: predicted labels, in the same order.
        labels: all possible labels, in order.
    """
    if len({*true, *predicted}) < 2:
        return None
    return float(
        cohen_kappa_score(
            list(true), list(predicted), labels=list(labels), weights="quadratic"
        )
    )
