"""Scores of the fitted ensemble on test patients."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from digipath_ray.networks.build import Member
from digipath_ray.training.calibration import (
    Histogram,
    auroc,
    brier,
    measure_reliability,
    scores_at,
)
from digipath_ray.training.reader import Columns

ENSEMBLE = "ensemble"


@torch.inference_mode()
def count_predictions(
    members: Mapping[str, tuple[Member, Sequence[str]]], batches: Iterable[Columns]
) -> dict[str, Histogram]:
    """Count probabilities of each member and of the ensemble (their mean).

    Pixels are weighted by the tissue area that their patch represents.

    Args:
        members: name -> member, and the columns of a batch that it sees.
        batches: of the test slides.
    """
    found = {name: Histogram() for name in (*members, ENSEMBLE)}
    for batch in batches:
        views = {
            column: torch.from_numpy(np.array(batch[column])).permute(0, 3, 1, 2)
            for _, columns in members.values()
            for column in columns
        }
        probabilities = {
            name: member(*(views[column] for column in columns)).cpu().numpy()
            for name, (member, columns) in members.items()
        }
        probabilities[ENSEMBLE] = np.mean(list(probabilities.values()), axis=0)
        area = (
            batch["weight"] * batch["area_mm2"][:, None, None] / batch["tumor"][0].size
        )
        for name, probability in probabilities.items():
            found[name].add(probability, batch["tumor"], area)
    return found


def describe(histogram: Histogram, threshold: float) -> dict[str, Any]:
    """Scores at a given threshold, and calibration measures."""
    return {
        **asdict(scores_at(histogram, threshold)),
        "auroc": auroc(histogram),
        "brier": brier(histogram),
        "expected_calibration_error": measure_reliability(histogram).error,
    }
