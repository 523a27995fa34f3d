"""Tissue on synthetic slides whose truth is known, and on real ones."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digipath_ray.config.run import TissueSpec
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.find import (
    INK_COLOR,
    PATCH_COLOR,
    SAMPLING_COLOR,
    TISSUE_COLOR,
    Tissue,
    draw_tissue,
    find_tissue,
    tissue_from_mask,
)
from digipath_ray.tissue.mask import Mask

GLASS = (243, 242, 243)
STAINED = (205, 130, 185)
MARKERS = {
    "blue": (40, 70, 170),
    "green": (30, 110, 60),
    "red": (210, 30, 40),
    "black": (30, 30, 35),
}
METHODS = ("otsu", "camelyon", "paip")


def blank(height: int = 300, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), GLASS, np.uint8)


def slide_with_tissue(*, noise: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A thumbnail of 300 x 300 px and the truth: a disk of radius 80 px."""
    y, x = np.mgrid[:300, :300]
    truth = (x - 150) ** 2 + (y - 150) ** 2 <= 80**2
    rgb = blank()
    rgb[truth] = STAINED
    rng = np.random.default_rng(0)
    noisy = rgb + rng.integers(-noise, noise + 1, rgb.shape)
    return noisy.clip(0, 255).astype(np.uint8), truth


def find(rgb: np.ndarray, *, mpp: float = 8.0, **spec: object) -> Tissue:
    return find_tissue(rgb, mpp_x=mpp, mpp_y=mpp, spec=TissueSpec(**spec))


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("method", METHODS)
def test_a_disk_of_tissue_is_found(method: str) -> None:
    rgb, truth = slide_with_tissue()
    tissue = find(rgb, tissue=method)
    assert agreement(tissue.mask.array, truth) > 0.97
    assert tissue.quality.tissue_mm2 == pytest.approx(truth.sum() * 64e-6, rel=0.03)
    assert tissue.quality.flags == ()


def test_pixels_that_are_not_square() -> None:
    rgb, truth = slide_with_tissue()
    spec = TissueSpec(margin_um=240.0)
    tissue = find_tissue(rgb[:, ::2], mpp_x=16.0, mpp_y=8.0, spec=spec)
    assert agreement(tissue.mask.array, truth[:, ::2]) > 0.95
    assert tissue.quality.tissue_mm2 == pytest.approx(truth.sum() * 64e-6, rel=0.05)
    # 240 um are 30 rows, but 15 columns.
    rows, cols = (np.flatnonzero(tissue.mask.array.any(axis=i)) for i in (1, 0))
    wide_rows, wide_cols = (
        np.flatnonzero(tissue.sampling.array.any(axis=i)) for i in (1, 0)
    )
    assert rows[0] - wide_rows[0] == 30
    assert cols[0] - wide_cols[0] == 15


