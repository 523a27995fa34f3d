"""Tumor score of a slide from its heatmap, and its AUC over slides."""

import math
from collections.abc import Sequence

from sklearn.metrics import roc_auc_score

from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.lesions import find_lesions
from digipath_ray.outcome.metastasis.size_rule import SizeRule


def slide_score(heatmap: Heatmap, config: RunConfig) -> float:
    """Maximum probability inside lesions of at least the minimum size; 0 if none.

    Lesions are at the ensemble's threshold, and fragments closer than ``merge_um`` are
    merged, as in the size rule; but without its minimum peak, so that weak lesions are
    ranked too.
    """
    rule = SizeRule(
        min_extent_um=config.outcome.min_lesion_um,
        min_p=0.0,
        merge_um=config.outcome.merge_um,
    )
    return rule.measure(find_lesions(heatmap, config.outcome.threshold)).score


def auc(has_tumor: Sequence[bool], scores: Sequence[float]) -> float:
    """Area under the ROC curve; NaN unless there are slides with and without tumor."""
    if len(set(has_tumor)) < 2:
        return math.nan
    return float(roc_auc_score(has_tumor, scores))
