"""Every feature of Table 5, by hand, on a heatmap of three regions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.features import (
    FEATURES,
    FEATURES_SCHEMA,
    HIGH,
    LOW,
    measure_features,
)
from digipath_ray.outcome.lesions import find_lesions
from tests.pixels import drawn, heatmap_of

SLIDE = """
    ............
    .oooooo.x.x.
    .o####o.x.x.
    .o####o.xxx.
    .oooooo.....
    ............
    ...........@
    """
"""A rectangle of 4 x 2 px in one of 6 x 4, a horseshoe of 7 px, and a single pixel."""


def features_of(heatmap: Heatmap, *, tissue_mm2: float = 0.008) -> dict[str, float]:
    high, low = find_lesions(heatmap, HIGH), find_lesions(heatmap, LOW)
    return measure_features(high, low, tissue_mm2=tissue_mm2)


def three(a: float, b: float, c: float) -> list[float]:
    """Maximum, mean, population variance, skewness and excess kurtosis of three."""
    mean = (a + b + c) / 3
    away = [a - mean, b - mean, c - mean]
    variance = sum(d**2 for d in away) / 3
    skewness = sum(d**3 for d in away) / 3 / variance**1.5
    return [max(a, b, c), mean, variance, skewness, -1.5]  # of any three different


def test_all_features_by_hand() -> None:
    found = features_of(drawn(SLIDE, mpp_x=10.0, mpp_y=10.0))
    expected = [
        # The rectangle: 4 sqrt(1.25) px at 0.9, 4 sqrt(35 / 12) px at 0.5.
        44.72136,
        68.31301,
        24e-4,
        0.2,  # 0.0016 of 0.008 mm2
        16e-4,
        # Areas 8, 7 and 1 px of 1e-4 mm2.
        *(8e-4, 16e-4 / 3, 86 / 9 * 1e-8, -520 / 86**1.5, -1.5),
        # Perimeters 80, 50 and 0 um.
        *(80, 130 / 3, 29400 / 27, -286000 / 27 / (29400 / 27) ** 1.5, -1.5),
        # Eccentricities sqrt(4 / 5), sqrt(4 / 21) and 0.
        *three(math.sqrt(4 / 5), math.sqrt(4 / 21), 0),
        # Extents and solidities 1, 7/9 and 1.
        *(1, 25 / 27, 8 / 729, -math.sqrt(0.5), -1.5),
        *(1, 25 / 27, 8 / 729, -math.sqrt(0.5), -1.5),
        0.95,  # of 0.95, 0.9 and 1
        3,
    ]
    assert list(found) == list(FEATURES)
    for name, want in zip(FEATURES, expected, strict=True):
        assert found[name] == pytest.approx(want, rel=1e-6), name


def test_names_say_unit_and_threshold() -> None:
    assert len(FEATURES) == len(set(FEATURES)) == 32
    assert FEATURES[:6] == (
        "major_axis_um_p90",
        "major_axis_um_p50",
        "largest_area_mm2_p50",
        "tumor_to_tissue_p90",
        "positive_mm2_p90",
        "area_mm2_max_p90",
    )
    assert FEATURES[-3:] == (
        "solidity_kurtosis_p90",
        "mean_probability_p90",
        "region_count_p90",
    )
    assert FEATURES_SCHEMA.names == ["slide_id", *FEATURES]
    assert all(field.metadata[b"doc"] for field in FEATURES_SCHEMA)
    assert not any(field.nullable for field in FEATURES_SCHEMA)


def test_without_lesions_all_is_zero() -> None:
    assert features_of(drawn("... ...")) == dict.fromkeys(FEATURES, 0.0)


def test_without_a_sure_region_the_unsure_one_still_counts() -> None:
    found = features_of(drawn("oooo", mpp_x=10.0, mpp_y=10.0))
    there = {name for name, value in found.items() if value != 0}
    assert there == {"major_axis_um_p50", "largest_area_mm2_p50"}
    assert found["largest_area_mm2_p50"] == pytest.approx(4e-4)


@pytest.mark.parametrize("text", ["@", "@@ @@", "@.@", "@@.@@ @@.@@"])
def test_regions_that_are_alike_have_no_skew(text: str) -> None:
    found = features_of(drawn(text))
    for name, value in found.items():
        if "variance" in name or "skewness" in name or "kurtosis" in name:
            assert value == 0, name
    assert found["extent_mean_p90"] == 1


def test_the_largest_region_has_the_largest_area_not_axis() -> None:
    found = features_of(drawn("@@@@@. ...... @@@... @@@...", mpp_x=1.0, mpp_y=1.0))
    # 3 x 2 px before 5 x 1 px.
    assert found["major_axis_um_p90"] == pytest.approx(4 * math.sqrt(8 / 12))


def test_no_tissue_is_no_division_by_zero() -> None:
    assert features_of(drawn("@"), tissue_mm2=0.0)["tumor_to_tissue_p90"] == 0


def test_thresholds_are_those_of_table_5() -> None:
    at_half = find_lesions(drawn("@"), LOW)
    with pytest.raises(
        ValueError, match=r"lesions at threshold 0\.5: Table 5 requires 0\.9"
    ):
        measure_features(at_half, at_half, tissue_mm2=1.0)


@settings(deadline=None, max_examples=60)
@given(
    probability=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=14),
        elements=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    ),
    mpp_y=st.sampled_from([1.0, 7.776]),
)
def test_features_are_finite_and_scipy_agrees(
    probability: np.ndarray, mpp_y: float
) -> None:
    heatmap = heatmap_of(probability, mpp_x=7.776, mpp_y=mpp_y)
    found = features_of(heatmap)
    assert all(math.isfinite(value) for value in found.values())
    lesions = find_lesions(heatmap, HIGH).lesions
    areas = [lesion.area_mm2 for lesion in lesions]
    if len(set(areas)) > 1:
        assert found["area_mm2_variance_p90"] == pytest.approx(np.var(areas))
        assert found["area_mm2_skewness_p90"] == pytest.approx(stats.skew(areas))
        assert found["area_mm2_kurtosis_p90"] == pytest.approx(stats.kurtosis(areas))