@settings(deadline=None, max_examples=20)
@given(margin_um=st.floats(0, 400), seed=st.integers(0, 1000))
def test_the_sampling_mask_is_the_tissue_and_all_within_reach(
    margin_um: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.random((6, 6)) > 0.7
    rgb = np.where(coarse[..., None], STAINED, GLASS).astype(np.uint8)
    tissue = find(rgb.repeat(16, 0).repeat(16, 1), margin_um=margin_um)
    assert not (tissue.mask.array & ~tissue.sampling.array).any()
    assert np.array_equal(tissue.sampling.array, tissue.mask.dilated(margin_um).array)


@pytest.mark.parametrize(
    ("method", "glass"),
    [
        *((method, GLASS) for method in METHODS),
        # PAIP's rule is about absolute values: tinted glass is beyond it.
        ("otsu", (236, 232, 222)),
        ("camelyon", (222, 230, 238)),
    ],
)
def test_noise_and_uneven_light_on_glass_are_not_tissue(
    method: str, glass: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    light = np.linspace(0.85, 1.0, 300)[:, None, None]
    rgb = np.full((300, 300, 3), glass) * light + rng.normal(0, 3, (300, 300, 3))
    tissue = find(rgb.clip(0, 255).astype(np.uint8), tissue=method)
    assert not tissue.mask.array.any()
    assert not tissue.sampling.array.any()
    assert tissue.quality.flags == ("no tissue",)


@pytest.mark.parametrize("quality", [30, 75])
def test_jpeg_blocks_on_glass_are_not_tissue(tmp_path: Path, quality: int) -> None:
    noise = np.random.default_rng(0).normal(0, 4, (304, 304, 3))
    Image.fromarray((blank(304, 304) + noise).clip(0, 255).astype(np.uint8)).save(
        tmp_path / "glass.jpg", quality=quality
    )
    with Image.open(tmp_path / "glass.jpg") as image:
        assert not find(np.asarray(image)).mask.array.any()


def test_glass_of_one_color_has_no_tissue() -> None:
    assert find(blank()).quality.flags == ("no tissue",)


def test_a_crop_that_is_tissue_all_over_is_not_split() -> None:
    rgb = np.full((200, 200, 3), (225, 175, 210), np.uint8)
    rgb[:, 100:] = (150, 60, 130)
    assert find(rgb).mask.array.all()


@pytest.mark.parametrize("mpp", [4.0, 8.0])
def test_specks_go_gaps_close_in_um_at_any_mask_mpp(mpp: float) -> None:
    um = 1 / mpp
    rgb = blank(round(2400 * um), round(2400 * um))

    def paint(x_um: float, y_um: float, width_um: float, color: tuple) -> None:
        side = round(width_um * um)
        y, x = round(y_um * um), round(x_um * um)
        rgb[y : y + side, x : x + side] = color

    paint(800, 800, 1200, STAINED)
    paint(1700, 1700, 96, GLASS)  # a gap to close
    paint(900, 900, 400, GLASS)  # one to keep
    paint(200, 200, 24, STAINED)  # a speck
    paint(200, 1000, 160, STAINED)  # a piece of tissue
    mask = find(rgb, mpp=mpp).mask.array

    def share(x_um: float, y_um: float, width_um: float) -> float:
        side = round(width_um * um)
        y, x = round(y_um * um), round(x_um * um)
        return float(mask[y : y + side, x : x + side].mean())

    assert share(1700, 1700, 96) == 1.0
    assert share(1000, 1000, 200) == 0.0
    assert share(160, 160, 120) == 0.0
    assert share(200, 1000, 160) > 0.9


def test_less_than_the_least_area_is_no_tissue() -> None:
    rgb = blank()
    rgb[100:125, 100:125] = STAINED  # 0.04 mm2
    assert find(rgb).quality.flags == ("no tissue",)
    found = find(rgb, min_tissue_mm2=0.03)
    assert found.quality.tissue_mm2 == pytest.approx(0.04, abs=0.008)
    assert found.quality.flags == ("little tissue",)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("color", MARKERS)
def test_ink_beside_tissue_is_excluded_and_flagged(method: str, color: str) -> None:
    rgb, truth = slide_with_tissue()
    rgb[20:280, 10:50] = MARKERS[color]
    tissue = find(rgb, tissue=method)
    assert not tissue.mask.array[:, :60].any()
    assert agreement(tissue.mask.array, truth) > 0.97
    assert tissue.ink.array[22:278, 10:50].all()
    assert tissue.quality.ink == pytest.approx(260 * 40 / 300**2, rel=0.2)
    assert tissue.quality.flags == ("ink",)


@pytest.mark.parametrize("color", MARKERS)
def test_ink_over_tissue_is_excluded_and_flagged(color: str) -> None:
    rgb, truth = slide_with_tissue()
    stroke = np.zeros_like(truth)
    stroke[:, 140:170] = True
    rgb[stroke] = MARKERS[color]
    tissue = find(rgb)
    assert not (tissue.mask.array & stroke).any()
    assert (tissue.mask.array & truth).sum() > 0.9 * (truth & ~stroke).sum()
    assert "ink over tissue" in tissue.quality.flags
    share = (truth & stroke).sum() / truth.sum()
    assert tissue.quality.ink_over_tissue == pytest.approx(share, rel=0.25)


def test_vivid_ink_does_not_move_the_threshold() -> None:
    # A pale section: Otsu over ink and tissue together would call only ink tissue.
    rgb, truth = slide_with_tissue(noise=2)
    rgb[truth] = (235, 205, 228)
    clean = find(rgb).mask.array
    rgb[:, :50] = MARKERS["blue"]
    assert agreement(clean, truth) > 0.97
    assert agreement(find(rgb).mask.array, truth) > 0.97


def test_ink_stays_and_is_flagged_where_it_is_not_to_be_excluded() -> None:
    rgb, _ = slide_with_tissue()
    rgb[20:280, 10:50] = MARKERS["blue"]
    tissue = find(rgb, exclude_ink=False)
    assert tissue.mask.array[30:270, 12:48].all()
    assert tissue.quality.flags[0] == "ink"


@pytest.mark.parametrize("method", ["camelyon", "otsu"])
def test_a_black_background_is_not_tissue(method: str) -> None:
    rgb, truth = slide_with_tissue()
    rng = np.random.default_rng(1)
    rgb[:, :40] = rng.integers(0, 6, (300, 40, 3))  # as JPEG leaves black
    rgb[:30] = 0
    tissue = find(rgb, tissue=method)
    assert agreement(tissue.mask.array, truth) > 0.97
    assert tissue.quality.black == pytest.approx(1 - (270 * 260) / 300**2)
    assert tissue.quality.flags == ("black",)


def test_the_median_of_camelyon_takes_dust_that_closing_would_join() -> None:
    rgb, truth = slide_with_tissue()
    rgb[8:290:12, 8:50:12] = (160, 60, 140)
    assert agreement(find(rgb, tissue="camelyon").mask.array, truth) > 0.97


def test_all_takes_every_pixel_and_still_sees_the_ink() -> None:
    rgb, _ = slide_with_tissue()
    rgb[20:280, 10:50] = MARKERS["green"]
    tissue = find(rgb, tissue="all")
    assert tissue.mask.array.all()
    assert "ink" in tissue.quality.flags
    assert find(blank(3, 3), tissue="all").mask.array.all()


@pytest.mark.parametrize("method", [*METHODS, "all"])
def test_a_slide_of_one_pixel(method: str) -> None:
    tissue = find(np.full((1, 1, 3), STAINED, np.uint8), tissue=method)
    assert tissue.mask.array.tolist() == [[method == "all"]]


@pytest.mark.parametrize(
    "rgb", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4), "u1")]
)
def test_a_thumbnail_is_eight_bit_rgb(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a thumbnail is uint8"):
        find(rgb)


def test_a_given_mask_is_taken_at_its_word() -> None:
    rgb, _ = slide_with_tissue()
    given = np.zeros((600, 600), np.uint8)
    given[100:104, 200:204] = 7
    tissue = tissue_from_mask(given, rgb, mpp_x=8.0, mpp_y=8.0, spec=TissueSpec())
    expected = np.zeros((300, 300), np.bool_)
    expected[50:52, 100:102] = True
    assert np.array_equal(tissue.mask.array, expected)
    assert np.array_equal(tissue.sampling.array, tissue.mask.array)
    assert tissue.quality.flags == ("little tissue",)


def test_a_given_mask_of_glass_is_refused_or_flagged() -> None:
    rgb, truth = slide_with_tissue()
    given = {"mpp_x": 8.0, "mpp_y": 8.0, "spec": TissueSpec()}
    assert tissue_from_mask(truth, rgb, **given).quality.flags == ()
    with pytest.raises(ValueError, match="as if it were inverted"):
        tissue_from_mask(~truth, rgb, **given)
    everything = tissue_from_mask(np.ones_like(truth), rgb, **given)
    assert everything.quality.flags == ("glass in the tissue mask",)
    clean = np.full_like(rgb, 243)  # nothing to hold it against
    assert tissue_from_mask(truth, clean, **given).quality.flags == ()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((300, 200), "aspect ratios differ"), ((3, 3, 3), "two-dimensional")],
)
def test_a_mask_of_another_slide_is_refused(shape: tuple[int, ...], words: str) -> None:
    rgb, _ = slide_with_tissue()
    with pytest.raises(ValueError, match=words):
        tissue_from_mask(
            np.ones(shape, np.bool_), rgb, mpp_x=8.0, mpp_y=8.0, spec=TissueSpec()
        )


