"""The size rule on planted lesions of known size."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from digipath_ray.outcome.lesions import Lesions, find_lesions
from digipath_ray.outcome.metastasis.size_rule import (
    SizedLesions,
    SizeRule,
    merge_lesions,
    type_of_size,
)
from digipath_ray.outcome.staging import Metastasis
from tests.pixels import drawn, heatmap_of

RULE = SizeRule(min_extent_um=40.0, min_p=0.7, merge_um=75.0)
NOTHING = SizedLesions(largest_um=0.0, score=0.0, counted=())


def bar(length: int, *, mpp_x: float = 8.0, mpp_y: float = 8.0) -> Lesions:
    """A lesion ``length`` px long and one wide."""
    probability = np.zeros((3, length + 2))
    probability[1, 1:-1] = 0.9
    return find_lesions(heatmap_of(probability, mpp_x=mpp_x, mpp_y=mpp_y), 0.5)


def groups(text: str, merge_um: float, **mpp: float) -> list[tuple[int, ...]]:
    found = find_lesions(drawn(text, **mpp), 0.5)
    return [group.numbers for group in merge_lesions(found, merge_um)]


@pytest.mark.parametrize(
    ("largest_um", "expected"),
    [
        (0.0, Metastasis.NEGATIVE),
        (1e-3, Metastasis.ITC),
        (200.0, Metastasis.ITC),
        (200.001, Metastasis.MICRO),
        (2000.0, Metastasis.MICRO),
        (2000.001, Metastasis.MACRO),
    ],
)
def test_types_have_inclusive_bounds(largest_um: float, expected: Metastasis) -> None:
    assert type_of_size(largest_um) is expected


@pytest.mark.parametrize(
    ("px", "mpp", "expected"),
    [
        (25, 8.0, Metastasis.ITC),
        (26, 8.0, Metastasis.MICRO),
        (250, 8.0, Metastasis.MICRO),
        (251, 8.0, Metastasis.MACRO),
        (2000, 0.1, Metastasis.ITC),  # no float's tail makes it longer
        (2001, 0.1, Metastasis.MICRO),
    ],
)
def test_planted_bars_get_their_type(px: int, mpp: float, expected: Metastasis) -> None:
    for lesions in (bar(px, mpp_x=mpp, mpp_y=mpp), bar(px, mpp_x=mpp, mpp_y=3.0)):
        sized = RULE.measure(lesions)
        assert sized.largest_um == pytest.approx(px * mpp)
        assert type_of_size(sized.largest_um) is expected


@pytest.mark.parametrize(
    ("diameter_um", "expected"),
    [(180, Metastasis.ITC), (220, Metastasis.MICRO), (2100, Metastasis.MACRO)],
)
def test_planted_disks_and_rings_get_their_type(
    diameter_um: float, expected: Metastasis
) -> None:
    half = int(diameter_um / 8 / 2) + 2
    y, x = np.ogrid[-half : half + 1, -half : half + 1]
    radius = np.hypot(y, x) * 8
    for hollow in (0, 0.8):
        inside = (radius <= diameter_um / 2) & (radius >= hollow * diameter_um / 2)
        sized = RULE.measure(find_lesions(heatmap_of(inside), 0.5))
        assert sized.largest_um == pytest.approx(diameter_um, abs=10)
        assert type_of_size(sized.largest_um) is expected


def test_no_lesion_is_negative() -> None:
    sized = RULE.measure(find_lesions(drawn("..."), 0.5))
    assert sized == NOTHING
    assert type_of_size(sized.largest_um) is Metastasis.NEGATIVE


def test_what_is_short_or_nowhere_sure_is_passed_over() -> None:
    found = find_lesions(drawn("xxxxx" + 12 * "." + "oooooo"), 0.5)
    assert RULE.measure(found).counted == ((2,),)  # 5 px are 40 um, just enough
    longer = SizeRule(min_extent_um=40.1, min_p=0.7, merge_um=75.0)
    assert longer.measure(found) == NOTHING
    unsure = SizeRule(min_extent_um=40.0, min_p=0.5, merge_um=75.0)
    sized = unsure.measure(found)
    assert sized.counted == ((1,), (2,))  # the longest first
    assert sized.largest_um == 48
    assert sized.score == pytest.approx(0.9)


def test_fragments_are_merged_before_they_are_looked_at() -> None:
    # Each 16 um, the second alone is sure; from end to end 14 px.
    found = find_lesions(drawn("oo....xx....oo"), 0.5)
    sized = RULE.measure(found)
    assert sized.counted == ((1, 2, 3),)
    assert sized.largest_um == 14 * 8
    assert sized.score == pytest.approx(0.9)
    apart = SizeRule(min_extent_um=40.0, min_p=0.7, merge_um=32.0)
    assert apart.measure(found) == NOTHING  # 32 um apart is not closer than 32 um


@pytest.mark.parametrize(
    ("text", "merge_um", "together"),
    [
        ("#..........#", 75.0, False),  # 10 px of 7.5 um
        ("#.........#", 75.0, True),
        ("#..... ...... ...... ...... .....#", 37.5, False),  # 4 and 3 px: 5 px
        ("#..... ...... ...... ...... .....#", 37.6, True),
    ],
)
def test_distances_are_exact_and_from_edge_to_edge(
    text: str, merge_um: float, together: bool
) -> None:
    found = groups(text, merge_um, mpp_x=7.5, mpp_y=7.5)
    assert found == ([(1, 2)] if together else [(1,), (2,)])


def test_distances_know_pixels_that_are_not_square() -> None:
    assert len(groups("#...#", 30.0, mpp_x=10.0, mpp_y=2.0)) == 2
    assert len(groups("# . . . #", 30.0, mpp_x=10.0, mpp_y=2.0)) == 1


def test_a_lesion_in_the_hole_of_another_is_as_near_as_its_edge() -> None:
    ring = "####### #.....# #.....# #..#..# #.....# #.....# #######"
    assert groups(ring, 16.0) == [(1,), (2,)]
    assert groups(ring, 16.1) == [(1, 2)]


def test_zero_merges_nothing() -> None:
    assert groups("#.#", 0.0) == [(1,), (2,)]


@settings(deadline=None, max_examples=60)
@given(
    pixels=arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=10)),
    merge_um=st.sampled_from([4.0, 10.0, 25.0]),
    mpp_y=st.sampled_from([5.0, 3.0]),
)
def test_groups_are_those_of_all_pairs_of_pixels(
    pixels: np.ndarray, merge_um: float, mpp_y: float
) -> None:
    found = find_lesions(heatmap_of(pixels, mpp_x=5.0, mpp_y=mpp_y), 0.5)
    at = {le.number: np.argwhere(found.labels == le.number) for le in found.lesions}
    group = {number: {number} for number in at}
    for one, other in itertools.combinations(at, 2):
        gap = (np.abs(at[one][:, None] - at[other]) - 1).clip(min=0) * (mpp_y, 5.0)
        if np.hypot(*gap.reshape(-1, 2).T).min() < merge_um - 1e-9:
            merged = group[one] | group[other]
            group.update(dict.fromkeys(merged, merged))
    expected = {tuple(sorted(numbers)) for numbers in group.values()}
    merged_lesions = merge_lesions(found, merge_um)
    assert {g.numbers for g in merged_lesions} == expected
    for g in merged_lesions:
        assert g.extent_um == pytest.approx(found.feret_um(g.numbers))


def test_a_group_reaches_from_end_to_end() -> None:
    found = find_lesions(drawn("##.. .... .... ..##"), 0.5)
    (group,) = merge_lesions(found, 75.0)
    # The left side of one, 4 px to the right side and 3 px down.
    assert group.extent_um == pytest.approx(8 * math.hypot(4, 3))


def test_many_lesions_take_little_time(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    probability = np.zeros((3000, 3000), np.float32)
    for row, col in rng.integers(0, 2950, (300, 2)):
        probability[row : row + 30, col : col + 30] = rng.uniform(0.5, 1, (30, 30))
    found = find_lesions(heatmap_of(probability), 0.6)
    start = time.process_time()
    sized = RULE.measure(found)
    seconds = time.process_time() - start
    assert sized.largest_um > 200
    with capsys.disabled():
        print(f"\nsize rule over {len(found.lesions)} lesions: {seconds:.2f} s")
