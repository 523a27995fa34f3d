"""Four random forests that vote on a slide's metastasis type.

Fitted by scikit-learn in ``fitting`` and stored as plain arrays, because a pickled
scikit-learn forest contains code and is tied to the library version.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.staging import Metastasis

Numbers = NDArray[np.float64]

TYPES = len(Metastasis)
ROWS = 512
"""Slides evaluated at once, to limit memory."""


@dataclass(frozen=True, kw_only=True)
class ForestSpec:
    """Training set of a forest.

    Attributes:
        name: name in the paper's Table 6.
        partial: excludes positive slides without lesions on the heatmap.
        balanced: types balanced by SMOTETomek.
    """

    name: str
    partial: bool
    balanced: bool


FORESTS: tuple[ForestSpec, ...] = (
    ForestSpec(name="RF-PI", partial=True, balanced=False),
    ForestSpec(name="RF-PB", partial=True, balanced=True),
    ForestSpec(name="RF-CI", partial=False, balanced=False),
    ForestSpec(name="RF-CB", partial=False, balanced=True),
)
"""The paper's four. P and C are read as partial and complete training set, I and B
as imbalanced and balanced; the supplement that may define them is not public."""

Partial = Literal["empty", "unsure", "none"]
"""Positive slides excluded from a partial training set: those without a lesion at 0.5;
those without one at 0.9, as in the authors' code; or none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """A random forest as arrays, with the nodes of its trees concatenated.

    Attributes:
        feature: int32 [nodes], feature tested by a node.
        threshold: float64 [nodes]; values up to it go left.
        left, right: int32 [nodes], children; a leaf is its own child.
        share: float64 [nodes, 4], fraction of each type among a node's training slides.
        roots: int32 [trees], root node of each tree.
        importance: float64 [features], mean decrease in impurity; sums to 1.
    """

    feature: NDArray[np.int32]
    threshold: Numbers
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    share: Numbers
    roots: NDArray[np.int32]
    importance: Numbers

    def __post_init__(self) -> None:
        """Validate that the arrays are a forest: every path ends at a leaf."""
        nodes = np.arange(len(self.feature))
        lists = (self.threshold, self.left, self.right, self.share)
        ok = all(len(array) == len(nodes) for array in lists)
        ok = ok and self.share.shape[1:] == (TYPES,) and len(self.roots) > 0
        for below in (self.left, self.right):
            ok = ok and bool(((below >= nodes) & (below < len(nodes))).all())
        for array, end in ((self.roots, len(nodes)), (self.feature, len(FEATURES))):
            ok = ok and bool(((array >= 0) & (array < end)).all())
        if not ok:
            raise ValueError("the arrays are not a valid forest")

    def predict(self, features: Numbers) -> Numbers:
        """Probability [n, 4] of each type, the mean over the trees."""
        starts = range(0, len(features), ROWS)
        parts = [self._predict(features[start : start + ROWS]) for start in starts]
        return np.concatenate([np.empty((0, TYPES)), *parts])

    def _predict(self, features: Numbers) -> Numbers:
        # scikit-learn fits on float32, so predict on float32 too.
        values = features.astype(np.float32)
        slides = np.arange(len(values))[:, None]
        at = np.broadcast_to(self.roots, (len(values), len(self.roots)))
        while True:
            low = values[slides, self.feature[at]] <= self.threshold[at]
            below = np.where(low, self.left[at], self.right[at])
            if np.array_equal(below, at):
                return np.asarray(self.share[at].mean(axis=1))
            at = below


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Prediction of the forests for a slide.

    Attributes:
        type: majority vote; ties go to the most severe type.
        votes: vote of each forest, in the order of ``FORESTS``.
        probability: probability of each type, mean of the forests.
    """

    type: Metastasis
    votes: tuple[Metastasis, ...]
    probability: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Forests:
    """The four forests by name.

    Attributes:
        forests: name -> forest, in the order of ``FORESTS``.
        seeds: name -> random state of its fit.
        counts: name -> training slides of each type, synthetic ones included.
        notes: warnings, one sentence each.
    """

    forests: Mapping[str, Forest]
    seeds: Mapping[str, int]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate that these are the four forests."""
        names = [spec.name for spec in FORESTS]
        if list(self.forests) != names:
            raise ValueError(f"forests {list(self.forests)}: must be {names}")

    def predict(self, features: Numbers) -> list[Verdict]:
        """Predict the type of n slides from features [n, 32]."""
        each = np.stack([forest.predict(features) for forest in self.forests.values()])
        votes, mean = each.argmax(axis=2).T, each.mean(axis=0)
        verdicts = []
        for voted, probability in zip(votes.tolist(), mean.tolist(), strict=True):
            types = tuple(Metastasis(v) for v in voted)
            verdicts.append(
                Verdict(
                    type=take_vote(types), votes=types, probability=tuple(probability)
                )
            )
        return verdicts

    @property
    def importance(self) -> Numbers:
        """Importance of each feature in each forest, [forests, features]."""
        return np.stack([forest.importance for forest in self.forests.values()])


def take_vote(votes: Sequence[Metastasis]) -> Metastasis:
    """Majority vote; ties go to the most severe type."""
    return max(set(votes), key=lambda kind: (votes.count(kind), kind))


def feature_matrix(rows: Sequence[Mapping[str, float]]) -> Numbers:
    """Build the feature matrix [n, 32] from features by name.

    Raises:
        ValueError: a feature is missing or not finite.
    """
    table = np.empty((len(rows), len(FEATURES)))
    for i, row in enumerate(rows):
        absent = [name for name in FEATURES if name not in row]
        if absent:
            raise ValueError(f"features of slide {i}: {absent[0]} is missing")
        table[i] = [row[name] for name in FEATURES]
    bad = np.argwhere(~np.isfinite(table))
    if len(bad):
        i, column = bad[0]
        raise ValueError(f"features of slide {i}: {FEATURES[column]} is not finite")
    return table
