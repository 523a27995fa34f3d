"""Calibration of a member's probabilities on validation patients.

histogram of (probability, truth) -> scores, threshold, reliability, temperature

Everything is computed from counts in fine bins, so pixels are read once, and the
histograms of workers can be merged in any order. Each pixel is represented by the
center of its bin: results are exact up to the bin width. The Brier score and the AUROC
are written out, because scikit-learn's, equal on weighted bins, cost every worker
seconds of import.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from digipath_ray.overlap import dice

Scale = Literal["probability", "logit"]
Values = NDArray[np.float64]

BINS = 1000
MAX_LOGIT = 20.0
"""Logits beyond this fall into the outermost bins; expit(20) is 1 - 2e-9."""
RELIABILITY_BINS = 15
TEMPERATURES = (0.1, 10.0)
"""Search range of the temperature."""


@dataclass(kw_only=True, eq=False)
class Histogram:
    """Weighted pixel counts by value and truth.

    On scale ``probability`` the bins are equal from 0 to 1, so thresholds of three
    decimals are exact. On scale ``logit`` (tumor logit minus other logit) they are
    equal from -MAX_LOGIT to MAX_LOGIT, which resolves probabilities near 0 and 1, as a
    temperature requires. All functions below accept both.

    Attributes:
        scale: binned quantity.
        counts: [2, bins], summed weights of other and tumor pixels.
    """

    scale: Scale = "probability"
    counts: Values = field(default_factory=lambda: np.zeros((2, BINS)))

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale = {self.scale!r}: must be probability or logit")
        shape = self.counts.shape
        if len(shape) != 2 or shape[0] != 2 or shape[1] < 2 or shape[1] % 2:
            raise ValueError(f"counts have shape {shape}, not [2, an even number]")

    @property
    def edges(self) -> Values:
        """Bin edges [bins + 1], as probabilities."""
        steps = np.arange(self.counts.shape[1] + 1) / self.counts.shape[1]
        if self.scale == "probability":
            return steps
        edges: Values = expit((2 * steps - 1) * MAX_LOGIT)
        edges[[0, -1]] = 0, 1  # the outermost bins are unbounded
        return edges

    @property
    def logits(self) -> Values:
        """Logit of each bin's center, [bins]."""
        steps = (np.arange(self.counts.shape[1]) + 0.5) / self.counts.shape[1]
        if self.scale == "probability":
            return np.asarray(logit(steps))
        return np.asarray((2 * steps - 1) * MAX_LOGIT)

    @property
    def probabilities(self) -> Values:
        """Probability of each bin's center, [bins]."""
        return np.asarray(expit(self.logits))

    @property
    def total(self) -> float:
        """Total weight of the pixels."""
        return float(self.counts.sum())

    def add(self, values: ArrayLike, truth: ArrayLike, weight: ArrayLike) -> None:
        """Count pixels.

        Args:
            values: values on this histogram's scale, any shape.
            truth: nonzero = tumor; same shape as values.
            weight: broadcastable to that shape, not negative; 0 excludes a pixel.

        Raises:
            ValueError: a counted value is NaN or not a probability, or shapes differ.
        """
        values, tumor = np.asarray(values, np.float64), np.asarray(truth) != 0
        if tumor.shape != values.shape:
            raise ValueError(f"truth {tumor.shape}, but values {values.shape}")
        weight = np.broadcast_to(np.asarray(weight, np.float64), values.shape)
        counted = weight > 0
        bins = self._bin(values[counted])
        size = self.counts.shape[1]
        places = bins + size * tumor[counted]
        counts = np.bincount(places, weight[counted], minlength=2 * size)
        self.counts += counts.reshape(2, size)

    def _bin(self, values: Values) -> NDArray[np.int64]:
        if np.isnan(values).any():
            raise ValueError(f"{self.scale}: values contain NaN")
        if self.scale == "logit":
            steps = np.clip(values / (2 * MAX_LOGIT) + 0.5, 0, 1)
        elif values.size and (values.min() < 0 or values.max() > 1):
            raise ValueError(
                f"probability {values.min()} to {values.max()}: not 0 to 1"
            )
        else:
            steps = values
        size = self.counts.shape[1]
        # 0.29 as float32 is slightly below 0.29, but belongs to the bin above.
        bins = np.floor(steps * size + 1e-4).astype(np.int64)
        return np.minimum(bins, size - 1)

    def merge(self, other: "Histogram") -> "Histogram":
        """Merge two histograms; commutative and associative up to rounding."""
        if self.scale != other.scale or self.counts.shape != other.counts.shape:
            raise ValueError(
                f"histograms differ: {self.scale} {self.counts.shape} and "
                f"{other.scale} {other.counts.shape}"
            )
        return Histogram(scale=self.scale, counts=self.counts + other.counts)


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """Agreement of thresholded pixels with the truth; None if 0/0."""

    threshold: float
    dice: float | None
    jaccard: float | None
    sensitivity: float | None
    precision: float | None


