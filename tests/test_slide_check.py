"""What a slide is, before it is read: headers, levels, light, and why it is not one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from digipath_ray.cli.app import run_app
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.slide.levels import same_field
from digipath_ray.slide.light import check_brightfield
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.slide.unreadable import explain
from digipath_ray.storage import bucket
from tests.slides import block_mean, noise, write_levels, write_pyramid

Pixels = NDArray[np.uint8]
CENTIMETER = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}


def section(width: int, height: int, *, seed: int = 0) -> Pixels:
    """A stained section, RGB: an ellipse off the center with dark spots, on glass."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 244, np.int64)
    y, x = np.mgrid[:height, :width]
    inside = ((x / width - 0.35) / 0.25) ** 2 + ((y / height - 0.4) / 0.3) ** 2 < 1
    pixels[inside] = (215, 150, 195)
    spots = rng.random((height // 8 + 1, width // 8 + 1)) < 0.2
    dark = spots.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    pixels[dark & inside] = (95, 60, 140)
    pixels += np.rint(rng.normal(0, 2, pixels.shape)).astype(np.int64)
    return pixels.clip(0, 255).astype(np.uint8)


def padded(pixels: Pixels, side: int, color: int = 255) -> Pixels:
    """Pixels with a margin at the right and bottom, to multiples of ``side``."""
    height, width = pixels.shape[:2]
    margins = ((0, -height % side), (0, -width % side), (0, 0))
    return np.pad(pixels, margins, constant_values=color)


def write_tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """A TIFF of one image; tiled unless ``tile`` is None."""
    options = {"tile": (64, 64), "photometric": "rgb", **CENTIMETER, **options}
    if options["tile"] is None:
        del options["tile"]
    tifffile.imwrite(path, pixels, **options)
    return path


def refusal(path: Path) -> tuple[str, str]:
    """Why a file is refused, and the fix."""
    with pytest.raises(SlideError) as error:
        open_slide(path)
    return str(error.value), error.value.hint


# Headers


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("uint16", "16-bit pixels"),
        ("uint32", "32-bit pixels"),
        ("int8", "8-bit signed pixels"),
        ("float32", "32-bit float pixels"),
        ("float16", "16-bit float pixels"),
    ],
)
def test_samples_that_are_not_8_bit_are_refused(
    tmp_path: Path, kind: str, named: str, tile: tuple[int, int] | None
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64).astype(kind), tile=tile)
    message, hint = refusal(path)
    assert message == f"a.tif: {named}, not 8-bit color"
    assert hint.startswith("convert it to 8-bit RGB")
    if kind == "uint16":
        assert "divided by 16 if 12 bits are used" in hint


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((64, 64), {"photometric": "minisblack"}, "one gray channel"),
        ((64, 64), {"photometric": "miniswhite"}, "one gray channel"),
        ((3, 64, 64), {"photometric": "minisblack"}, "3 gray channels"),
        ((5, 64, 64), {"photometric": "minisblack"}, "5 gray channels"),
        (
            (64, 64, 3),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "3 gray channels",
        ),
        ((64, 64, 4), {"photometric": "separated"}, "CMYK pixels"),
        ((64, 64, 3), {"photometric": "cielab"}, "CIE L*a*b* pixels"),
        (
            (64, 64, 4),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
            "4 samples a pixel",
        ),
        (
            (64, 64, 5),
            {"photometric": "rgb", "extrasamples": ["unspecified"] * 2},
            "5 samples a pixel",
        ),
    ],
)
def test_what_is_not_rgb_is_refused(
    tmp_path: Path,
    shape: tuple[int, ...],
    options: dict[str, Any],
    named: str,
    tile: tuple[int, int] | None,
) -> None:
    pixels = np.full(shape, 90, np.uint8)
    path = write_tiff(tmp_path / "a.tif", pixels, tile=tile, **options)
    assert refusal(path)[0].startswith(f"a.tif: {named}")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda p: p, {}),
        (lambda p: np.moveaxis(p, -1, 0).copy(), {"planarconfig": "separate"}),
        (
            lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]),
            {"extrasamples": ["unassalpha"]},
        ),
        (lambda p: p, {"compression": "lzw"}),
        (lambda p: p, {"compression": "zstd"}),
        (lambda p: p, {"extratags": [(274, 3, 1, 1, True)]}),
    ],
    ids=["plain", "planes", "alpha", "lzw", "zstd", "upright"],
)
def test_what_is_rgb_is_read(
    tmp_path: Path, make: Any, options: dict[str, Any]
) -> None:
    pixels = noise(100, 80)
    path = write_tiff(tmp_path / "a.tif", make(pixels), **options)
    with open_slide(path) as slide:
        assert slide.info.format == "generic-tiff"
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 100, 80), pixels)
        assert slide.info.notes == ()


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize(
    "codec", ["webp", "jpeg2000", "jpegxl", "lerc", "png", "jpegxr"]
)
def test_a_compression_that_is_not_read_is_named(
    tmp_path: Path, codec: str, tile: tuple[int, int] | None
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64), compression=codec, tile=tile)
    message, hint = refusal(path)
    assert codec in message.lower().replace("_", "")
    reader = "OpenSlide" if tile else "Pillow"
    assert message.endswith(f"which {reader} does not read")
    assert hint.startswith("convert it, e.g. vips tiffsave")
    assert "copy it again" not in hint


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_further_images_of_the_full_size_are_said(
    tmp_path: Path, tile: tuple[int, int] | None
) -> None:
    stack = np.stack([noise(64, 64, seed=i) for i in range(3)])
    path = write_tiff(tmp_path / "a.tif", stack, tile=tile)
    with open_slide(path) as slide:
        assert [n.flag for n in slide.info.notes] == ["several images"]
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 64, 64), stack[0])


