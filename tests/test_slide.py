import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.geometry import Frame, model_frame
from digipath_ray.slide import image as plain_image
from digipath_ray.slide import open as slide_module
from digipath_ray.slide.info import Mpp, on_white, settle_mpp
from digipath_ray.slide.open import (
    Pixels,
    Slide,
    SlideError,
    SlideInfo,
    mirror,
    open_slide,
)
from tests.slides import (
    block_mean,
    noise,
    paint,
    probability_of,
    write_levels,
    write_pyramid,
    write_scn,
)


def frame_of(slide: Slide, mpp: float, *, allow_upsampling: bool = False) -> Frame:
    mpp_x, mpp_y = slide.info.need_mpp()
    return model_frame(
        level_downsamples=slide.info.level_downsamples,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp=mpp,
        allow_upsampling=allow_upsampling,
    )


def whole_level(slide: Slide, level: int = 0) -> Pixels:
    return slide.read_level(level, 0, 0, *slide.info.level_dimensions[level])


def triangle(
    length: int, start: int, count: int, scale: float, *, pad: int
) -> NDArray[np.float64]:
    """Weights [count, length + 2 pad] of an antialiased triangle filter."""
    centers = (np.arange(start, start + count)[:, None] + 0.5) * scale
    pixels = np.arange(-pad, length + pad)[None] + 0.5
    weights = np.clip(1 - np.abs(pixels - centers) / max(scale, 1.0), 0, None)
    return weights / weights.sum(1, keepdims=True)


def resampled(
    pixels: Pixels, frame: Frame, x: int, y: int, width: int, height: int, mode: str
) -> NDArray[np.float64]:
    """What Slide.read must give, from the whole level, in float64."""
    pad = 64
    options: dict[str, Any] = {"constant_values": 255} if mode == "constant" else {}
    widths = ((pad, pad), (pad, pad), (0, 0))
    padded = np.pad(pixels.astype(np.float64), widths, mode=mode, **options)
    rows = triangle(pixels.shape[0], y, height, frame.lv_per_md_y, pad=pad)
    cols = triangle(pixels.shape[1], x, width, frame.lv_per_md_x, pad=pad)
    return np.einsum("yr,rcb,xc->yxb", rows, padded, cols, optimize=True)


# What the file says


def test_a_pyramid_says_size_mpp_and_levels(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(512, 256), mpp=0.25)
    with open_slide(path) as slide:
        assert slide.info == SlideInfo(
            path=str(path),
            format="generic-tiff",
            width=512,
            height=256,
            mpp_x=0.25,
            mpp_y=0.25,
            mpp_source="file",
            file_mpp=0.25,
            level_dimensions=((512, 256), (256, 128), (128, 64)),
            level_downsamples=(1.0, 2.0, 4.0),
            objective_power=None,
        )


def test_x_and_y_keep_their_own_mpp(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(64, 64), mpp=(0.25, 0.5))
    with open_slide(path) as slide:
        assert slide.info.need_mpp() == (0.25, 0.5)
        frame = frame_of(slide, 0.5)
        assert frame.md_size(64, 64) == (32, 64)
        want = resampled(whole_level(slide), frame, 0, 0, 32, 64, "constant")
        read = slide.read(frame, 0, 0, 32, 64, edge="white")
        assert np.abs(read - want).max() <= 1


def test_the_given_mpp_wins_and_the_files_is_kept(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(64, 64), mpp=0.25)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.need_mpp() == (0.5, 0.5)
        assert (slide.info.mpp_source, slide.info.file_mpp) == ("given", 0.25)
    with pytest.raises(ValueError, match=r"mpp = -1\.0: must be positive"):
        open_slide(path, mpp=-1.0)


