"""Scores of the fitted ensemble on test patients."""

from collections.abc import Iterable, Mapping
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
    members: Mapping[str, Member], batches: Iterable[Columns]
) -> dict[str, Histogram]:
    """Count probabilities of each member and of the ensemble (their mean).

    Pixels are weighted by the tissue area that their patch represents.
    """
    found = {name: Histogram() for name in (*members, ENSEMBLE)}
    for batch in batches:
        pixels = torch.from_numpy(np.array(batch["pixels"])).permute(0, 3, 1, 2)
        probabilities = {
            name: member(pixels).cpu().numpy() for name, member in members.items()
        }
        probabilities[ENSEMBLE] = np.mean(list(probabilities.values()), axis=0)
        area = batch["weight"] * batch["area_mm2"][:, None, None] / pixels[0, 0].numel()
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