@pytest.mark.parametrize("codec", ["lzw", "jpeg"])
@pytest.mark.parametrize("turn", [2, 3, 6, 8])
def test_turned_tiles_are_refused(tmp_path: Path, turn: int, codec: str) -> None:
    tags = [(274, 3, 1, turn, True)]
    path = write_tiff(
        tmp_path / "a.tif", noise(64, 64), extratags=tags, compression=codec
    )
    message, hint = refusal(path)
    assert f"Orientation {turn}" in message
    assert "vips autorot" in hint


# Scale


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/'
    '2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" '
    'Type="uint8" SizeX="64" SizeY="64" SizeC="3" SizeZ="1" SizeT="1" {sizes}/>'
    "</Image></OME>"
)


@pytest.mark.parametrize("tile", [(64, 64), None])
@pytest.mark.parametrize(
    ("sizes", "want"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.25"', (0.5, 0.25)),
        ('PhysicalSizeX="500" PhysicalSizeXUnit="nm"', (0.5, 0.5)),
        (
            'PhysicalSizeX="0.002" PhysicalSizeXUnit="mm" '
            'PhysicalSizeY="0.002" PhysicalSizeYUnit="mm"',
            (2.0, 2.0),
        ),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel"', (None, None)),
        ('PhysicalSizeX="0"', (None, None)),
        ("", (None, None)),
    ],
)
def test_the_physical_size_of_ome_xml_is_read(
    tmp_path: Path,
    sizes: str,
    want: tuple[float | None, float | None],
    tile: tuple[int, int] | None,
) -> None:
    path = write_tiff(
        tmp_path / "a.ome.tif",
        noise(64, 64),
        tile=tile,
        resolution=(1, 1),
        resolutionunit="NONE",
        description=OME.format(sizes=sizes),
        metadata=None,
    )
    with open_slide(path) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_y) == pytest.approx(want)


def test_imagej_and_newer_tiff_units_are_read(tmp_path: Path) -> None:
    imagej = write_tiff(
        tmp_path / "a.tif",
        noise(64, 64),
        resolution=(2, 2),
        resolutionunit="NONE",
        description="ImageJ=1.54f\nunit=\\u00B5m\n",
        metadata=None,
    )
    millimeter = write_tiff(
        tmp_path / "b.tif",
        noise(64, 64),
        resolution=(2000, 2000),
        resolutionunit="MILLIMETER",
    )
    for path in (imagej, millimeter):
        with open_slide(path) as slide:
            assert slide.info.need_mpp() == (0.5, 0.5)


