"""One slide's whole way in one process, its result known beforehand."""

from pathlib import Path

import numpy as np
import pytest

from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree
from digipath_ray.pipeline.segment import PredictChunk, segment_slide
from digipath_ray.slide.open import SlideError
from tests.slides import paint, probability_of, write_pyramid


def config_of(**grid: object) -> RunConfig:
    return from_tree({"grid": grid, "tissue": {"tissue": "all"}})


def reading_color(config: RunConfig) -> PredictChunk:
    """A "network" that reads the probability back from the color of ``paint``."""
    side, d = config.grid.patch_px, config.grid.downsample

    def predict(blocks, index):
        patches = []
        for numbers in index:
            patch = np.block([[[blocks[n]] for n in row] for row in numbers])
            p = probability_of(patch[:side, :side])
            patches.append(p.reshape(side // d, d, side // d, d).mean((1, 3)))
        return {"probability": np.array(patches, np.float32)}

    return predict


def disc(side: int, *, center: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + 0.5
    return ((x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2).astype(float)


@pytest.mark.parametrize("mpp", [0.25, 0.4, 1.0])
def test_lesion_area_of_a_0243_slide_is_right(tmp_path: Path, mpp: float) -> None:
    # A CAMELYON slide: 0.243 um/px, levels 1, 2 and 4. Level 0 is read as it is for
    # 0.25, level 2 for 1.0; level 0 is resampled for 0.4.
    radius_um = 200.0
    drawn = disc(2048, center=(1100, 900), radius=radius_um / 0.243)
    path = write_pyramid(tmp_path / "s.tif", paint(drawn), mpp=0.243)
    config = config_of(mpp=mpp, patch_px=128, stride_px=64, downsample=4)
    heatmap = segment_slide(path, config, reading_color(config))
    true_mm2 = np.pi * radius_um**2 / 1e6
    assert heatmap.area_mm2(0.5) == pytest.approx(true_mm2, rel=0.005)
    effective = {0.25: 0.243, 0.4: 0.4, 1.0: 0.972}[mpp]
    assert heatmap.mpp_x == pytest.approx(effective * 4)
    rows, cols = np.nonzero(heatmap.probability >= 0.5)
    center_um = (
        (cols + 0.5).mean() * heatmap.mpp_x,
        (rows + 0.5).mean() * heatmap.mpp_y,
    )
    assert center_um == pytest.approx(
        (1100 * 0.243, 900 * 0.243), abs=heatmap.mpp_x / 4
    )


def test_area_of_a_slide_whose_pixels_are_not_square(tmp_path: Path) -> None:
    drawn = np.zeros((600, 800))
    drawn[100:300, 200:500] = 1  # 300 px of 0.5 um by 200 px of 0.4 um
    path = write_pyramid(tmp_path / "s.tif", paint(drawn), mpp=(0.5, 0.4))
    config = config_of(mpp=0.8, patch_px=64, stride_px=32, downsample=2)
    heatmap = segment_slide(path, config, reading_color(config))
    assert heatmap.area_mm2(0.5) == pytest.approx(150e-3 * 80e-3, rel=0.02)
    config = config_of(mpp=0.5, patch_px=64, stride_px=32, downsample=2)
    with pytest.raises(SlideError, match=r"finest level has 0\.5 um/px") as caught:
        segment_slide(path, config_of(mpp=0.2), reading_color(config))
    assert "--allow-upsampling" in caught.value.hint


def test_heatmap_is_the_mean_of_each_pixels_square(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = np.rint(rng.random((130, 170)) * 160) / 160
    path = write_pyramid(tmp_path / "s.tif", paint(drawn), mpp=1.0)
    config = config_of(mpp=1.0, patch_px=96, stride_px=32, downsample=2)
    heatmap = segment_slide(path, config, reading_color(config))
    expected = drawn.reshape(65, 2, 85, 2).mean((1, 3))
    np.testing.assert_allclose(heatmap.probability, expected, atol=1e-6)
    assert (heatmap.weight > 0).all(), "the far edge is predicted too"


@pytest.mark.parametrize("size", [(1, 1), (40, 7), (64, 64)])
def test_slides_no_larger_than_a_patch_are_predicted(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    drawn = np.full(size[::-1], 0.75)
    path = write_pyramid(tmp_path / "s.tif", paint(drawn), mpp=1.0, downsamples=(1,))
    config = config_of(mpp=1.0, patch_px=64, stride_px=32, downsample=1)
    heatmap = segment_slide(path, config, reading_color(config))
    np.testing.assert_allclose(heatmap.probability, drawn, atol=1e-6)


def test_positions_do_not_drift_over_a_long_slide(tmp_path: Path) -> None:
    # 0.2435 um/px read at 0.4: every patch starts at a fraction of a stored pixel.
    drawn = np.zeros((64, 6000))
    drawn[:, 5800:5820] = 1
    path = write_pyramid(tmp_path / "s.tif", paint(drawn), mpp=0.2435)
    config = config_of(mpp=0.4, patch_px=64, stride_px=32, downsample=1)
    heatmap = segment_slide(path, config, reading_color(config))
    middle = heatmap.probability[heatmap.height // 2]
    center = (middle * (np.arange(len(middle)) + 0.5)).sum() / middle.sum()
    assert center * 0.4 == pytest.approx(5810 * 0.2435, abs=0.05)


def test_unknown_mpp_is_an_error_with_its_fix_unless_assumed(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", paint(np.ones((64, 64))), mpp=None)
    config = config_of(mpp=0.5, patch_px=64, stride_px=32, downsample=1)
    with pytest.raises(
        SlideError, match="no plausible micrometers per pixel"
    ) as caught:
        segment_slide(path, config, reading_color(config))
    assert "--slide-mpp" in caught.value.hint
    given = segment_slide(path, config, reading_color(config), slide_mpp=0.5)
    assert given.mpp_x == 0.5


def test_slide_without_tissue_is_no_slide_without_tumor(tmp_path: Path) -> None:
    glass = np.full((600, 600, 3), 245, np.uint8)
    path = write_pyramid(tmp_path / "s.tif", glass, mpp=1.0)
    config = from_tree({"grid": {"mpp": 1.0, "patch_px": 64, "stride_px": 32}})
    with pytest.raises(SlideError, match="no tissue of at least"):
        segment_slide(path, config, reading_color(config))


def test_heatmap_too_large_for_memory_is_refused(tmp_path: Path) -> None:
    pixels = paint(np.ones((64, 64)))
    path = write_pyramid(tmp_path / "s.tif", pixels, mpp=10.0)
    tree = {
        "grid": {"mpp": 0.05, "patch_px": 64, "stride_px": 32, "downsample": 1},
        "slide": {"allow_upsampling": True, "slide_mpp": 10.0},
    }
    config = from_tree(tree)
    with pytest.raises(SlideError, match=r"needs .* GB") as caught:
        segment_slide(path, config, reading_color(config), slide_mpp=20000.0)
    assert "--downsample" in caught.value.hint