@pytest.mark.parametrize(
    ("x", "y", "want"),
    [
        ("0.25", "0.26", (0.25, 0.26)),
        ("0.25", None, (0.25, 0.25)),  # an axis without one takes the other's
        (None, "0.26", (0.26, 0.26)),
        ("0.25", "0", (0.25, 0.25)),
        ("0.02", "20", (0.02, 20.0)),
        ("352.8", "352.8", (None, None)),  # 72 dpi is no microscope
        ("0.001", "nan", (None, None)),
        ("inf", "-1", (None, None)),
        ("", "a lot", (None, None)),
    ],
)
def test_only_mpp_a_microscope_can_have_counts(
    x: object, y: object, want: tuple[float | None, float | None]
) -> None:
    source = "none" if want[0] is None else "file"
    assert settle_mpp(None, x, y) == Mpp(
        x=want[0], y=want[1], source=source, file=want[0]
    )


def test_no_mpp_fails_with_the_fix(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(64, 64), mpp=None)
    with open_slide(path) as slide:
        assert slide.info.mpp_source == "none"
        with pytest.raises(
            SlideError, match="has no plausible micrometers per"
        ) as error:
            slide.info.need_mpp()
        assert error.value.hint == "give --slide-mpp, or a column mpp in the manifest"
        with pytest.raises(SlideError):
            slide.thumbnail(8.0)


def test_the_objective_suggests_an_mpp() -> None:
    info = info_of(8, 8, mpp=None, objective_power=40.0)
    with pytest.raises(SlideError) as error:
        info.need_mpp()
    assert error.value.hint.endswith("(its objective power of 40x suggests 0.25)")


def test_a_printing_density_is_no_mpp(shared_data: Path) -> None:
    with open_slide(shared_data / "wsi" / "boxes.tiff") as slide:
        assert (slide.info.mpp_x, slide.info.mpp_source) == (None, "none")


def test_a_real_slide(shared_data: Path) -> None:
    with open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs") as slide:
        info = slide.info
        assert (info.format, info.width, info.height) == ("aperio", 2220, 2967)
        assert info.need_mpp() == (0.499, 0.499)
        assert info.objective_power == 20
        frame = frame_of(slide, 0.5)
        assert frame.native
        assert frame.mpp_x == 0.499


@pytest.mark.parametrize("name", ["boxes_0.dcm", "boxes_1.dcm"])
def test_any_file_of_a_dicom_series_opens_the_slide(
    shared_data: Path, name: str
) -> None:
    with open_slide(shared_data / "wsi" / "boxes_dcm" / name) as slide:
        assert (slide.info.format, slide.info.width) == ("dicom", 16)
        assert slide.info.need_mpp() == (0.499, 0.499)
        assert whole_level(slide).shape == (16, 16, 3)


# Reading


def test_a_native_read_hands_on_the_stored_pixels(tmp_path: Path) -> None:
    pixels = noise(300, 200)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.25, downsamples=(1, 2))
    with open_slide(path) as slide:
        read = slide.read(frame_of(slide, 0.25), 37, 59, 100, 80, edge="white")
        np.testing.assert_array_equal(read, pixels[59:139, 37:137])
        half = slide.read(frame_of(slide, 0.5), 37, 59, 50, 40, edge="white")
        np.testing.assert_array_equal(half, block_mean(pixels, 2)[59:99, 37:87])


def test_numpy_integers_are_positions_too(tmp_path: Path) -> None:
    pixels = noise(64, 64)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.5, downsamples=(1,))
    x, y, width, height = np.array([3, 5, 20, 10])
    with open_slide(path) as slide:
        read = slide.read(frame_of(slide, 0.5), x, y, width, height, edge="white")
        np.testing.assert_array_equal(read, pixels[5:15, 3:23])
        read = slide.read(frame_of(slide, 1.0), x, y, width, height, edge="white")
        assert read.shape == (10, 20, 3)


def test_camelyon_is_read_at_its_own_mpp(tmp_path: Path) -> None:
    # 0.243 taken for 0.25 would read 3 % beside, 2,881 px at model px 100,000.
    pixels = noise(1200, 64)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.243, downsamples=(1, 2))
    with open_slide(path) as slide:
        for mpp, level in ((0.25, pixels), (0.5, block_mean(pixels, 2))):
            frame = frame_of(slide, mpp)
            assert frame.mpp_x == pytest.approx(0.243 * 1200 / level.shape[1])
            width = frame.md_size(1200, 64)[0]
            assert width == level.shape[1]
            read = slide.read(frame, width - 40, 0, 40, 16, edge="white")
            np.testing.assert_array_equal(read, level[:16, -40:])