def test_two_headers_that_contradict_are_flagged(tmp_path: Path) -> None:
    path = write_tiff(
        tmp_path / "a.tif",
        noise(64, 64),
        description=OME.format(sizes='PhysicalSizeX="0.25" PhysicalSizeY="0.25"'),
        metadata=None,
    )
    with open_slide(path) as slide:
        assert slide.info.need_mpp() == (1.0, 1.0)
        assert [n.flag for n in slide.info.notes] == ["two mpp in the file"]


def write_svs(path: Path, *, power: float, mpp: float) -> Path:
    """An SVS of one level, which states both."""
    text = (
        "Aperio Image Library v12.0.15\n128x128 [0,0 128x128] (64x64) JPEG/RGB Q=70"
        f"|AppMag = {power:g}|MPP = {mpp:g}"
    )
    tifffile.imwrite(
        path,
        section(128, 128),
        tile=(64, 64),
        photometric="rgb",
        compression="jpeg",
        description=text,
        metadata=None,
    )
    return path


@pytest.mark.parametrize(
    ("power", "mpp", "flagged"),
    [
        (40, 0.2527, False),
        (20, 0.499, False),
        (40, 1.0, True),
        (20, 0.25, True),
        (40, 0.5, True),
    ],
)
def test_a_magnification_that_contradicts_the_mpp_is_flagged(
    tmp_path: Path, power: float, mpp: float, flagged: bool
) -> None:
    path = write_svs(tmp_path / "a.svs", power=power, mpp=mpp)
    with open_slide(path) as slide:
        assert (slide.info.format, slide.info.mpp_x) == ("aperio", mpp)
        found = [n.flag for n in slide.info.notes]
    assert found == (["mpp contradicts objective"] if flagged else [])


