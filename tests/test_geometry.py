import pytest
from hypothesis import given
from hypothesis import strategies as st

from digipath_ray.geometry import (
    Frame,
    NoLevelFineEnough,
    model_frame,
    mpp_from_magnification,
    top_left_from_center,
)

CAMELYON = (1.0, 2.0, 4.0, 8.0)


def frame_at(
    mpp: float,
    slide_mpp: float | tuple[float, float],
    downsamples: tuple[float, ...] = (1.0,),
    *,
    allow_upsampling: bool = False,
) -> Frame:
    x, y = slide_mpp if isinstance(slide_mpp, tuple) else (slide_mpp, slide_mpp)
    return model_frame(
        level_downsamples=downsamples,
        mpp_x=x,
        mpp_y=y,
        mpp=mpp,
        allow_upsampling=allow_upsampling,
    )


def test_magnification_becomes_mpp() -> None:
    assert mpp_from_magnification(40) == 0.25
    assert mpp_from_magnification(20) == 0.5
    with pytest.raises(ValueError, match="magnification must be positive, not 0"):
        mpp_from_magnification(0)


def test_a_level_within_5_percent_is_read_as_it_is() -> None:
    frame = frame_at(0.25, 0.243, CAMELYON)
    assert frame.native
    assert (frame.level, frame.l0_per_md_x, frame.l0_per_md_y) == (0, 1.0, 1.0)
    assert (frame.mpp_x, frame.mpp_y) == (0.243, 0.243)


def test_camelyon_positions_do_not_drift() -> None:
    # At 0.25 um per model px, px 100,000 would be taken 2,881 px too far.
    frame = frame_at(0.25, 0.243, CAMELYON)
    assert (frame.l0_per_md_x, frame.l0_per_md_y) == (1.0, 1.0)
    assert frame.md_size(97_792, 221_184) == (97_792, 221_184)


def test_camelyon_level_1_keeps_its_own_mpp() -> None:
    frame = frame_at(0.5, 0.243, CAMELYON)
    assert frame.native
    assert (frame.level, frame.mpp_x) == (1, 0.486)
    assert (frame.l0_per_md_x, frame.l0_per_md_y) == (2.0, 2.0)
    assert frame.md_size(97_792, 221_184) == (48_896, 110_592)


@pytest.mark.parametrize(
    ("slide_mpp", "native"), [(0.2376, True), (0.2624, True), (0.2374, False)]
)
def test_five_percent_is_the_limit(slide_mpp: float, native: bool) -> None:
    assert frame_at(0.25, slide_mpp).native is native


@pytest.mark.parametrize(
    ("mpp", "slide_mpp", "native"),
    [
        (0.25, 0.2639, True),  # one of the commonest scanners
        (0.25, 0.2674, True),
        (0.5, 0.5278, True),
        (0.5, 0.2639, False),  # a finer level is there to be resampled
    ],
)
def test_seven_percent_is_the_limit_where_no_level_is_finer(
    mpp: float, slide_mpp: float, native: bool
) -> None:
    frame = frame_at(mpp, slide_mpp)
    assert frame.native is native
    assert frame.mpp_x == (slide_mpp if native else mpp)
    assert not frame.upsampled


def test_what_is_a_little_coarser_still_names_the_options_and_their_cost() -> None:
    with pytest.raises(NoLevelFineEnough) as error:
        frame_at(0.25, 0.27)
    assert str(error.value) == (
        "the finest level has 0.27 um/px, coarser than the requested 0.25 um/px: give "
        "--mpp 0.27 with weights trained at that mpp, or --allow-upsampling, which "
        "interpolates 1:1.08 (no detail is gained, and the slide is flagged)"
    )


def test_asked_for_upsampling_reaches_the_mpp_itself() -> None:
    frame = model_frame(
        level_downsamples=(1.0,),
        mpp_x=0.2639,
        mpp_y=0.2639,
        mpp=0.25,
        allow_upsampling=True,
    )
    assert (frame.mpp_x, frame.upsampled, frame.native) == (0.25, True, False)


def test_the_nearest_finer_level_is_resampled() -> None:
    frame = frame_at(1.5, 0.25, (1.0, 2.0, 4.0, 8.0))
    assert not frame.native
    assert frame.level == 2
    assert frame.lv_per_md_x == 1.5
    assert frame.l0_per_md_x == 6.0
    assert frame.mpp_x == 1.5
    assert not frame.upsampled
    assert frame.md_size(601, 600) == (101, 100)


def test_x_and_y_keep_their_own_mpp() -> None:
    native = frame_at(0.25, (0.25, 0.26))
    assert native.native
    assert (native.mpp_x, native.mpp_y) == (0.25, 0.26)
    resampled = frame_at(1.0, (0.25, 0.5))
    assert (resampled.lv_per_md_x, resampled.lv_per_md_y) == (4.0, 2.0)
    assert (resampled.mpp_x, resampled.mpp_y) == (1.0, 1.0)
    assert resampled.md_size(400, 400) == (100, 200)


def test_a_level_must_be_fine_enough_on_both_axes() -> None:
    with pytest.raises(NoLevelFineEnough):
        frame_at(0.25, (0.25, 0.5))


def test_too_coarse_a_slide_is_refused_with_the_fix() -> None:
    with pytest.raises(NoLevelFineEnough) as error:
        frame_at(0.25, 0.499)
    assert str(error.value) == (
        "the finest level has 0.499 um/px, coarser than the requested 0.25 um/px: "
        "give --mpp 0.499 with weights trained at that mpp, or --allow-upsampling"
    )


def test_upsampling_is_flagged() -> None:
    frame = frame_at(0.25, 0.5, (1.0, 2.0), allow_upsampling=True)
    assert frame.upsampled
    assert (frame.level, frame.lv_per_md_x, frame.mpp_x) == (0, 0.5, 0.25)
    assert not frame_at(0.5, 0.5, allow_upsampling=True).upsampled


def test_sizes_do_not_grow_by_a_float_tail() -> None:
    assert frame_at(0.3, 0.1).md_size(300, 3) == (100, 1)  # 0.3 / 0.1 = 2.9999...
    assert frame_at(1.2, 0.4).md_size(1, 1) == (1, 1)


def test_patch_centers_and_corners() -> None:
    assert top_left_from_center((512, 600), 1024) == (0, 88)
    assert top_left_from_center((2, 2), 5) == (0, 0)


@given(
    slide_mpp=st.floats(0.1, 1.0),
    ratio=st.floats(1.0, 20.0),
    downsamples=st.lists(st.floats(1.5, 64), max_size=4),
)
def test_a_frame_is_consistent(
    slide_mpp: float, ratio: float, downsamples: list[float]
) -> None:
    levels = (1.0, *sorted(downsamples))
    frame = frame_at(slide_mpp * ratio, slide_mpp, levels)
    # What is physical agrees however it is computed.
    assert frame.mpp_x == pytest.approx(slide_mpp * frame.l0_per_md_x)
    assert frame.l0_per_md_x == pytest.approx(frame.lv_per_md_x * levels[frame.level])
    assert abs(frame.mpp_x / (slide_mpp * ratio) - 1) <= 0.05 + 1e-9
    assert frame.lv_per_md_x >= 1 - 1e-9
    # The model frame covers the slide, and no px of it lies wholly outside.
    width, _ = frame.md_size(100_000, 1)
    assert width * frame.l0_per_md_x >= 100_000 - 0.002 * frame.l0_per_md_x
    assert (width - 1) * frame.l0_per_md_x < 100_000
