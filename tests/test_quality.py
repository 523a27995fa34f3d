"""Ink colors against stain colors, blur on real tissue, and the flags."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import Mask
from digipath_ray.tissue.quality import Quality, find_ink, measure_quality

CLEAN = {
    "tissue_mm2": 50.0,
    "ink": 0.0,
    "ink_over_tissue": 0.0,
    "blur": 0.0,
    "black": 0.0,
    "blank": 0.5,
}


def field(color: tuple[int, int, int], *, side: int = 40) -> np.ndarray:
    return np.full((side, side, 3), color, np.uint8)


def mask(array: np.ndarray, *, mpp: float = 8.0) -> Mask:
    return Mask(array=array, mpp_x=mpp, mpp_y=mpp)


@pytest.mark.parametrize(
    "color",
    [
        (30, 60, 180), (70, 130, 220), (0, 0, 200), (40, 40, 140), (25, 30, 90),
        (30, 110, 60), (0, 100, 60), (20, 70, 40), (120, 170, 60), (40, 150, 160),
        (200, 30, 40), (230, 30, 30), (180, 20, 30),
        (10, 10, 12), (30, 30, 35), (60, 60, 65), (90, 90, 95),
    ],
)  # fmt: skip
def test_marker_colors_are_ink(color: tuple[int, int, int]) -> None:
    assert find_ink(field(color), mpp_x=8.0, mpp_y=8.0).array.all()


@pytest.mark.parametrize(
    ("hematoxylin", "eosin"),
    [
        ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105)),  # Ruifrok and Johnston 2001
        ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)),  # Macenko et al. 2009
        ((0.490, 0.769, 0.410), (0.046, 0.842, 0.537)),  # ImageJ's "H&E 2"
    ],
)
def test_no_mixture_of_hematoxylin_and_eosin_is_ink(
    hematoxylin: tuple[float, ...], eosin: tuple[float, ...]
) -> None:
    amounts = np.linspace(0, 2, 21)
    h, e = np.meshgrid(amounts, amounts)
    density = h[..., None] * np.array(hematoxylin) + e[..., None] * np.array(eosin)
    rgb = np.rint(255 * 10**-density).astype(np.uint8)
    # Each color is a field of 20 x 20 px, wide enough for every ink.
    rgb = rgb.repeat(20, axis=0).repeat(20, axis=1)
    assert not find_ink(rgb, mpp_x=20.0, mpp_y=20.0).array.any()


@pytest.mark.parametrize(
    "color", [(255, 255, 255), (225, 235, 245), (200, 200, 200), (190, 60, 70)]
)
def test_glass_and_blood_are_no_ink(color: tuple[int, int, int]) -> None:
    assert not find_ink(field(color), mpp_x=8.0, mpp_y=8.0).array.any()


@pytest.mark.parametrize("mpp", [4.0, 8.0])
def test_ink_is_a_line_of_more_than_100_um(mpp: float) -> None:
    rgb = field((220, 160, 200), side=200)
    thin, wide = round(96 / mpp), round(120 / mpp)
    rgb[:, 20 : 20 + thin] = (30, 60, 180)
    rgb[:, 100 : 100 + wide] = (30, 60, 180)
    margin = round(24 / mpp)
    expected = np.zeros((200, 200), np.bool_)
    expected[:, 100 - margin : 100 + wide + margin] = True
    assert np.array_equal(find_ink(rgb, mpp_x=mpp, mpp_y=mpp).array, expected)


def test_nothing_wrong_raises_nothing() -> None:
    assert Quality(**CLEAN).flags == ()


@pytest.mark.parametrize(
    ("field_name", "below", "from_here", "flag"),
    [
        ("ink", 0.0019, 0.002, "ink"),
        ("ink_over_tissue", 0.0049, 0.005, "ink over tissue"),
        ("blur", 0.249, 0.25, "blur"),
        ("black", 0.049, 0.05, "black"),
        ("tissue_mm2", 0.1, 0.099, "little tissue"),
        ("tissue_mm2", 0.1, 0.0, "no tissue"),
    ],
)
def test_each_flag_at_its_threshold(
    field_name: str, below: float, from_here: float, flag: str
) -> None:
    assert Quality(**{**CLEAN, field_name: below}).flags == ()
    assert Quality(**{**CLEAN, field_name: from_here}).flags == (flag,)


def test_shares_of_a_slide_are_counted() -> None:
    rgb = field((220, 160, 200), side=100)
    rgb[:25] = 0
    rgb[25:75] = 245
    rgb[74, 0] = (245, 225, 245)  # bright, but colored
    tissue = np.zeros((100, 100), np.bool_)
    tissue[75:] = True
    quality = measure_quality(rgb, tissue=mask(tissue), ink=mask(np.zeros_like(tissue)))
    assert quality.black == 0.25
    assert quality.blank == pytest.approx(0.4999)
    assert quality.tissue_mm2 == pytest.approx(2500 * 64e-6)
    assert (quality.ink, quality.ink_over_tissue, quality.blur) == (0.0, 0.0, 0.0)


def ink_over(tissue: np.ndarray, ink: np.ndarray) -> Quality:
    rgb = np.full((*tissue.shape, 3), 245, np.uint8)
    return measure_quality(rgb, tissue=mask(tissue), ink=mask(ink))


def test_ink_across_tissue_is_over_it() -> None:
    tissue, ink = np.zeros((2, 400, 400), np.bool_)
    ink[:, 180:240] = True
    tissue[100:300, 50:350] = True
    tissue &= ~ink  # as it is once ink is taken out
    quality = ink_over(tissue, ink)
    assert quality.ink == 0.15
    assert quality.ink_over_tissue == pytest.approx(60 / 300, abs=0.02)


def test_ink_far_from_tissue_is_not_over_it() -> None:
    tissue, ink = np.zeros((2, 400, 400), np.bool_)
    ink[:, 380:] = True
    tissue[100:300, 50:350] = True
    assert ink_over(tissue, ink).ink_over_tissue == 0.0


@pytest.mark.parametrize("mask_mpp", [2.0, 8.0])
def test_blur_of_8_um_is_seen_on_real_tissue_and_sharp_tissue_is_not_blurred(
    shared_data: Path, mask_mpp: float
) -> None:
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        pixels = slide.read_level(0, 0, 0, slide.info.width, slide.info.height)
        mpp, _ = slide.info.need_mpp()
    shares = {}
    for sigma_um in (0.0, 1.0, 8.0):
        image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma_um / mpp))
        size = (
            round(image.width * mpp / mask_mpp),
            round(image.height * mpp / mask_mpp),
        )
        rgb = np.asarray(image.resize(size, Image.Resampling.BOX))
        tissue = mask(rgb[..., 1] < 200, mpp=mask_mpp).closed(160.0)
        no_ink = tissue.like(np.zeros_like(tissue.array))
        shares[sigma_um] = measure_quality(rgb, tissue=tissue, ink=no_ink).blur
    assert shares[0.0] < 0.01
    assert shares[1.0] < 0.01
    assert shares[8.0] > 0.95


def test_tissue_without_texture_is_not_called_blurred() -> None:
    rgb = field((200, 120, 180), side=100)
    everything = np.ones((100, 100), np.bool_)
    quality = measure_quality(rgb, tissue=mask(everything), ink=mask(~everything))
    assert quality.blur == 0.0


def test_one_pixel() -> None:
    rgb, one = field((220, 160, 200), side=1), np.ones((1, 1), np.bool_)
    quality = measure_quality(rgb, tissue=mask(one), ink=mask(~one))
    assert quality.flags == ("little tissue",)
