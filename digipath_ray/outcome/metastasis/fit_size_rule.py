"""Fits the size rule's thresholds on slides of known type."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from digipath_ray.outcome.metastasis.fit_forests import Types
from digipath_ray.outcome.metastasis.scores import quadratic_kappa
from digipath_ray.outcome.metastasis.size_rule import (
    LesionGroup,
    SizeRule,
    type_of_size,
)
from digipath_ray.outcome.staging import Metastasis

EXTENTS_UM = tuple(range(0, 201, 10))
"""Candidate minimum extents; above 200 um no isolated tumor cells would remain."""
PEAKS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99)
"""Candidate minimum peak probabilities."""


def type_of_groups(groups: Sequence[LesionGroup], rule: SizeRule) -> Metastasis:
    """Type by the largest group that counts."""
    return type_of_size(rule.apply(groups).largest_um)


def fit_size_rule(
    groups: Sequence[Sequence[LesionGroup]], types: Types, preset: SizeRule
) -> SizeRule:
    """Fit minimum extent and peak for the highest kappa over slides.

    Ties go to the rule nearest to the preset.

    Args:
        groups: groups of each slide, merged as in the preset.
        types: type of each slide.
        preset: rule that breaks ties.
    """
    telling = [undominated(each) for each in groups]
    best, highest = preset, float("-inf")
    for rule in candidates(preset):
        predicted = [type_of_groups(each, rule) for each in telling]
        kappa = quadratic_kappa(types.tolist(), predicted, list(Metastasis))
        if kappa is not None and kappa > highest:
            best, highest = rule, kappa
    return best


def candidates(preset: SizeRule) -> list[SizeRule]:
    """Candidate rules, nearest to the preset first."""
    rules = [
        replace(preset, min_extent_um=float(extent), min_p=peak)
        for extent, peak in product(EXTENTS_UM, PEAKS)
    ]
    return [preset, *sorted(rules, key=lambda rule: _steps(rule, preset))]


def _steps(rule: SizeRule, preset: SizeRule) -> tuple[float, float, float]:
    """Distance of a rule from the preset, in steps of 10 um and 0.05."""
    far = abs(rule.min_extent_um - preset.min_extent_um) / 10
    far += abs(rule.min_p - preset.min_p) / 0.05
    return (round(far, 6), rule.min_extent_um, rule.min_p)


def undominated(groups: Sequence[LesionGroup]) -> list[LesionGroup]:
    """Groups that no other exceeds in extent and peak: only these can decide a type."""
    kept: list[LesionGroup] = []
    for group in sorted(groups, key=lambda g: (g.extent_um, g.max_p), reverse=True):
        if not kept or group.max_p > kept[-1].max_p:
            kept.append(group)
    return kept
