"""The 32 features that predict a slide's metastasis type (Table 5).

These follow the paper. The released code has 31 of them, the extent at another
threshold, all rounded to two decimals, in heatmap px, and 0 if nothing reaches 0.9.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digipath_ray.outcome.lesions import Lesion, Lesions
from digipath_ray.schema import column, table

HIGH, LOW = 0.9, 0.5
"""Probability thresholds of Table 5."""
SAME = 1e-12
"""Values whose range is below this fraction of the largest are considered equal."""

_MEASURES = {
    "area_mm2": "area, mm2",
    "perimeter_um": "perimeter, um",
    "eccentricity": "eccentricity",
    "extent": "extent",
    "solidity": "solidity",
}
_STATISTICS = {
    "max": "maximum",
    "mean": "mean",
    "variance": "population variance",
    "skewness": "skewness",
    "kurtosis": "excess kurtosis",
}


def _describe() -> Iterator[tuple[str, str]]:
    """Name and description of each feature, in the order of Table 5."""
    yield "major_axis_um_p90", "major axis of the region with the largest area, um"
    yield "major_axis_um_p50", "major axis of the region with the largest area, um"
    yield "largest_area_mm2_p50", "area of the largest region, mm2"
    yield "tumor_to_tissue_p90", "area of all regions / area of the tissue mask"
    yield "positive_mm2_p90", "area of all regions, mm2"
    for measure, of in _MEASURES.items():
        for statistic, what in _STATISTICS.items():
            yield f"{measure}_{statistic}_p90", f"{what} of the regions' {of}"
    yield "mean_probability_p90", "mean of the regions' mean probability"
    yield "region_count_p90", "number of regions"


_DESCRIPTIONS = dict(_describe())

FEATURES: tuple[str, ...] = tuple(_DESCRIPTIONS)
"""Feature names in the order of Table 5, with unit and threshold: p90 is p >= 0.9."""


FEATURES_SCHEMA = table(
    column("slide_id", pa.string(), "the slide"),
    *(column(name, pa.float64(), doc) for name, doc in _DESCRIPTIONS.items()),
)
"""Schema of the feature table: slide_id and :data:`FEATURES`."""


def measure_features(
    high: Lesions, low: Lesions, *, tissue_mm2: float
) -> dict[str, float]:
    """Measure a slide's features, by name in the order of :data:`FEATURES`.

    Without regions, features of regions are 0; skewness and kurtosis are also 0 for
    fewer than two different values.

    Args:
        high: lesions at 0.9.
        low: lesions at 0.5.
        tissue_mm2: area of the undilated tissue mask; without tissue the ratio is 0.

    Raises:
        ValueError: the lesions have another threshold.
    """
    for lesions, threshold in ((high, HIGH), (low, LOW)):
        if lesions.threshold != threshold:
            raise ValueError(
                f"lesions at threshold {lesions.threshold:g}: Table 5 requires "
                f"{threshold:g}"
            )
    positive_mm2 = sum((lesion.area_mm2 for lesion in high.lesions), 0.0)
    values = [
        _of_largest(high, "major_axis_um"),
        _of_largest(low, "major_axis_um"),
        _of_largest(low, "area_mm2"),
        positive_mm2 / tissue_mm2 if tissue_mm2 > 0 else 0.0,
        positive_mm2,
        *(value for measure in _MEASURES for value in _statistics(high, measure)),
        float(_values(high.lesions, "mean_p").mean()) if high.lesions else 0.0,
        float(len(high.lesions)),
    ]
    return dict(zip(FEATURES, values, strict=True))


def _of_largest(lesions: Lesions, name: str) -> float:
    return float(getattr(lesions.lesions[0], name)) if lesions.lesions else 0.0


def _values(lesions: Sequence[Lesion], name: str) -> NDArray[np.float64]:
    return np.array([getattr(lesion, name) for lesion in lesions], np.float64)


def _statistics(lesions: Lesions, name: str) -> tuple[float, ...]:
    """Maximum, mean, variance, skewness and kurtosis of a measure over all regions."""
    if not lesions.lesions:
        return (0.0,) * len(_STATISTICS)
    values: Any = _values(lesions.lesions, name)
    largest, mean = float(values.max()), float(values.mean())
    # Values equal up to rounding: scipy would divide noise by noise.
    if np.ptp(values) <= SAME * largest:
        return largest, mean, 0.0, 0.0, 0.0
    # Here, as processes that measure no features would load it too.
    from scipy import stats

    skewness, kurtosis = stats.skew(values), stats.kurtosis(values)
    return largest, mean, float(values.var()), float(skewness), float(kurtosis)
