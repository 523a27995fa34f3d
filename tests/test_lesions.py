"""Lesions written out pixel by pixel, and scikit-image as the judge of random ones."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import regionprops
from skimage.morphology import convex_hull_image

from digipath_ray.outcome.hull import CORNERS, convex_hull, count_inside, fill
from digipath_ray.outcome.lesions import MOST, Lesion, find_lesions
from tests.pixels import drawn, heatmap_of

BOOLS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


def only(text: str, **mpp: float) -> Lesion:
    (lesion,) = find_lesions(drawn(text, **mpp), 0.5).lesions
    return lesion


def test_lesions_are_numbered_by_their_area() -> None:
    found = find_lesions(
        drawn(
            """
            @.....
            ...##.
            ...##.
            o.....
            oo...x
            """
        ),
        0.5,
    )
    assert found.labels.dtype == np.int32
    assert found.labels.tolist() == [
        [3, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [2, 0, 0, 0, 0, 0],
        [2, 2, 0, 0, 0, 4],
    ]
    assert [le.number for le in found.lesions] == [1, 2, 3, 4]
    assert [le.area_mm2 for le in found.lesions] == pytest.approx(
        [4 * 64e-6, 3 * 64e-6, 64e-6, 64e-6]
    )
    assert [le.box for le in found.lesions] == [
        (1, 3, 3, 5),
        (3, 0, 5, 2),
        (0, 0, 1, 1),
        (4, 5, 5, 6),
    ]
    assert (found.threshold, found.mpp_x, found.mpp_y) == (0.5, 8.0, 8.0)
    assert (found.labels > 0).sum() == 9
    assert found.pixels(2).tolist() == [[True, False], [True, True]]


def test_a_lesion_knows_where_it_lies_and_how_sure_it_is() -> None:
    lesion = only(
        """
        ....
        .o@.
        .x..
        """,
        mpp_x=10.0,
        mpp_y=20.0,
    )
    # Centers: (15, 30), (25, 30), (15, 50).
    assert lesion.x_um == pytest.approx(55 / 3)
    assert lesion.y_um == pytest.approx(110 / 3)
    assert lesion.mean_p == pytest.approx(2.4 / 3)
    assert lesion.max_p == 1.0


def test_pixels_that_touch_in_a_corner_are_one_lesion() -> None:
    assert only("#.. .#. ..#").area_mm2 == pytest.approx(3 * 64e-6)


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 3), (0.9, 2), (0.96, 0)])
def test_the_threshold_itself_is_in(threshold: float, count: int) -> None:
    found = find_lesions(drawn("o.x.#"), threshold)
    assert len(found.lesions) == count
    assert found.labels.max() == count


def test_what_was_not_predicted_belongs_to_nothing() -> None:
    heatmap = drawn("###")
    heatmap.weight[0, 1] = 0
    assert find_lesions(heatmap, 0.5).labels.tolist() == [[1, 0, 2]]


def test_no_lesion() -> None:
    found = find_lesions(drawn("... ..."), 0.5)
    assert found.lesions == ()
    assert not found.labels.any()


# --- shapes ---


def test_a_rectangle() -> None:
    lesion = only("...... .####. .####. ......", mpp_x=10.0, mpp_y=10.0)
    # From pixel center to pixel center it is 3 + 1 + 3 + 1 px around.
    assert lesion.perimeter_um == pytest.approx(80)
    # Variances (4 ** 2 - 1) / 12 = 1.25 and (2 ** 2 - 1) / 12 = 0.25 px2.
    assert lesion.major_axis_um == pytest.approx(10 * 4 * math.sqrt(1.25))
    assert lesion.eccentricity == pytest.approx(math.sqrt(1 - 0.25 / 1.25))
    assert (lesion.extent, lesion.solidity) == (1, 1)
    # Middle of the left side of one corner's pixel to that of the other, 4 and 1 px.
    assert lesion.feret_um == pytest.approx(10 * math.hypot(4, 1))


def test_a_horseshoe() -> None:
    lesion = only("#.# #.# ###", mpp_x=10.0, mpp_y=10.0)
    assert lesion.extent == pytest.approx(7 / 9)
    assert lesion.solidity == pytest.approx(7 / 9)
    # Its two ends count nothing, the others 1 each.
    assert lesion.perimeter_um == pytest.approx(50)
    # Variances 6/7 from left to right, 2 - (8/7) ** 2 = 34/49 from top to bottom.
    assert lesion.major_axis_um == pytest.approx(10 * 4 * math.sqrt(6 / 7))
    assert lesion.eccentricity == pytest.approx(math.sqrt(1 - 34 / 42))


@pytest.mark.parametrize(
    ("text", "major", "feret"),
    [
        ("#", 0, 1),
        ("##", 4 * 0.5, 2),
        ("# #", 4 * 0.5, 2),
        ("#. .#", 4 * math.sqrt(0.5), math.hypot(1, 2)),
        ("#####", 4 * math.sqrt(2), 5),
        ("# # # # #", 4 * math.sqrt(2), 5),
        ("#.. .#. ..#", 4 * math.sqrt(4 / 3), math.hypot(2, 3)),
    ],
)
def test_specks_and_lines_have_finite_measures(
    text: str, major: float, feret: float
) -> None:
    lesion = only(text)
    assert lesion.major_axis_um == pytest.approx(8 * major)
    assert lesion.feret_um == pytest.approx(8 * feret, abs=1e-6)
    assert lesion.solidity == 1
    assert lesion.eccentricity == (0 if text == "#" else 1)
    assert math.isfinite(lesion.perimeter_um)


def test_pixels_need_not_be_square() -> None:
    lesion = only("# # # #", mpp_x=4.0, mpp_y=9.0)
    assert lesion.area_mm2 == pytest.approx(4 * 36e-6)
    assert lesion.feret_um == pytest.approx(36)
    assert lesion.major_axis_um == pytest.approx(9 * 4 * math.sqrt(1.25))
    square = only("#### ####", mpp_x=4.0, mpp_y=9.0)
    # Variances 1.25 * 16 and 0.25 * 81 um2: it is higher than wide, by a hair.
    assert square.major_axis_um == pytest.approx(4 * math.sqrt(20.25))
    assert square.eccentricity == pytest.approx(math.sqrt(1 - 20 / 20.25))
    assert square.perimeter_um == pytest.approx(8 * 6)  # the root of 4 * 9


def test_a_ring_is_as_long_as_it_is_wide() -> None:
    y, x = np.ogrid[-110:111, -110:111]
    radius = np.hypot(x, y)
    ring = (radius <= 100) & (radius > 80)
    (lesion,) = find_lesions(heatmap_of(ring, mpp_x=1.0, mpp_y=1.0), 0.5).lesions
    assert lesion.feret_um == pytest.approx(201, abs=1)
    assert lesion.major_axis_um == pytest.approx(256, abs=1)


@settings(deadline=None, max_examples=60)
@given(pixels=BOOLS)
def test_scikit_image_measures_the_same(pixels: np.ndarray) -> None:
    found = find_lesions(heatmap_of(pixels, mpp_x=3.0, mpp_y=3.0), 0.5)
    regions = regionprops(found.labels, spacing=(3.0, 3.0))
    assert len(regions) == len(found.lesions)
    for lesion, region in zip(found.lesions, regions, strict=True):
        assert lesion.area_mm2 * 1e6 == pytest.approx(region.area)
        assert lesion.perimeter_um == pytest.approx(region.perimeter)
        assert lesion.major_axis_um == pytest.approx(region.axis_major_length)
        assert lesion.eccentricity == pytest.approx(region.eccentricity)
        assert lesion.extent == pytest.approx(region.extent)
        assert lesion.solidity == pytest.approx(region.solidity)
        assert lesion.box == region.bbox
        y_um, x_um = region.centroid
        assert (lesion.x_um, lesion.y_um) == pytest.approx((x_um + 1.5, y_um + 1.5))
        # It outlines the picture of the hull, whose steps stand out of the hull.
        assert -1e-6 <= region.feret_diameter_max - lesion.feret_um <= 3.0


@settings(deadline=None, max_examples=60)
@given(pixels=BOOLS)
def test_hulls_hold_the_pixels_that_scikit_image_draws(pixels: np.ndarray) -> None:
    pixels[0, 0] = True
    hull = convex_hull(pixels)
    drawn_hull = convex_hull_image(pixels)
    assert np.array_equal(fill(hull, pixels.shape), drawn_hull)
    assert count_inside(hull) == drawn_hull.sum()
    assert (fill(convex_hull(pixels, CORNERS), pixels.shape) >= drawn_hull).all()


@settings(deadline=None, max_examples=60)
@given(
    pixels=BOOLS, mpp_x=st.sampled_from([1.0, 3.5]), mpp_y=st.sampled_from([1.0, 2.0])
)
def test_feret_is_the_largest_of_all_distances(
    pixels: np.ndarray, mpp_x: float, mpp_y: float
) -> None:
    pixels[0, 0] = True
    found = find_lesions(heatmap_of(pixels, mpp_x=mpp_x, mpp_y=mpp_y), 0.5)
    rows, cols = np.nonzero(pixels)
    middles = np.concatenate(
        [
            np.stack([rows + y, cols + x], axis=1)
            for y, x in ((0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1))
        ]
    ) * (mpp_y, mpp_x)
    longest = np.hypot(*(middles[:, None] - middles).T).max()
    numbers = [lesion.number for lesion in found.lesions]
    assert found.feret_um(numbers) == pytest.approx(longest, abs=1e-6)


@pytest.mark.slow
def test_a_large_slide_takes_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    side, rng = 6000, np.random.default_rng(0)
    probability = np.zeros((side, side), np.float32)
    y, x = np.ogrid[:side, :side]
    probability[(y - 3000) ** 2 + (x - 3000) ** 2 <= 1500**2] = 0.9
    for row, col in rng.integers(0, side, (300, 2)):
        radius = int(rng.integers(1, 60))
        rows = slice(max(0, row - radius), row + radius + 1)
        cols = slice(max(0, col - radius), col + radius + 1)
        inside = (y[rows] - row) ** 2 + (x[:, cols] - col) ** 2 <= radius**2
        probability[rows, cols][inside] = 0.9
    heatmap = heatmap_of(probability)
    start = time.process_time()
    found = find_lesions(heatmap, 0.5)
    seconds = time.process_time() - start
    assert found.lesions[0].feret_um >= 8 * 3000
    with capsys.disabled():
        print(f"\n{len(found.lesions)} lesions on 6000 x 6000 px: {seconds:.2f} s")


def test_of_too_many_lesions_the_largest_are_measured() -> None:
    # 150 x 150 single px and, below them, one lesion of 2 x 3.
    probability = np.zeros((310, 300), np.float32)
    probability[:300:2, ::2] = 0.9
    probability[304:306, 10:13] = 0.9
    found = find_lesions(heatmap_of(probability), 0.5)
    assert len(found.lesions) == MOST
    assert found.left_out == 150 * 150 + 1 - MOST
    assert found.lesions[0].box == (304, 10, 306, 13)
    assert found.labels.max() == MOST
    assert np.count_nonzero(found.labels) == MOST - 1 + 6
    few = find_lesions(heatmap_of(probability[300:]), 0.5)
    assert (len(few.lesions), few.left_out) == (1, 0)
