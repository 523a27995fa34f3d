"""JPEG tiles decoded directly are OpenSlide's pixels, to the bit, or OpenSlide's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from digipath_ray.annotations.maskfile import open_mask
from digipath_ray.annotations.maskvalues import MaskRule
from digipath_ray.geometry import model_frame
from digipath_ray.slide.jpeg_tiles import JpegTiles
from digipath_ray.slide.open import Pixels, Slide, SlideError, open_slide
from digipath_ray.tissue.mask import read_mask_image
from tests.slides import texture, write_jpeg

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a pyramid of JPEG tiles."""

    def write(
        pixels: Pixels, name: str = "a.tif", bigtiff: bool = False, **options: Any
    ) -> Path:
        return write_jpeg(tmp_path / name, pixels, bigtiff=bigtiff, **options)

    return write


def by_openslide(path: Path, level: int, box: tuple[int, int, int, int]) -> Pixels:
    """RGB of a rectangle (x, y, width, height) of a level; transparent is white."""
    x, y, width, height = box
    with openslide.OpenSlide(path) as slide:
        d = round(slide.level_downsamples[level])
        rgba = np.asarray(slide.read_region((x * d, y * d), level, (width, height)))
    return np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8)


def assert_same(slide: Slide, path: Path, seed: int = 0, reads: int = 12) -> None:
    rng = np.random.default_rng(seed)
    for level, (width, height) in enumerate(slide.info.level_dimensions):
        for _ in range(reads):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            w, h = (
                int(rng.integers(1, width - x + 1)),
                int(rng.integers(1, height - y + 1)),
            )
            want = by_openslide(path, level, (x, y, w, h))
            np.testing.assert_array_equal(slide.read_level(level, x, y, w, h), want)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("photometric", "subsampling"),
    [("rgb", None), ("ycbcr", (1, 1)), ("ycbcr", (2, 1)), ("ycbcr", (2, 2))],
)
def test_jpeg_tiles_are_openslides_pixels(
    write: Write,
    photometric: str,
    subsampling: tuple[int, int] | None,
    bigtiff: bool,
) -> None:
    path = write(
        texture(420, 292),
        photometric=photometric,
        subsampling=subsampling,
        bigtiff=bigtiff,
        tile=(64, 96),
    )
    with open_slide(path) as slide:
        assert [slide.reader(n) for n in (0, 1)] == ["JPEG tiles"] * 2
        assert_same(slide, path)


@settings(max_examples=25)
@given(
    width=st.integers(33, 300),
    height=st.integers(33, 300),
    tile=st.tuples(st.sampled_from([16, 48, 128]), st.sampled_from([16, 48, 128])),
    seed=st.integers(0, 1000),
)
def test_any_size_of_slide_and_tile(
    tmp_path_factory: pytest.TempPathFactory,
    width: int,
    height: int,
    tile: tuple[int, int],
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("a") / "a.tif"
    write_jpeg(path, texture(width, height, seed), tile=tile, downsamples=(1,))
    with open_slide(path) as slide:
        assert slide.reader(0) == "JPEG tiles"
        assert_same(slide, path, seed, reads=4)


def test_an_aperio_slide(write: Write) -> None:
    description = "Aperio Image Library v10\n420x292|AppMag = 20|MPP = 0.5"
    path = write(texture(420, 292), name="a.svs", description=description)
    with open_slide(path) as slide:
        assert slide.info.format == "aperio"
        assert slide.reader(0) == "JPEG tiles"
        assert_same(slide, path)


def test_a_real_slide(shared_data: Path) -> None:
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        assert slide.reader(0) == "JPEG tiles"
        assert_same(slide, path, reads=4)


def test_resampled_pixels_do_not_depend_on_the_rectangle(write: Write) -> None:
    path = write(texture(700, 500), downsamples=(1,))
    with open_slide(path) as slide:
        frame = model_frame(
            level_downsamples=slide.info.level_downsamples,
            mpp_x=0.5,
            mpp_y=0.5,
            mpp=0.8,
            allow_upsampling=False,
        )
        whole = slide.read(frame, -20, -10, 460, 330, edge="reflect")
        for x, y, w, h in [(0, 0, 1, 1), (-20, 100, 150, 9), (120, 120, 300, 200)]:
            part = slide.read(frame, x, y, w, h, edge="reflect")
            want = whole[y + 10 : y + 10 + h, x + 20 : x + 20 + w]
            np.testing.assert_array_equal(part, want)


def lossless(path: Path) -> None:
    pixels = texture(200, 150)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(64, 64), photometric="rgb", compression="deflate")


