"""Burden on drawn maps: what is viable, what is whole, and when there is none."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from digipath_ray.config.run import OutcomeSpec
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.outcome.burden import Burden, find_viable, measure_burden
from digipath_ray.tissue.mask import Mask
from tests.pixels import drawn, heatmap_of

PLAIN = {"viable_close_um": 0.0, "viable_open_um": 0.0, "min_viable_mm2": 0.0}
HORSESHOE = """
    ..........
    .###..###.
    .###..###.
    .########.
    ..........
"""
"""20 px of viable tumor in a hull of 24."""


def burden_of(
    heatmap: Heatmap,
    tissue: Mask | np.ndarray | None = None,
    *,
    threshold: float = 0.5,
    **spec: float,
) -> Burden:
    if tissue is None:
        tissue = np.ones(heatmap.weight.shape, np.bool_)
    outcome = OutcomeSpec(**(PLAIN | spec))
    return measure_burden(heatmap, tissue, outcome, threshold=threshold)


def horseshoe() -> Heatmap:
    return drawn(HORSESHOE, mpp_x=100.0, mpp_y=100.0)


def test_viable_by_the_hull() -> None:
    found = burden_of(horseshoe())
    assert found.burden == pytest.approx(20 / 24)
    assert found.viable_mm2 == pytest.approx(0.2)
    assert found.whole_mm2 == pytest.approx(0.24)
    assert found.note is None
    assert found.whole.array[1:4, 1:9].all()
    assert found.hull.equals(shapely.box(1, 1, 9, 4))
    assert (found.viable.mpp_x, found.whole.mpp_y) == (100.0, 100.0)


def test_only_tissue_is_whole_tumor_and_viable() -> None:
    tissue = np.ones((5, 10), np.bool_)
    tissue[1, 4:6] = False  # 2 px of the gap
    tissue[:, 8] = False  # 3 px of the tumor
    found = burden_of(horseshoe(), tissue)
    assert found.burden == pytest.approx(17 / 19)
    assert not (found.viable.array & ~found.whole.array).any()


def test_tissue_may_be_a_mask_of_other_pixels() -> None:
    fine = np.zeros((25, 50), np.bool_)
    fine[:, :25] = True  # the left half, at 20 um/px
    found = burden_of(horseshoe(), Mask(array=fine, mpp_x=20.0, mpp_y=20.0))
    assert found.burden == pytest.approx(10 / 12)
    with pytest.raises(ValueError, match=r"tissue of shape \[25, 50\] does not match"):
        burden_of(horseshoe(), fine)


def test_what_was_not_predicted_belongs_to_nothing() -> None:
    heatmap = horseshoe()
    heatmap.weight[1:3, 4] = 0  # in the gap
    heatmap.weight[1, 1] = 0
    assert burden_of(heatmap).burden == pytest.approx(19 / 21)
    closed = burden_of(heatmap, viable_close_um=200.0)
    assert closed.burden == 1
    assert closed.viable_mm2 == pytest.approx(0.21)


def test_a_stray_piece_does_not_stretch_the_hull() -> None:
    probability = np.zeros((10, 30), np.float32)
    probability[2:8, 2:8] = 0.9
    probability[2, 28] = 0.9
    heatmap = heatmap_of(probability, mpp_x=100.0, mpp_y=100.0)
    assert burden_of(heatmap).burden < 0.5
    assert burden_of(heatmap, min_viable_mm2=0.02).burden == 1
    # A piece just as large as the least counts.
    assert burden_of(heatmap, min_viable_mm2=0.01).burden < 0.5


def test_morphology_closes_gaps_and_removes_specks() -> None:
    probability = np.zeros((60, 80), np.float32)
    probability[10:50, 10:50] = 0.9
    probability[30, 20:40] = 0.1  # a gap of 8 um
    probability[12, 70] = 0.9  # a speck of 8 um
    heatmap = heatmap_of(probability)
    found = burden_of(heatmap, viable_close_um=160.0, viable_open_um=120.0)
    # The opening rounds the corners, and the hull cuts them straight.
    assert found.burden == pytest.approx(1, abs=0.02)
    assert found.viable_mm2 == pytest.approx(40 * 40 * 64e-6, rel=0.07)
    assert found.viable.array[30, 30]
    assert not found.whole.array[12, 70]


def test_the_hull_goes_around_all_pieces() -> None:
    found = burden_of(drawn("#....# ...... #....#", mpp_x=10.0, mpp_y=20.0))
    assert found.burden == pytest.approx(4 / 18)
    assert found.whole_mm2 == pytest.approx(18 * 200e-6)


@pytest.mark.parametrize(
    ("spec", "note"),
    [
        ({"threshold": 0.99}, r"no tumor found: no probability reaches 0.99"),
        (
            {"min_viable_mm2": 0.5},
            r"no tumor found: the largest piece, 0.2 mm2 after morphology, is below "
            r"0.5 mm2",
        ),
        (
            {"viable_open_um": 900.0},
            r"no tumor found: the largest piece, 0 mm2 after morphology",
        ),
    ],
)
def test_without_tumor_there_is_no_burden_but_a_reason(
    spec: dict[str, float], note: str
) -> None:
    found = burden_of(horseshoe(), **spec)
    assert found.burden is None
    assert found.note is not None
    assert found.note.startswith(note)
    assert (found.viable_mm2, found.whole_mm2, found.hull) == (0, 0, None)
    assert not found.viable.array.any()
    assert not found.whole.array.any()


def test_tumor_off_the_tissue_is_none() -> None:
    found = burden_of(horseshoe(), np.zeros((5, 10), np.bool_))
    assert found.burden is None
    assert found.note == "all viable tumor is outside the tissue mask"


@settings(deadline=None, max_examples=60)
@given(
    maps=array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=20).flatmap(
        lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape))
    ),
    close_um=st.sampled_from([0.0, 16.0, 40.0]),
    refine_hull=st.booleans(),
)
def test_a_burden_is_a_fraction(
    maps: tuple[np.ndarray, np.ndarray], close_um: float, refine_hull: bool
) -> None:
    tumor, tissue = maps
    found = burden_of(
        heatmap_of(tumor), tissue, viable_close_um=close_um, refine_hull=refine_hull
    )
    assert not (found.viable.array & ~found.whole.array).any()
    assert not (found.whole.array & ~tissue).any()
    if found.burden is None:
        assert found.note
    else:
        assert 0 < found.burden <= 1
        assert found.burden == found.viable_mm2 / found.whole_mm2
        assert (found.whole.array >= (tumor & tissue)).all()


def crescent() -> np.ndarray:
    """A disk of 100 px of 64 um, with a bay, a necrotic core and a thin crack."""
    y, x = np.ogrid[:120, :120]
    disk = (y - 60) ** 2 + (x - 60) ** 2 <= 50**2
    bay = (y - 40) ** 2 + (x - 95) ** 2 <= 35**2
    core = (y - 75) ** 2 + (x - 45) ** 2 <= 10**2
    return disk & ~bay & ~core


def test_refining_leaves_the_bay_and_keeps_the_core() -> None:
    tumor = crescent()
    heatmap = heatmap_of(tumor, mpp_x=64.0, mpp_y=64.0)
    plain, refined = burden_of(heatmap), burden_of(heatmap, refine_hull=True)
    assert plain.whole.array[40, 85]  # between the horns
    assert not refined.whole.array[40, 85]
    assert refined.whole.array[75, 45]
    assert (refined.whole.array >= tumor).all()
    assert (refined.whole.array <= plain.whole.array).all()
    core_px = int((~tumor[60:90, 30:60] & refined.whole.array[60:90, 30:60]).sum())
    assert core_px == pytest.approx(np.pi * 100, rel=0.05)
    assert plain.burden < 0.85 < refined.burden < 0.97
    assert refined.hull.area == refined.whole.array.sum()


def test_refining_a_convex_tumor_changes_next_to_nothing() -> None:
    probability = np.zeros((80, 100), np.float32)
    probability[20:60, 20:80] = 0.9
    heatmap = heatmap_of(probability, mpp_x=32.0, mpp_y=64.0)
    assert burden_of(heatmap, refine_hull=True).burden == 1


# Networks that know the whole tumor


def with_whole(heatmap: Heatmap, whole: np.ndarray) -> Heatmap:
    data = np.concatenate([heatmap.data, whole[None].astype(np.float32)])
    return replace(heatmap, channels=(*heatmap.channels, "whole"), data=data)


def test_the_whole_tumor_is_what_the_networks_say() -> None:
    whole = np.zeros((5, 10), np.float32)
    whole[1:4, 1:9] = 0.6
    whole[0, :4] = 0.5
    whole[1, 4:6] = 0.49
    found = burden_of(with_whole(horseshoe(), whole))
    assert found.whole_from == "networks"
    assert found.hull is None
    np.testing.assert_array_equal(found.whole.array, whole >= 0.5)
    assert found.burden == pytest.approx(20 / (24 - 2 + 4))
    assert burden_of(horseshoe()).whole_from == "hull"
    assert burden_of(horseshoe(), refine_hull=True).whole_from == "refined hull"
    lower = burden_of(with_whole(horseshoe(), whole), threshold=0.45)
    assert lower.burden == pytest.approx(20 / (24 + 4))
    with pytest.raises(ValueError, match="no hull to refine: leave out --refine-hull"):
        burden_of(with_whole(horseshoe(), whole), refine_hull=True)


def test_viable_tumor_is_whole_tumor_whatever_they_say() -> None:
    """Two independent answers may contradict each other."""
    nothing = np.zeros((5, 10), np.float32)
    found = burden_of(with_whole(horseshoe(), nothing))
    assert (found.burden, found.viable_mm2) == (1.0, pytest.approx(0.2))
    none = burden_of(with_whole(drawn(HORSESHOE.replace("#", ".")), nothing + 1))
    assert (none.burden, none.whole_from) == (None, None)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), close=st.integers(0, 2), open_=st.integers(0, 2))
def test_the_whole_tumor_is_cleaned_as_the_viable_is(
    seed: int, close: int, open_: int
) -> None:
    rng = np.random.default_rng(seed)
    viable = ndimage.gaussian_filter(rng.random((24, 30)), 1.5)
    viable = (viable - viable.min()) / np.ptp(viable)
    whole = np.minimum(1, viable + 0.15 * rng.random((24, 30)))
    heatmap = with_whole(heatmap_of(viable, mpp_x=100.0, mpp_y=100.0), whole)
    heatmap.weight[:, -3:] = 0
    tissue = rng.random((24, 30)) < 0.9
    spec = {
        "viable_close_um": 200.0 * close,
        "viable_open_um": 200.0 * open_,
        "min_viable_mm2": 0.05,
    }
    found = burden_of(heatmap, tissue, **spec)
    masks = []
    for plane in heatmap.data:
        alone = heatmap_of(plane, mpp_x=100.0, mpp_y=100.0)
        alone.weight[:, -3:] = 0
        masks.append(find_viable(alone, OutcomeSpec(**spec), threshold=0.5)[0].array)
    want_whole = (masks[0] | masks[1]) & tissue & heatmap.covered
    want_viable = masks[0] & tissue & heatmap.covered
    if not want_viable.any():
        assert found.burden is None
        return
    np.testing.assert_array_equal(found.viable.array, want_viable)
    np.testing.assert_array_equal(found.whole.array, want_whole)
    assert found.burden == pytest.approx(want_viable.sum() / want_whole.sum())