@pytest.mark.parametrize("mpp", [0.4, 0.6, 0.75, 0.9, 1.7])
@pytest.mark.parametrize(
    ("edge", "mode"), [("white", "constant"), ("reflect", "symmetric")]
)
def test_resampling_equals_the_whole_level_resampled(
    tmp_path: Path, mpp: float, edge: Any, mode: str
) -> None:
    path = write_pyramid(
        tmp_path / "a.tif", noise(301, 203), mpp=0.25, downsamples=(1, 2)
    )
    with open_slide(path) as slide:
        frame = frame_of(slide, mpp)
        level = whole_level(slide, frame.level)
        md_width, md_height = frame.md_size(301, 203)
        want = resampled(level, frame, 0, 0, md_width, md_height, mode)
        read = slide.read(frame, 0, 0, md_width, md_height, edge=edge)
        assert np.abs(read - want).max() <= 1


def test_upsampling_equals_the_whole_level_resampled(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(101, 60), mpp=0.5, downsamples=(1,))
    with open_slide(path) as slide:
        frame = frame_of(slide, 0.3, allow_upsampling=True)
        want = resampled(whole_level(slide), frame, 20, 10, 80, 50, "constant")
        read = slide.read(frame, 20, 10, 80, 50, edge="white")
        assert np.abs(read - want).max() <= 1