def test_the_overlay_shows_outlines_and_patch_centers() -> None:
    rgb, _ = slide_with_tissue()
    rgb[20:280, 4:24] = MARKERS["blue"]
    tissue = find(rgb, margin_um=240.0)
    boxes = np.array([[140.0, 142.0, 160.0, 162.0], [-90.0, 0.0, -50.0, 20.0]])
    image = draw_tissue(rgb, tissue, boxes=boxes)
    assert image.dtype == np.uint8
    assert tuple(image[152, 150]) == PATCH_COLOR
    assert tuple(image[152, 155]) == tuple(rgb[152, 155])

    def only_rim(mask: Mask, color: tuple[int, int, int]) -> None:
        drawn = (image == color).all(axis=-1)
        inner = ~mask.like(~mask.array).dilated(8.0).array
        assert drawn.any()
        assert not (drawn & (inner | ~mask.array)).any()

    only_rim(tissue.mask, TISSUE_COLOR)
    only_rim(tissue.sampling, SAMPLING_COLOR)
    only_rim(tissue.ink, INK_COLOR)


def test_the_overlay_of_no_patches_on_another_size_is_refused() -> None:
    rgb, _ = slide_with_tissue()
    nothing = np.zeros((0, 4))
    assert draw_tissue(rgb, find(rgb), boxes=nothing).shape == rgb.shape
    with pytest.raises(ValueError, match="differ in size"):
        draw_tissue(rgb[:-1], find(rgb), boxes=nothing)


