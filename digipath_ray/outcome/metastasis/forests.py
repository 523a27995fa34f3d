"""Four random forests vote on a slide's metastasis type.

They are fitted in ``fitting`` by scikit-learn and kept as plain arrays: a file of them
loads in a moment, holds no code, and says the same under any version.
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
"""Slides that go down the trees together, to need little memory."""


@dataclass(frozen=True, kw_only=True)
class ForestSpec:
    """What a forest is fitted on.

    Attributes:
        name: as the paper's Table 6 calls it.
        partial: not on positive slides whose heatmap shows nothing.
        balanced: types made equally frequent by SMOTETomek.
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
"""The paper's four: P and C read as a partial and the complete training set, I and B as
imbalanced and balanced. Its supplement, which may say so, is not public."""

Partial = Literal["empty", "unsure", "none"]
"""Positive slides that a partial training set leaves out: those without any lesion, at
0.5; those without one at 0.9, as the authors' code has it; or none at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """A random forest as arrays, the nodes of its trees one after the other.

    Attributes:
        feature: int32 [nodes], the feature that a node asks.
        threshold: float64 [nodes]; a slide with at most it goes to the left.
        left, right: int32 [nodes], the nodes below; of a leaf the leaf itself.
        share: float64 [nodes, 4], of the types among a node's training slides.
        roots: int32 [trees].
        importance: float64 [features], mean decrease in impurity; they add up to 1.
    """

    feature: NDArray[np.int32]
    threshold: Numbers
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    share: Numbers
    roots: NDArray[np.int32]
    importance: Numbers

    def __post_init__(self) -> None:
        """Check that the arrays are a forest: every way down ends at a leaf."""
        nodes = np.arange(len(self.feature))
        lists = (self.threshold, self.left, self.right, self.share)
        ok = all(len(array) == len(nodes) for array in lists)
        ok = ok and self.share.shape[1:] == (TYPES,) and len(self.roots) > 0
        for below in (self.left, self.right):
            ok = ok and bool(((below >= nodes) & (below < len(nodes))).all())
        for array, end in ((self.roots, len(nodes)), (self.feature, len(FEATURES))):
            ok = ok and bool(((array >= 0) & (array < end)).all())
        if not ok:
            raise ValueError("the arrays are no forest")

    def predict(self, features: Numbers) -> Numbers:
        """Probability [n, 4] of each type, the mean over the trees."""
        starts = range(0, len(features), ROWS)
        parts = [self._predict(features[start : start + ROWS]) for start in starts]
        return np.concatenate([np.empty((0, TYPES)), *parts])

    def _predict(self, features: Numbers) -> Numbers:
        # Trees are fitted on float32, so they are asked in float32.
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
    """What the forests say of a slide.

    Attributes:
        type: that of most votes; of several alike the gravest.
        votes: of each forest, in the order of ``FORESTS``.
        probability: of each type, the mean of the forests.
    """

    type: Metastasis
    votes: tuple[Metastasis, ...]
    probability: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Forests:
    """The four forests by name.

    Attributes:
        forests: name -> forest, in the order of ``FORESTS``.
        seeds: name -> random state that it was fitted with.
        counts: name -> slides of each type that it was fitted on, made-up ones too.
        notes: what is amiss, in sentences.
    """

    forests: Mapping[str, Forest]
    seeds: Mapping[str, int]
    counts: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that they are the four."""
        names = [spec.name for spec in FORESTS]
        if list(self.forests) != names:
            raise ValueError(f"forests {list(self.forests)}: must be {names}")

    def predict(self, features: Numbers) -> list[Verdict]:
        """The verdict on each of n slides, given their features [n, 32]."""
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
        """Importance [forests, features] of each feature in each forest."""
        return np.stack([forest.importance for forest in self.forests.values()])


def take_vote(votes: Sequence[Metastasis]) -> Metastasis:
    """The type with most votes; of several with as many the gravest."""
    return max(set(votes), key=lambda kind: (votes.count(kind), kind))


def feature_matrix(rows: Sequence[Mapping[str, float]]) -> Numbers:
    """Features [n, 32] of slides, given each one's by name.

    Raises:
        ValueError: one is missing or is no finite number.
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
