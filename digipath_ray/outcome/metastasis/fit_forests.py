"""Fits the four forests: selection of slides, balancing, seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from imblearn.combine import SMOTETomek
from imblearn.over_sampling import SMOTE
from imblearn.under_sampling import TomekLinks
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler

from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.forests import (
    FORESTS,
    TYPES,
    Forest,
    Forests,
    Numbers,
    Partial,
)
from digipath_ray.outcome.staging import Metastasis

Types = NDArray[np.int64]
"""Metastasis type per slide, [n]."""

TREES = 1000
NEIGHBORS = 5
"""Number of neighbors of SMOTE."""
NO_CHILD = -1
"""scikit-learn's marker for the child of a leaf."""
REGIONS = FEATURES.index("region_count_p90")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the forests' fit.

    Attributes:
        trees: number per forest.
        seed: seed of the forests' random states.
        partial: positive slides excluded from a partial training set.
        jobs: threads, with no effect on the result. None: one.
    """

    trees: int = TREES
    seed: int = 0
    partial: Partial = "empty"
    jobs: int | None = None

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.trees < 1:
            raise ValueError(f"trees = {self.trees}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must not be negative")
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs = {self.jobs}: must be at least 1")


def fit_forests(features: Numbers, types: Types, training: Training) -> Forests:
    """Fit the four forests on features [n, 32] and types [n] of slides.

    Raises:
        ValueError: the slides have fewer than two types.
    """
    if len(features) != len(types):
        raise ValueError(f"{len(features)} feature rows but {len(types)} types")
    if len(np.unique(types)) < 2:
        raise ValueError(
            f"{len(types)} slides with {len(np.unique(types))} type: label slides of "
            "at least two types"
        )
    everything = np.ones(len(types), np.bool_)
    kept = ~left_out(features, types, training.partial)
    notes = list(_notes(types))
    if len(np.unique(types[kept])) < 2:
        kept = everything
        notes.append("the partial set would have one type: using the complete set")
    seeds = np.random.SeedSequence(training.seed).generate_state(len(FORESTS)).tolist()
    forests, counts = {}, {}
    for spec, seed in zip(FORESTS, seeds, strict=True):
        chosen = kept if spec.partial else everything
        x, y = features[chosen], types[chosen]
        if spec.balanced:
            x, y = balance(x, y, seed=seed)
        forests[spec.name] = fit_forest(x, y, seed=seed, training=training)
        counts[spec.name] = count_types(y)
    return Forests(
        forests=forests,
        seeds={spec.name: seed for spec, seed in zip(FORESTS, seeds, strict=True)},
        counts=counts,
        notes=tuple(notes),
    )


def left_out(features: Numbers, types: Types, partial: Partial) -> NDArray[np.bool_]:
    """Positive slides excluded from a partial training set, bool [n]."""
    positive = types > Metastasis.NEGATIVE
    match partial:
        case "empty":
            return np.asarray(positive & ~features.any(axis=1))
        case "unsure":
            return np.asarray(positive & (features[:, REGIONS] == 0))
        case "none":
            return np.zeros(len(types), np.bool_)


def count_types(types: Types) -> tuple[int, ...]:
    """Number of slides of each type."""
    return tuple(np.bincount(types, minlength=TYPES).tolist())


def _notes(types: Types) -> Iterator[str]:
    """Warnings about a training set."""
    for kind, count in zip(Metastasis, count_types(types), strict=True):
        if count == 0:
            yield f"no slide is {kind.label}: the forests will never predict it"
        elif count == 1:
            yield f"one slide is {kind.label}: too few to balance"
        elif count <= NEIGHBORS and count < len(types) / 2:
            yield f"{count} slides are {kind.label}: balanced from very few"


def balance(features: Numbers, types: Types, *, seed: int) -> tuple[Numbers, Types]:
    """Balance the types by SMOTETomek: oversample the rare ones to the most common.

    Synthetic slides are interpolated between a slide and one of its nearest neighbors
    of the same type; then pairs of different types that are mutual nearest neighbors
    are removed. Distances are in standard deviations: in raw units one feature would
    dominate. A type with a single slide has no neighbor and is not oversampled; types
    with few slides use fewer neighbors.
    """
    counts = dict(enumerate(count_types(types)))
    most = max(counts.values())
    grown = {kind: most for kind, n in counts.items() if 2 <= n < most}
    several = [kind for kind, n in counts.items() if n >= 2]
    if not grown:
        return features, types
    fewest = min(counts[kind] for kind in grown)
    scaler = StandardScaler().fit(features)
    sampler = SMOTETomek(
        random_state=seed,
        smote=SMOTE(
            sampling_strategy=grown,
            k_neighbors=min(NEIGHBORS, fewest - 1),
            random_state=seed,
        ),
        tomek=TomekLinks(sampling_strategy=several),
    )
    scaled, balanced = sampler.fit_resample(scaler.transform(features), types)
    return scaler.inverse_transform(scaled), np.asarray(balanced, np.int64)


def fit_forest(
    features: Numbers, types: Types, *, seed: int, training: Training
) -> Forest:
    """Fit a forest with scikit-learn's defaults, as in the authors' code."""
    fitted = RandomForestClassifier(
        n_estimators=training.trees, random_state=seed, n_jobs=training.jobs
    ).fit(features, types)
    return forest_of(fitted)


def forest_of(fitted: RandomForestClassifier) -> Forest:
    """Convert a scikit-learn forest to arrays."""
    trees = [estimator.tree_ for estimator in fitted.estimators_]
    sizes = [tree.node_count for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    return Forest(
        feature=np.concatenate([t.feature.clip(min=0) for t in trees]).astype(np.int32),
        threshold=np.concatenate([t.threshold for t in trees]),
        left=_children([t.children_left for t in trees], roots),
        right=_children([t.children_right for t in trees], roots),
        share=_shares([t.value[:, 0] for t in trees], fitted.classes_.tolist()),
        roots=roots.astype(np.int32),
        importance=np.asarray(fitted.feature_importances_, np.float64),
    )


def _children(
    below: Sequence[NDArray[np.int64]], roots: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Child of each node, numbered over all trees; a leaf is its own child."""
    placed = [
        np.where(child == NO_CHILD, np.arange(len(child)), child) + root
        for child, root in zip(below, roots, strict=True)
    ]
    return np.concatenate(placed).astype(np.int32)


def _shares(values: Sequence[Numbers], classes: Sequence[int]) -> Numbers:
    """Fractions [nodes, 4] of the types; 0 for types absent from training."""
    together = np.concatenate(values)
    shares = np.zeros((len(together), TYPES))
    shares[:, classes] = together / together.sum(axis=1, keepdims=True)
    return shares
