"""What a member's probabilities are worth, measured on validation patients.

histogram of (probability, truth) -> scores, threshold, reliability, temperature

Everything is computed from counts in fine bins, so pixels are looked at once, workers
count apart and their histograms add up, in any order, to that of all pixels. Each pixel
stands for the middle of its bin: what is computed is exact but for the bin's width.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

Scale = Literal["probability", "logit"]
Values = NDArray[np.float64]

BINS = 1000
MAX_LOGIT = 20.0
"""Logits beyond it fall into the outermost bins; expit(20) is 1 - 2e-9."""
RELIABILITY_BINS = 15
TEMPERATURES = (0.1, 10.0)
"""Between these a temperature is looked for."""


@dataclass(kw_only=True, eq=False)
class Histogram:
    """Weighted pixels by value and truth.

    On the scale ``probability`` the bins are equal from 0 to 1: thresholds of three
    decimals are exact. On the scale ``logit`` (tumor logit minus the other's) they are
    equal from -MAX_LOGIT to MAX_LOGIT: probabilities next to 0 and 1 stay apart, as a
    temperature needs it. Everything below takes either.

    Attributes:
        scale: what is counted.
        counts: [2, bins], summed weights of other and tumor pixels.
    """

    scale: Scale = "probability"
    counts: Values = field(default_factory=lambda: np.zeros((2, BINS)))

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.scale not in get_args(Scale):
            raise ValueError(f"scale = {self.scale!r}: probability or logit")
        shape = self.counts.shape
        if len(shape) != 2 or shape[0] != 2 or shape[1] < 2 or shape[1] % 2:
            raise ValueError(f"counts have shape {shape}, not [2, an even number]")

    @property
    def edges(self) -> Values:
        """The bins' edges [bins + 1], as probabilities."""
        steps = np.arange(self.counts.shape[1] + 1) / self.counts.shape[1]
        if self.scale == "probability":
            return steps
        edges: Values = expit((2 * steps - 1) * MAX_LOGIT)
        edges[[0, -1]] = 0, 1  # the outermost bins hold all that lies beyond
        return edges

    @property
    def logits(self) -> Values:
        """The logit [bins] that each bin stands for."""
        steps = (np.arange(self.counts.shape[1]) + 0.5) / self.counts.shape[1]
        if self.scale == "probability":
            return np.asarray(logit(steps))
        return np.asarray((2 * steps - 1) * MAX_LOGIT)

    @property
    def probabilities(self) -> Values:
        """The probability [bins] that each bin stands for."""
        return np.asarray(expit(self.logits))

    @property
    def total(self) -> float:
        """Weight of all pixels."""
        return float(self.counts.sum())

    def add(self, values: ArrayLike, truth: ArrayLike, weight: ArrayLike) -> None:
        """Count pixels.

        Args:
            values: on this histogram's scale, of any shape.
            truth: not 0 = tumor; of the shape of values.
            weight: whatever broadcasts to that shape, not negative; 0 leaves out.

        Raises:
            ValueError: a counted value is NaN or no probability, or shapes differ.
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
            raise ValueError(f"{self.scale}: NaN among the values")
        if self.scale == "logit":
            steps = np.clip(values / (2 * MAX_LOGIT) + 0.5, 0, 1)
        elif values.size and (values.min() < 0 or values.max() > 1):
            raise ValueError(
                f"probability {values.min()} to {values.max()}: not 0 to 1"
            )
        else:
            steps = values
        size = self.counts.shape[1]
        # 0.29 as float32 is a hair less than 0.29, and belongs into the bin above.
        bins = np.floor(steps * size + 1e-4).astype(np.int64)
        return np.minimum(bins, size - 1)

    def merge(self, other: "Histogram") -> "Histogram":
        """Both histograms' pixels; commutative and associative up to rounding."""
        if self.scale != other.scale or self.counts.shape != other.counts.shape:
            raise ValueError(
                f"histograms differ: {self.scale} {self.counts.shape} and "
                f"{other.scale} {other.counts.shape}"
            )
        return Histogram(scale=self.scale, counts=self.counts + other.counts)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well thresholded pixels agree with the truth; None where it is 0/0."""

    threshold: float
    dice: float | None
    jaccard: float | None
    sensitivity: float | None
    precision: float | None


def scores_at(histogram: Histogram, threshold: float) -> Scores:
    """Scores over all pixels together where tumor is ``probability >= threshold``.

    The threshold counts as the edge of a bin that is nearest to it.
    """
    edge = int(np.abs(histogram.edges - threshold).argmin())
    missed = float(histogram.counts[1, :edge].sum())
    false, hit = (float(n) for n in histogram.counts[:, edge:].sum(axis=1))
    return Scores(
        threshold=threshold,
        dice=_ratio(2 * hit, 2 * hit + false + missed),
        jaccard=_ratio(hit, hit + false + missed),
        sensitivity=_ratio(hit, hit + missed),
        precision=_ratio(hit, hit + false),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def best_threshold(histogram: Histogram) -> float:
    """The threshold with the highest Dice, strictly between 0 and 1.

    Thresholds often tie, where no probability lies between them: of each run of tied
    ones the middle counts, and of several middles the one nearest to 0.5. Without any
    tumor pixel no threshold is better than another, and 0.5 comes back.
    """
    hits = histogram.counts[1].sum() - np.cumsum(histogram.counts[1])[:-1]
    if histogram.counts[1].sum() <= 0:
        return 0.5
    called = histogram.total - np.cumsum(histogram.counts.sum(axis=0))[:-1]
    dices = 2 * hits / (called + histogram.counts[1].sum())
    best = np.flatnonzero(dices >= dices.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    inner = histogram.edges[1:-1]
    middles = [float(inner[(run[0] + run[-1]) // 2]) for run in runs]
    return min(middles, key=lambda middle: abs(middle - 0.5))


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """How often pixels are tumor, by the probability that they were given.

    Attributes:
        edges: [bins + 1], equal steps from 0 to 1.
        confidence: [bins], mean probability; NaN where there is no pixel.
        frequency: [bins], share that is tumor; NaN where there is no pixel.
        counts: [bins], weight of the pixels.
    """

    edges: Values
    confidence: Values
    frequency: Values
    counts: Values

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean |confidence - frequency| of the pixels."""
        if self.counts.sum() <= 0:
            return None
        there = self.counts > 0
        gaps = np.abs(self.confidence[there] - self.frequency[there])
        return float(np.average(gaps, weights=self.counts[there]))


def measure_reliability(
    histogram: Histogram, *, bins: int = RELIABILITY_BINS
) -> Reliability:
    """The reliability curve in ``bins`` equal bins of probability."""
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
    """Mean of (probability - truth) squared; None without any pixel."""
    p = histogram.probabilities
    errors = histogram.counts[0] * p**2 + histogram.counts[1] * (1 - p) ** 2
    return _ratio(float(errors.sum()), histogram.total)


def auroc(histogram: Histogram) -> float | None:
    """How likely a tumor pixel is given more than another; None with one class only.

    Pixels of one bin count as tied, i.e. half.
    """
    other, tumor = histogram.counts
    below = np.cumsum(other) - other
    won = float((tumor * (below + other / 2)).sum())
    return _ratio(won, float(other.sum() * tumor.sum()))


def fit_temperature(histogram: Histogram) -> float:
    """The temperature T that makes expit(logit / T) fit the truth best.

    The minimum of the negative log-likelihood between ``TEMPERATURES``; above 1 the
    member was too sure of itself (Guo et al. 2017, arXiv 1706.04599). There is none,
    and 1 comes back, where one class is absent, or where no pixel is on the wrong side
    of 0.5: then less is always better.

    Args:
        histogram: best on the scale ``logit``; on the other, logits end at +-7.6.
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
    """The histogram of the probabilities expit(logit / temperature)."""
    tempered = Histogram(counts=np.zeros_like(histogram.counts))
    probabilities = expit(histogram.logits / temperature)
    for truth in (0, 1):
        weight = histogram.counts[truth]
        tempered.add(probabilities, np.full(len(weight), truth), weight)
    return tempered