def scores_at(histogram: Histogram, threshold: float) -> PixelScores:
    """Pooled scores of all pixels, with tumor at ``probability >= threshold``.

    The threshold is rounded to the nearest bin edge.
    """
    edge = int(np.abs(histogram.edges - threshold).argmin())
    missed = float(histogram.counts[1, :edge].sum())
    false, hit = (float(n) for n in histogram.counts[:, edge:].sum(axis=1))
    return PixelScores(
        threshold=threshold,
        dice=dice(hit, hit + false, hit + missed) if hit + false + missed else None,
        jaccard=_ratio(hit, hit + false + missed),
        sensitivity=_ratio(hit, hit + missed),
        precision=_ratio(hit, hit + false),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def best_threshold(histogram: Histogram) -> float:
    """Threshold of the highest Dice, strictly between 0 and 1.

    Thresholds tie if no probability lies between them: of each run of tied ones the
    middle is used, and of several middles the one nearest to 0.5. Returns 0.5 without
    tumor pixels.
    """
    # At each inner edge: the tumor, and all pixels, in the bins from it on.
    hits = histogram.counts[1].sum() - np.cumsum(histogram.counts[1])[:-1]
    if histogram.counts[1].sum() <= 0:
        return 0.5
    called = histogram.total - np.cumsum(histogram.counts.sum(axis=0))[:-1]
    dices = 2 * hits / (called + histogram.counts[1].sum())
    # Empty bins between two values leave Dice equal up to the rounding of sums.
    best = np.flatnonzero(dices >= dices.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    inner = histogram.edges[1:-1]
    middles = [float(inner[(run[0] + run[-1]) // 2]) for run in runs]
    return min(middles, key=lambda middle: abs(middle - 0.5))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Reliability curve: tumor frequency by predicted probability.

    Attributes:
        edges: [bins + 1], equidistant from 0 to 1.
        confidence: [bins], mean probability; NaN in empty bins.
        frequency: [bins], fraction of tumor; NaN in empty bins.
        counts: [bins], weight of the pixels.
    """

    edges: Values
    confidence: Values
    frequency: Values
    counts: Values

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean |confidence - frequency| over pixels."""
        if self.counts.sum() <= 0:
            return None
        there = self.counts > 0
        gaps = np.abs(self.confidence[there] - self.frequency[there])
        return float(np.average(gaps, weights=self.counts[there]))


def measure_reliability(
    histogram: Histogram, *, bins: int = RELIABILITY_BINS
) -> Reliability:
    """Compute the reliability curve in ``bins`` equal bins of probability."""
    p = histogram.probabilities
    where = np.minimum((p * bins).astype(np.int64), bins - 1)
    pixels = histogram.counts.sum(axis=0)
    counts: Values = np.bincount(where, pixels, minlength=bins).astype(np.float64)
    summed = np.bincount(where, pixels * p, minlength=bins)
    tumor = np.bincount(where, histogram.counts[1], minlength=bins)
    nothing = np.full(bins, np.nan)
    return Reliability(
        edges=np.arange(bins + 1) / bins,
        confidence=np.divide(summed, counts, out=nothing.copy(), where=counts > 0),
        frequency=np.divide(tumor, counts, out=nothing.copy(), where=counts > 0),
        counts=counts,
    )


def brier(histogram: Histogram) -> float | None:
    """Brier score, mean of (probability - truth) ** 2; None without pixels."""
    p = histogram.probabilities
    errors = histogram.counts[0] * p**2 + histogram.counts[1] * (1 - p) ** 2
    return _ratio(float(errors.sum()), histogram.total)


def auroc(histogram: Histogram) -> float | None:
    """Area under the ROC curve; None with one class only.

    Pixels in the same bin are ties, which count 1/2.
    """
    other, tumor = histogram.counts
    # Each tumor pixel wins against the other pixels in lower bins.
    below = np.cumsum(other) - other
    won = float((tumor * (below + other / 2)).sum())
    return _ratio(won, float(other.sum() * tumor.sum()))


def fit_temperature(histogram: Histogram) -> float:
    """Fit the temperature T of expit(logit / T) by maximum likelihood.

    Minimizes the negative log-likelihood within ``TEMPERATURES``; T > 1 means that the
    member was overconfident (Guo et al. 2017, arXiv 1706.04599). Returns 1 if a class
    is missing, or if no pixel is on the wrong side of 0.5, when there is no minimum.

    Args:
        histogram: preferably on scale ``logit``; on the other, logits end at +-7.6.
    """
    other, tumor = histogram.counts
    middle = histogram.counts.shape[1] // 2
    wrong = other[middle:].sum() + tumor[:middle].sum()
    if wrong <= 0 or other.sum() <= 0 or tumor.sum() <= 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        odds = histogram.logits / np.exp(log_temperature)
        losses = other * np.logaddexp(0, odds) + tumor * np.logaddexp(0, -odds)
        return float(losses.sum() / histogram.total)

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def temper(histogram: Histogram, temperature: float) -> Histogram:
    """Histogram of the probabilities expit(logit / temperature)."""
    tempered = Histogram(counts=np.zeros_like(histogram.counts))
    probabilities = expit(histogram.logits / temperature)
    for truth in (0, 1):
        weight = histogram.counts[truth]
        tempered.add(probabilities, np.full(len(weight), truth), weight)
    return tempered