def real_thumbnails(shared_data: Path, mpp: float) -> list[tuple[str, np.ndarray]]:
    glas = sorted((shared_data / "glas" / "images").glob("*.jpg"))
    assert glas
    files = [(p, 0.62) for p in glas]
    files.append((shared_data / "wsi" / "CMU-1-Small-Region.svs", None))
    out = []
    for path, slide_mpp in files:
        with open_slide(path, mpp=slide_mpp) as slide:
            out.append((path.name, slide.thumbnail(mpp)[0]))
    return out


@pytest.mark.parametrize(
    "strength", [(1, 1, 1), (2, 2, 2), (1.4, 1, 1), (1.5, 1.5, 2.2)]
)
def test_no_more_than_one_percent_of_real_tissue_is_lost_to_ink(
    shared_data: Path, strength: tuple[float, float, float]
) -> None:
    # Also stained twice as strongly, more blue, and more red than the images are.
    for name, rgb in real_thumbnails(shared_data, 8.0):
        density = -np.log10((rgb + 1.0) / 256) * np.array(strength)
        stained = np.rint(256 * 10**-density - 1).clip(0, 255).astype(np.uint8)
        without = find(stained, exclude_ink=False).mask.area_mm2
        with_ink_out = find(stained).mask.area_mm2
        assert without > 0, name
        assert with_ink_out >= 0.99 * without, name


def test_annotated_glands_of_real_images_are_tissue(shared_data: Path) -> None:
    kept = total = 0
    for name, rgb in real_thumbnails(shared_data, 8.0)[:-1]:
        path = shared_data / "glas" / "masks" / name.replace(".jpg", ".png")
        with Image.open(path) as image:
            glands = np.asarray(image) > 0
        mask = Image.fromarray(find(rgb).mask.array)
        found = np.asarray(mask.resize(glands.shape[::-1], Image.Resampling.NEAREST))
        kept += int((glands & found).sum())
        total += int(glands.sum())
    # 0.983; what is missing are open lumina at the images' edges, which are glass.
    assert kept / total > 0.975


def test_a_real_slide(shared_data: Path) -> None:
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        rgb, mpp_x, mpp_y = slide.thumbnail(8.0)
    tissue = find_tissue(rgb, mpp_x=mpp_x, mpp_y=mpp_y, spec=TissueSpec())
    # By eye: the section's band, its cleft filled; neither dust nor the thin strand.
    assert tissue.quality.tissue_mm2 == pytest.approx(0.66, rel=0.05)
    assert tissue.quality.flags == ()
    assert tissue.mask.array[100, 60]
    assert not tissue.mask.array[:, 125:].any()
    assert not tissue.mask.array[:, :5].any()