def test_info_and_the_flags_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_svs(tmp_path / "a.svs", power=40, mpp=1.0)
    options = ["--mpp", "1", "--min-tissue-mm2", "0.0005"]
    assert run_app(["info", str(path), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 um/px and 40x contradict each other, 40x is usually 0.25" in said
    assert "mpp contradicts objective" in said.partition("flags")[2]


# Levels


@pytest.mark.parametrize(
    ("whole", "level", "same"),
    [
        ((1000, 800), (500, 400), True),
        ((1003, 997), (501, 498), True),
        ((1003, 997), (31, 31), True),
        ((1003, 997), (32, 31), True),
        ((97792, 221184), (49152, 110592), False),  # CAMELYON16, padded to tiles
        ((1536, 1024), (512, 512), False),
    ],
)
def test_sizes_of_the_same_field(
    whole: tuple[int, int], level: tuple[int, int], same: bool
) -> None:
    assert same_field(whole, level, 0.0) is same


def left_out(path: Path) -> tuple[int, list[str]]:
    """How many levels a slide has, and what is said of the others."""
    with open_slide(path) as slide:
        for note in slide.info.notes:
            assert note.flag == "levels left out"
        return len(slide.info.level_downsamples), [n.text for n in slide.info.notes]


def write_section(path: Path, levels: Sequence[Pixels]) -> Path:
    return write_levels(path, levels, mpp=1.0, tile=64)


def test_levels_of_any_rounding_are_kept(tmp_path: Path) -> None:
    whole = section(1003, 597)
    levels = [whole, *(block_mean(whole, d) for d in (2, 4, 8, 16, 32))]
    assert left_out(write_section(tmp_path / "a.tif", levels)) == (6, [])


@pytest.mark.parametrize("shape", [(900, 600), (600, 600)])
@pytest.mark.parametrize("color", [255, 0])
def test_padded_levels_are_left_out(
    tmp_path: Path, shape: tuple[int, int], color: int
) -> None:
    # A square slide is padded alike on both sides: 512 of 300 px, and of 150.
    whole = section(*shape)
    levels = [whole, *(padded(block_mean(whole, d), 512, color) for d in (2, 4))]
    count, said = left_out(write_section(tmp_path / "a.tif", levels))
    assert count == 1
    assert len(said) == 2


def test_a_padding_of_a_few_px_is_found(tmp_path: Path) -> None:
    whole = section(1600, 1200)  # 1:4 is 400 x 300, padded to 416 x 312 by 1.04
    level = np.pad(
        block_mean(whole, 4), ((0, 12), (0, 16), (0, 0)), constant_values=255
    )
    count, said = left_out(write_section(tmp_path / "a.tif", [whole, level]))
    assert count == 1
    assert "padded" in said[0]


@pytest.mark.parametrize("kind", ["label", "macro", "mirrored"])
def test_another_picture_flagged_as_a_level_is_left_out(
    tmp_path: Path, kind: str
) -> None:
    whole = section(640, 640)
    other = np.full((160, 160, 3), 250, np.uint8)
    if kind == "label":
        other[40:56, 20:140] = other[90:106, 20:100] = 0
    elif kind == "macro":
        other[:] = 225
        other[60:110, 70:110] = section(50, 40)[:40, :50].transpose(1, 0, 2)
    else:
        other = block_mean(whole, 4)[:, ::-1]
    levels = [whole, block_mean(whole, 2), other]
    count, said = left_out(write_section(tmp_path / "a.tif", levels))
    assert count == 2
    assert "the level of 160 x 160 px is not read: it shows another picture" in said[0]


def test_what_is_left_is_read_in_place(tmp_path: Path) -> None:
    whole = section(768, 512)
    good = block_mean(whole, 4)
    levels = [whole, padded(block_mean(whole, 2), 512), good]
    with open_slide(write_section(tmp_path / "a.tif", levels)) as slide:
        assert slide.info.level_dimensions == ((768, 512), (192, 128))
        read = slide.read_level(1, 10, 20, 60, 50)
        np.testing.assert_array_equal(read, good[20:70, 10:70])


# Light


def glow(*signals: tuple[int, int, int], ground: int = 0) -> Pixels:
    """Spots that fade into a dark ground, each set in a color of its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :200]
    pixels = np.full((200, 200, 3), float(ground))
    for color in signals:
        spot = np.zeros((200, 200))
        for cx, cy, r in rng.uniform((10, 10, 3), (190, 190, 8), (60, 3)):
            spot += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * r * r))
        pixels += spot.clip(0, 1)[..., None] * np.array(color)
    return (pixels + rng.normal(0, 2, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        glow((20, 40, 255)),
        glow((255, 40, 10)),
        glow((30, 255, 30)),
        glow((255, 0, 255)),
        glow((200, 220, 255)),
        glow((0, 0, 255), (255, 0, 0), (0, 255, 0)),
        glow((40, 40, 255), (255, 40, 40), ground=40),
        glow((255, 255, 255)),
        np.repeat(glow((255, 255, 255))[..., :1], 3, axis=2),
        np.full((50, 50, 3), (10, 20, 200), np.uint8),
        np.zeros((50, 50, 3), np.uint8),
    ],
    ids=[
        *("dapi", "tritc", "fitc", "cy5", "pale", "merge", "haze", "white", "gray"),
        *("dense", "black"),
    ],
)
def test_fluorescence_is_refused(pixels: Pixels) -> None:
    with pytest.raises(SlideError, match=r"brightfield|gray picture") as error:
        check_brightfield(pixels)
    assert "--tissue all" not in error.value.hint


def test_brightfield_is_not() -> None:
    stained = section(200, 200)
    check_brightfield(stained)
    check_brightfield(np.full((50, 50, 3), 245, np.uint8))  # blank glass
    framed = stained.copy()
    framed[:, :80] = 0  # a black border
    check_brightfield(framed)
    mostly = stained.copy()
    mostly[:140] = 3
    check_brightfield(mostly)
    rng = np.random.default_rng(0)
    for color in ((75, 40, 105), (150, 20, 30), (150, 90, 50), (220, 120, 190)):
        crop = np.array(color) + rng.normal(0, 15, (100, 100, 3))
        check_brightfield(crop.clip(0, 255).astype(np.uint8))
    check_brightfield((stained * 0.4).astype(np.uint8))  # underexposed


def test_no_hint_leads_past_fluorescence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = glow((20, 40, 255)).repeat(2, axis=0).repeat(2, axis=1)
    path = write_pyramid(tmp_path / "a.tif", pixels, mpp=1.0, downsamples=(1,))
    for method in ("otsu", "all"):
        command = ["info", str(path), "--mpp", "1", "--tissue", method]
        assert run_app(command) == 1
        said = capsys.readouterr().out
        assert "not brightfield" in said
        assert "--tissue" not in said


# Files that cannot be opened


def test_an_mrxs_without_its_folder_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    message, hint = refusal(path)
    assert "its folder s/ is missing" in message
    assert "Slidedat.ini" in hint
    (tmp_path / "s").mkdir()
    assert "s/Slidedat.ini is missing" in refusal(path)[0]
    upper = tmp_path / "T.MRXS"
    shutil.copy(path, upper)
    (tmp_path / "T").mkdir()
    (tmp_path / "T" / "Slidedat.ini").write_text("[GENERAL]")
    message, hint = refusal(upper)
    assert "in lower case alone" in message
    assert hint == "rename it to T.mrxs"


@pytest.mark.parametrize("suffix", [".avs", ".qptiff", ".btf", ".SVS", ".Ome.Tif"])
def test_slides_of_other_suffixes_are_found(tmp_path: Path, suffix: str) -> None:
    path = write_pyramid(tmp_path / f"a{suffix}", section(128, 128), mpp=1.0)
    (row,) = read_cohort([tmp_path])
    assert row.path == str(path)
    with open_slide(row.path) as slide:
        assert slide.info.width == 128


def test_formats_that_nobody_reads_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pyramid(tmp_path / "a.tif", section(128, 128), mpp=1.0)
    other = tmp_path / "b.isyntax"
    other.write_bytes(bytes(range(256)))
    assert [r.slide_id for r in read_cohort([tmp_path])] == ["a"]
    assert "1 x .isyntax passed over" in caplog.text
    message, hint = refusal(other)
    assert message == "b.isyntax: a format that OpenSlide does not read"
    assert "export it as TIFF" in hint


def test_they_are_named_in_a_bucket_too(
    bucket_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.svs", "b.isyntax", "c.isyntax"):
        bucket.put(f"{bucket_url}/{name}", b"x")
    assert [r.slide_id for r in read_cohort([bucket_url])] == ["a"]
    assert "2 x .isyntax passed over" in caplog.text


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Unsupported TIFF compression: 50001", "does not read this kind of file"),
        ("Sorry, can not handle images with 32-bit samples", "this kind of file"),
        ("Unsupported transfer syntax 1.2.840.10008.1.2", "explicit VR"),
        ("Attribute TotalPixelMatrixFocalPlanes value 2 != 1", "OpenSlide reads VL"),
        ("Couldn't read PlanarConfiguration", "one gray channel"),
        ("Couldn't open a/Data0001.dat: No such file or directory", "is missing"),
        ("Couldn't open a.svs: Permission denied", "permissions"),
        ("TIFFFillTile: Read error: got 3 bytes, expected 900", "copy it again"),
    ],
)
def test_each_error_of_openslide_has_its_own_fix(said: str, hint: str) -> None:
    error = explain(Path("a.svs"), "opened", OSError(said))
    assert str(error) == f"a.svs: cannot be opened: {said}"
    assert hint in error.hint
    assert ("damaged" in error.hint) == (hint == "copy it again")


def test_a_tiff_without_its_directory_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + (5_000).to_bytes(4, "little") + bytes(range(1, 200)))
    message, hint = refusal(path)
    assert message.startswith("a.tif: cut short: its contents reach to byte 5,000")
    assert "copy it again" in hint