def mislabelled(path: Path) -> None:
    """YCbCr that its TIFF calls RGB: OpenSlide shows what the TIFF says."""
    write_jpeg(path, texture(200, 150), downsamples=(1,))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(2)


def fractional(path: Path) -> None:
    """A level of 100 x 75 px for 201 x 151: OpenSlide interpolates it."""
    write_jpeg(path, texture(201, 151), downsamples=(1, 2))


@pytest.mark.parametrize(
    ("make", "level", "reader"),
    [
        (lossless, 0, "OpenSlide"),
        (fractional, 0, "JPEG tiles"),
        (fractional, 1, "OpenSlide"),
    ],
)
def test_what_is_not_plain_is_openslides(
    tmp_path: Path, make: Callable[[Path], None], level: int, reader: str
) -> None:
    make(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", mpp=0.5) as slide:
        assert slide.reader(level) == reader


def test_colors_are_what_openslide_makes_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    mislabelled(path)
    with open_slide(path) as slide:
        assert_same(slide, path)


def test_a_level_that_openslide_shows_differently_is_openslides(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(texture(200, 150))
    decode = JpegTiles._decode
    monkeypatch.setattr(JpegTiles, "_decode", lambda *given: decode(*given) ^ 1)
    with open_slide(path) as slide:
        assert slide.reader(0) == "OpenSlide"
        assert_same(slide, path)


def tile_bytes(path: Path, number: int) -> tuple[int, int]:
    """(offset, size) of a tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        return page.dataoffsets[number], page.databytecounts[number]


def test_missing_tiles_are_as_openslide_shows_them(write: Write) -> None:
    path = write(texture(300, 200), downsamples=(1,))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tiff.pages[0].tags[name]
            values = list(tag.value)
            values[6] = values[13] = 0
            tag.overwrite(values)
    with open_slide(path) as slide:
        assert slide.reader(0) == "JPEG tiles"
        assert_same(slide, path)
        assert (slide.read_level(0, 64, 64, 64, 64) == 255).all()


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.98])
def test_a_damaged_tile_is_refused_and_the_others_are_read(
    write: Write, cut: float
) -> None:
    path = write(texture(300, 200), downsamples=(1,))
    offset, size = tile_bytes(path, 7)
    with path.open("r+b") as file:
        file.seek(offset + int(cut * size))
        file.write(bytes(size - int(cut * size)))
    with open_slide(path) as slide:
        whole = slide.read_level(0, 0, 0, 64, 64)
        np.testing.assert_array_equal(whole, by_openslide(path, 0, (0, 0, 64, 64)))
        with pytest.raises(SlideError, match="cannot be read at"):
            slide.read_level(0, 100, 50, 80, 80)


@pytest.mark.parametrize("seed", range(8))
def test_no_damaged_tile_is_a_picture_unless_nothing_tells(
    write: Write, seed: int
) -> None:
    path = write(texture(300, 200, seed), downsamples=(1,))
    clean = path.read_bytes()
    rng = np.random.default_rng(seed)
    offset, size = tile_bytes(path, 7)
    refused = 0
    for _ in range(12):
        damaged = bytearray(clean)
        at = offset + int(rng.integers(size))
        for place in range(at, min(at + int(rng.integers(1, 6)), offset + size)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with open_slide(path) as slide:
            try:
                read = slide.read_level(0, 120, 60, 90, 90)
            except SlideError:
                refused += 1
            else:
                want = by_openslide(path, 0, (120, 60, 90, 90))
                np.testing.assert_array_equal(read, want)
    assert refused > 0


def test_threads_share_a_slide_whose_cache_is_small(write: Write) -> None:
    path = write(texture(420, 292), downsamples=(1,))
    boxes = [(x, y, 90, 70) for x in range(0, 320, 30) for y in range(0, 220, 20)]
    cache_bytes = 3 * 64 * 64 * 3
    with (
        open_slide(path, cache_bytes=cache_bytes) as slide,
        ThreadPoolExecutor() as pool,
    ):
        read = list(pool.map(lambda box: slide.read_level(0, *box), boxes))
    whole = by_openslide(path, 0, (0, 0, 420, 292))
    for (x, y, w, h), pixels in zip(boxes, read, strict=True):
        np.testing.assert_array_equal(pixels, whole[y : y + h, x : x + w])


@pytest.mark.parametrize("padding", [b"\0", bytes(7), b"\xff\xff\xff"])
def test_padding_before_the_end_of_a_tile_is_no_damage(
    write: Write, padding: bytes
) -> None:
    path = write(texture(300, 200), downsamples=(1,))
    offset, size = tile_bytes(path, 7)
    whole = path.read_bytes()
    tile = whole[offset : offset + size]
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in (
            ("TileOffsets", len(whole)),
            ("TileByteCounts", size + len(padding)),
        ):
            tag = tiff.pages[0].tags[name]
            values = list(tag.value)
            values[7] = value
            tag.overwrite(values)
    with path.open("r+b") as file:
        file.seek(0, 2)
        file.write(tile[:-2] + padding + tile[-2:])
    with open_slide(path) as slide:
        assert slide.reader(0) == "JPEG tiles"
        read = slide.read_level(0, 120, 60, 90, 90)
    np.testing.assert_array_equal(read, by_openslide(path, 0, (120, 60, 90, 90)))


@pytest.fixture
def damaged_image(tmp_path: Path) -> Path:
    """A JPEG image whose second half is zeros."""
    path = tmp_path / "a.jpg"
    Image.fromarray(texture(200, 150)).save(path)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half - 2) + data[-2:])
    Image.open(path).load()  # Pillow shows it
    return path


@pytest.fixture
def damaged_strip(tmp_path: Path) -> Path:
    """A TIFF of JPEG strips, the second of which ends in zeros."""
    path = tmp_path / "strips.tif"
    pixels = texture(200, 150)
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="jpeg", rowsperstrip=48
    )
    with open_slide(path, mpp=1.0) as slide:  # whole, it is a slide
        assert slide.read_level(0, 0, 0, 200, 150).shape == pixels.shape
    offset, size = tile_bytes(path, 1)
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(bytes(size - size // 2))
    Image.open(path).load()  # Pillow shows it
    return path


@pytest.mark.parametrize("image", ["damaged_image", "damaged_strip"])
def test_a_damaged_jpeg_is_no_slide(image: str, request: pytest.FixtureRequest) -> None:
    with open_slide(request.getfixturevalue(image), mpp=1.0) as slide:
        with pytest.raises(SlideError, match=": cannot decode the image") as refused:
            slide.read_level(0, 0, 0, 10, 10)
        assert "copy it again" in refused.value.hint


def test_a_damaged_jpeg_is_no_tissue_mask(damaged_image: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.jpg: cannot read the image: "):
        read_mask_image(damaged_image)


def test_a_damaged_jpeg_is_no_annotation(damaged_image: Path) -> None:
    with pytest.raises(SlideError, match=r"a\.jpg: cannot be read as a mask"):
        open_mask(damaged_image, MaskRule())


def test_a_mask_with_a_damaged_tile_is_no_annotation(write: Write) -> None:
    squares = np.kron(np.indices((20, 30)).sum(axis=0) % 2, np.ones((10, 10)))
    drawn = np.repeat(squares[..., None] * 255, 3, axis=-1).astype(np.uint8)
    path = write(drawn, downsamples=(1,), photometric="rgb")
    open_mask(path, MaskRule())
    offset, size = tile_bytes(path, 7)
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(bytes(size - size // 2))
    with pytest.raises(SlideError, match=r"a\.tif: cannot be read as a mask"):
        open_mask(path, MaskRule())