@pytest.fixture(scope="module")
def odd_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose level 1 has the fractional downsample 2.002."""
    levels = [noise(1003, 1001), noise(501, 500, seed=1)]
    return write_levels(tmp_path_factory.mktemp("odd") / "a.tif", levels, mpp=0.25)


@settings(max_examples=40, deadline=None)
@given(
    mpp=st.sampled_from([0.25, 0.5, 0.65, 0.4]),  # both levels native, and resampled
    edge=st.sampled_from(["white", "reflect"]),
    x=st.integers(-200, 1100),
    y=st.integers(-200, 1100),
    widths=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    heights=st.tuples(st.integers(1, 200), st.integers(1, 200)),
)
def test_rectangles_that_touch_equal_the_one_that_holds_them(
    odd_slide: Path,
    mpp: float,
    edge: Any,
    x: int,
    y: int,
    widths: tuple[int, int],
    heights: tuple[int, int],
) -> None:
    with open_slide(odd_slide) as slide:
        frame = frame_of(slide, mpp)

        def read(x: int, y: int, width: int, height: int) -> Pixels:
            return slide.read(frame, x, y, width, height, edge=edge)

        w, h = widths[0], heights[0]
        parts = [
            [read(x, y, w, h), read(x + w, y, widths[1], h)],
            [read(x, y + h, w, heights[1]), read(x + w, y + h, widths[1], heights[1])],
        ]
        joined = np.concatenate([np.concatenate(row, axis=1) for row in parts])
        np.testing.assert_array_equal(joined, read(x, y, sum(widths), sum(heights)))


def test_a_fractional_downsample_is_read_in_place(shared_data: Path) -> None:
    path = shared_data / "wsi" / "boxes.tiff"
    with open_slide(path, mpp=0.25) as slide:
        assert slide.info.level_downsamples[2] == pytest.approx(4.016, abs=1e-3)
        for level in range(4):
            stored = tifffile.imread(path, key=level)
            np.testing.assert_array_equal(whole_level(slide, level), stored)


def test_a_fractional_downsample_does_not_drift(tmp_path: Path) -> None:
    # A gray level per 2 px of level 1; 2 taken for 2.06 would be 7 levels off at 480.
    row = np.arange(1000)[:, None] // 4
    level_0 = np.broadcast_to(row, (17, 1000, 3)).astype(np.uint8)
    level_1 = level_0[:8, : 2 * 499 : 2]
    path = write_levels(tmp_path / "a.tif", [level_0, level_1], mpp=0.25, tile=16)
    with open_slide(path) as slide:
        assert slide.info.level_downsamples[1] == pytest.approx(2.0645, abs=1e-4)
        for x in (0, 100, 253, 254, 255, 400, 480):
            read = slide.read_level(1, x, 0, 19, 8).astype(int)
            assert np.abs(read - level_1[:, x : x + 19]).max() <= 1


def test_beyond_the_edge_is_white(tmp_path: Path) -> None:
    pixels = noise(40, 30)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.5, downsamples=(1,))
    with open_slide(path) as slide:
        frame = frame_of(slide, 0.5)
        read = slide.read(frame, -10, -5, 64, 48, edge="white")
        want = np.full((48, 64, 3), 255, np.uint8)
        want[5:35, 10:50] = pixels
        np.testing.assert_array_equal(read, want)
        assert slide.read(frame, 1000, -500, 7, 9, edge="white").min() == 255
        assert slide.read(frame_of(slide, 1.0), 99, 0, 7, 9, edge="white").min() == 255


@pytest.mark.parametrize("mpp", [0.5, 0.8, 1.0])
def test_reflect_is_a_symmetric_pad(tmp_path: Path, mpp: float) -> None:
    # An image smaller than a patch: mirrored over and over.
    path = write_pyramid(tmp_path / "a.tif", noise(41, 30), mpp=0.5, downsamples=(1, 2))
    with open_slide(path) as slide:
        frame = frame_of(slide, mpp)
        width, height = frame.md_size(41, 30)
        whole = slide.read(frame, 0, 0, width, height, edge="reflect")
        want = np.pad(whole, ((70, 100), (90, 110), (0, 0)), mode="symmetric")
        read = slide.read(frame, -90, -70, width + 200, height + 170, edge="reflect")
        np.testing.assert_array_equal(read, want)


def test_reflect_shows_no_white_line_at_the_edge(tmp_path: Path) -> None:
    gray = np.full((31, 41, 3), 90, np.uint8)  # the last model px lies half outside
    path = write_pyramid(tmp_path / "a.tif", gray, mpp=0.5, downsamples=(1, 2))
    with open_slide(path) as slide:
        for mpp in (0.5, 0.8, 1.0):
            read = slide.read(frame_of(slide, mpp), -9, -9, 80, 80, edge="reflect")
            assert (read.min(), read.max()) == (90, 90)


def test_mirror() -> None:
    assert mirror(np.arange(-4, 7), 3).tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]
    assert mirror(np.arange(-2, 3), 1).tolist() == [0, 0, 0, 0, 0]


def test_a_slide_of_one_pixel(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30]]], np.uint8)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.25, downsamples=(1,))
    with open_slide(path) as slide:
        frame = frame_of(slide, 0.25)
        assert frame.md_size(1, 1) == (1, 1)
        white = slide.read(frame, 0, 0, 64, 64, edge="white")
        assert white[0, 0].tolist() == [10, 20, 30]
        assert white.reshape(-1, 3)[1:].min() == 255
        reflect = slide.read(frame, 0, 0, 64, 64, edge="reflect")
        assert (reflect == pixels).all()
        thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
        assert thumbnail.tolist() == [[[10, 20, 30]]]
        assert (mpp_x, mpp_y) == (0.25, 0.25)


def test_the_pattern_survives_the_slide(tmp_path: Path) -> None:
    probability = np.linspace(0, 1, 64 * 32).reshape(32, 64)
    path = write_pyramid(
        tmp_path / "a.tif", paint(probability), mpp=1.0, downsamples=(1,)
    )
    with open_slide(path) as slide:
        read = slide.read(frame_of(slide, 1.0), 0, 0, 65, 32, edge="white")
    np.testing.assert_allclose(
        probability_of(read[:, :64]), probability, atol=0.5 / 160
    )
    assert (probability_of(read[:, 64]) == 0).all()


# Bounds


def test_coordinates_are_relative_to_the_bounds(tmp_path: Path) -> None:
    pixels = noise(512, 256)
    path = write_scn(
        tmp_path / "a.scn", pixels, mpp=0.5, offset=(104, 72), canvas=(1024, 512)
    )
    with open_slide(path) as slide:
        assert (slide.info.format, slide.info.width, slide.info.height) == (
            "leica",
            512,
            256,
        )
        assert slide.info.level_dimensions == ((512, 256), (256, 128), (128, 64))
        for level, factor in ((0, 1), (1, 2), (2, 4)):
            read = whole_level(slide, level)
            np.testing.assert_array_equal(read, block_mean(pixels, factor))
        frame = frame_of(slide, 0.5)
        read = slide.read(frame, -3, -2, 20, 10, edge="white")
        assert read[:2].min() == 255
        np.testing.assert_array_equal(read[2:, 3:], pixels[:8, :17])


def test_transparent_pixels_are_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], np.uint8)
    want = [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]]
    assert on_white(rgba).tolist() == want


# Plain images


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF"])
def test_plain_images_are_slides_of_one_level(tmp_path: Path, suffix: str) -> None:
    pixels = noise(60, 40)
    path = save(tmp_path / f"a{suffix}", Image.fromarray(pixels))
    with open_slide(path, mpp=0.25) as slide:
        assert slide.info.level_dimensions == ((60, 40),)
        assert slide.info.level_downsamples == (1.0,)
        assert slide.info.need_mpp() == (0.25, 0.25)
        read = slide.read(frame_of(slide, 0.25), 5, 6, 20, 10, edge="white")
        np.testing.assert_array_equal(read, pixels[6:16, 5:25])


def test_a_jpeg_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(noise(60, 40)), dpi=(25400, 25400))
    with open_slide(path) as slide, Image.open(path) as image:
        assert slide.info.mpp_source == "none"  # a JPEG's density is for printing
        np.testing.assert_array_equal(whole_level(slide), np.asarray(image))


@pytest.mark.parametrize(
    ("unit", "resolution", "want"),
    [
        ("CENTIMETER", (40_000, 20_000), (0.25, 0.5)),
        ("INCH", (25_400, 25_400), (1.0, 1.0)),
        ("INCH", (300, 300), (None, None)),
        ("NONE", (40_000, 40_000), (None, None)),
    ],
)
def test_a_plain_tiff_may_state_its_mpp(
    tmp_path: Path,
    unit: str,
    resolution: tuple[int, int],
    want: tuple[float | None, float | None],
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, noise(8, 8), photometric="rgb", resolution=resolution, resolutionunit=unit
    )
    with open_slide(path) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_y) == pytest.approx(want)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: Image.new("L", (3, 2), 77), [77, 77, 77]),
        (lambda: Image.new("1", (3, 2), 1), [255, 255, 255]),
        (lambda: Image.new("LA", (3, 2), (0, 0)), [255, 255, 255]),
        (lambda: Image.new("RGBA", (3, 2), (0, 0, 0, 51)), [204, 204, 204]),
        (lambda: Image.new("RGB", (3, 2), (9, 8, 7)).quantize(4), [9, 8, 7]),
    ],
    ids=["gray", "bilevel", "gray-alpha", "alpha", "palette"],
)
def test_other_8_bit_pixels_become_rgb(
    tmp_path: Path, make: Callable[[], Image.Image], want: list[int]
) -> None:
    with open_slide(save(tmp_path / "a.png", make())) as slide:
        assert (whole_level(slide) == want).all()


def test_a_transparent_color_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    path = save(tmp_path / "a.png", image, transparency=(1, 2, 3))
    with open_slide(path) as slide:
        assert whole_level(slide).tolist() == [[[255, 255, 255], [4, 5, 6]]]


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_deep_tiffs_are_refused(tmp_path: Path, compression: str | None) -> None:
    deep = noise(8, 8).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, deep, photometric="rgb", compression=compression)
    with pytest.raises(SlideError, match=r"a\.tif: 16-bit pixels") as error:
        open_slide(path)
    assert error.value.hint.startswith("convert it to 8-bit RGB, divided by 16 if 12")


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8)])
def test_deep_pngs_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(np.zeros(shape, np.uint16)))
    with pytest.raises(SlideError, match="16-bit pixels"):
        open_slide(path)


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("CMYK", "CMYK"),
        ("F", "32-bit float"),
        ("LAB", "CIE L*a*b*"),
        ("I", "32-bit signed"),
    ],
)
def test_other_colors_are_refused(tmp_path: Path, mode: str, named: str) -> None:
    path = save(tmp_path / "a.tif", Image.new(mode, (8, 8)))
    with pytest.raises(SlideError) as error:
        open_slide(path)
    assert str(error.value) == f"a.tif: {named} pixels, not 8-bit color"


def test_opening_an_image_decodes_no_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(noise(60, 40)))
    path.write_bytes(path.read_bytes()[:200])
    with open_slide(path) as slide:
        assert (slide.info.width, slide.info.height) == (60, 40)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_are_shown_upright(tmp_path: Path, suffix: str) -> None:
    pixels = noise(6, 4)
    path = tmp_path / f"a{suffix}"
    turn = 6  # EXIF: turn by 90 degrees clockwise to see it upright
    if suffix == ".tif":
        tags = [(274, 3, 1, turn, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", extratags=tags)
    else:
        exif = Image.Exif()
        exif[274] = turn
        save(path, Image.fromarray(pixels), exif=exif)
    with open_slide(path) as slide:
        assert (slide.info.width, slide.info.height) == (4, 6)
        np.testing.assert_array_equal(whole_level(slide), np.rot90(pixels, -1))


def test_pillows_own_size_limit_does_not_bite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(60, 40)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error from 200 px on
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole_level(slide), pixels)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_image_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(noise(60, 40)))
    monkeypatch.setattr(plain_image, "MAX_IMAGE_PX", 60 * 40 - 1)
    with pytest.raises(
        SlideError, match=r"a\.png: 60x40 px without a pyramid"
    ) as error:
        open_slide(path)
    assert "tiled pyramid" in error.value.hint


def test_a_tall_image_is_decoded_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(6, 25)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    monkeypatch.setattr(plain_image, "STRIP_ROWS", 7)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole_level(slide), pixels)


# Bad input


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"no\.svs: file not found") as error:
        open_slide(tmp_path / "no.svs")
    assert error.value.hint == "check the path in the manifest"
    with pytest.raises(SlideError, match="a directory, not a slide"):
        open_slide(tmp_path)


@pytest.mark.parametrize("name", ["a.svs", "a.txt", "a.png", "a.tif", "a.mrxs"])
def test_files_that_are_no_slides(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content, hint in (
        (b"", "copy it again"),
        (b"no slide at all\n", "not a list of slides or a Git LFS pointer"),
        (bytes(range(256)), "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(SlideError, match=name) as error:
            open_slide(path)
        assert hint in error.value.hint


def test_broken_svs(shared_data: Path) -> None:
    with pytest.raises(SlideError, match=r"broken\.svs: a text file, not a slide"):
        open_slide(shared_data / "wsi" / "broken.svs")


def test_unreadable_svs_opens_and_fails_when_read(shared_data: Path) -> None:
    with open_slide(shared_data / "wsi" / "unreadable.svs") as slide:
        frame = model_frame(level_downsamples=(1.0,), mpp_x=1.0, mpp_y=1.0, mpp=1.0)
        for _ in range(2):  # once broken, OpenSlide refuses the slide altogether
            with pytest.raises(
                SlideError, match=r"cannot be read at \(0, 0\)"
            ) as error:
                slide.read(frame, 0, 0, 64, 64, edge="white")
            assert "copy it again" in error.value.hint


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_images_cut_short_fail_when_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", Image.fromarray(noise(60, 40)))
    path.write_bytes(path.read_bytes()[:-1500])

    def read() -> None:
        with open_slide(path) as slide:
            whole_level(slide)

    with pytest.raises(SlideError, match="cannot decode the image") as error:
        read()
    assert "truncated" in error.value.hint


def test_a_pyramid_cut_short(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", noise(256, 256), mpp=0.5, downsamples=(1,))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(SlideError) as error:
        open_slide(path)
    said = "cut short: its contents reach to byte 197,136, the file has 100,000"
    assert str(error.value) == f"a.tif: {said}"
    assert error.value.hint.startswith("copy it again")
    path.write_bytes(path.read_bytes()[:400])  # without the directory, too
    with pytest.raises(SlideError):
        open_slide(path)


def test_a_slide_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(SlideError("what", "fix")))
    assert (type(error), str(error), error.hint) == (SlideError, "what", "fix")


# Thumbnails


def info_of(
    width: int,
    height: int,
    *,
    mpp: float | None = 0.25,
    objective_power: float | None = None,
) -> SlideInfo:
    return SlideInfo(
        path="computed",
        format="computed",
        width=width,
        height=height,
        mpp_x=mpp,
        mpp_y=mpp,
        mpp_source="given",
        file_mpp=None,
        level_dimensions=((width, height),),
        level_downsamples=(1.0,),
        objective_power=objective_power,
    )


def test_a_thumbnail_is_the_mean_of_the_pixels(tmp_path: Path) -> None:
    pixels = noise(320, 192)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=0.25, downsamples=(1,))
    with open_slide(path) as slide:
        thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
    assert (mpp_x, mpp_y) == (8.0, 8.0)
    want = block_mean(pixels, 32).astype(int)
    assert thumbnail.shape == (6, 10, 3)
    assert np.abs(thumbnail - want).max() <= 1


def test_a_thumbnail_says_its_exact_mpp(tmp_path: Path) -> None:
    path = write_pyramid(
        tmp_path / "a.tif", noise(500, 333), mpp=(0.25, 0.26), downsamples=(1, 4)
    )
    with open_slide(path) as slide:
        thumbnail, mpp_x, mpp_y = slide.thumbnail(3.0)
    height, width = thumbnail.shape[:2]
    assert (width, height) == (42, 29)
    assert mpp_x * width == pytest.approx(500 * 0.25)
    assert mpp_y * height == pytest.approx(333 * 0.26)


def test_a_thumbnail_is_upright(tmp_path: Path) -> None:
    corners = np.zeros((64, 128, 3), np.uint8)
    corners[:32, 64:] = (255, 0, 0)
    corners[32:, :64] = (0, 255, 0)
    path = write_pyramid(tmp_path / "a.tif", corners, mpp=1.0, downsamples=(1, 2))
    with open_slide(path) as slide:
        thumbnail, _, _ = slide.thumbnail(32.0)
    assert thumbnail.tolist() == [
        [[0, 0, 0]] * 2 + [[255, 0, 0]] * 2,
        [[0, 255, 0]] * 2 + [[0, 0, 0]] * 2,
    ]


def test_a_thumbnail_comes_from_the_coarsest_level_that_is_fine_enough(
    tmp_path: Path,
) -> None:
    shades = [np.full((256 // d, 256 // d, 3), d, np.uint8) for d in (1, 4, 16)]
    path = write_levels(tmp_path / "a.tif", shades, mpp=0.5)
    with open_slide(path) as slide:
        for mpp, shade in ((8.0, 16), (7.0, 4), (2.0, 4), (1.0, 1), (0.1, 1)):
            assert (slide.thumbnail(mpp)[0] == shade).all()


def test_a_thumbnail_has_no_seams_and_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = noise(1500, 2011)
    areas: list[int] = []

    def read(level: int, x: int, y: int, width: int, height: int) -> Pixels:
        areas.append(width * height)
        return pixels[y : y + height, x : x + width]

    slide = Slide(info_of(1500, 2011), read, areas.clear, lambda _: "OpenSlide")
    whole, _, _ = slide.thumbnail(8.0)
    assert areas == [1500 * 2011]
    areas.clear()
    monkeypatch.setattr(slide_module, "STRIP_PX", 1500 * 100)
    strips, _, _ = slide.thumbnail(8.0)
    np.testing.assert_array_equal(strips, whole)
    assert len(areas) > 20
    assert max(areas) <= 1500 * 102
