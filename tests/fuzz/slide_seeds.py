"""Small valid slides and images, of each format that can be written here."""

import io
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.dicoms import write_wsi
from tests.fuzz.headers import chunks
from tests.fuzz.mutations import Seed, Spans
from tests.hamamatsu import ndpi_bytes
from tests.slides import (
    Pixels,
    block_mean,
    texture,
    write_jpeg,
    write_pyramid,
    write_scn,
)

APERIO = "Aperio Image Library v12.0.15\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=70"
OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/'
    'Schemas/OME/2016-06"><Image ID="Image:0" Name="fuzz"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYCZT" Type="uint8" SizeX="256" SizeY="192" SizeC="3" SizeZ="1" '
    'SizeT="1" PhysicalSizeX="0.5" PhysicalSizeXUnit="\N{MICRO SIGN}m" '
    'PhysicalSizeY="0.5" PhysicalSizeYUnit="\N{MICRO SIGN}m"><Channel ID="Channel:0:0" '
    'SamplesPerPixel="3"/><TiffData/></Pixels></Image></OME>'
)
WIDTH, HEIGHT = 256, 192


def section() -> Pixels:
    """A pink section with purple grains on glass, RGB [HEIGHT, WIDTH, 3]."""
    pixels: Pixels = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    inside = texture(WIDTH - 64, HEIGHT - 64)
    stain = np.array([0.9, 0.55, 0.75])
    pixels[32:-32, 32:-32] = (inside * stain).astype(np.uint8)
    return pixels


def seed_of(path: Path) -> Seed:
    """The seed in a file, with the byte ranges that its format's checksums cover."""
    data = path.read_bytes()
    checked: Spans = ()
    if path.suffix == ".png":
        checked = tuple((at, at + n) for name, at, n in chunks(data) if name == b"IDAT")
    elif data[:2] in (b"II", b"MM"):
        with tifffile.TiffFile(path) as tiff:
            first = tiff.pages.first
            if int(first.compression) in (8, 32946):  # deflate: an Adler-32 a tile
                spans = zip(first.dataoffsets, first.databytecounts, strict=True)
                checked = tuple((at, at + n) for at, n in spans)
    return Seed(name=path.name, data=data, checked=checked)


def tiff_seeds(folder: Path) -> list[Seed]:
    """Generic TIFF: tiled, in strips, of several compressions and byte orders."""
    pixels, made = section(), []
    made.append(write_pyramid(folder / "deflate.tif", pixels, mpp=0.5))
    made.append(write_jpeg(folder / "jpeg.tif", pixels))
    for name, order, options in (
        ("lzw", "<", {"compression": "lzw", "tile": (64, 64)}),
        ("plain", ">", {"tile": (64, 64)}),
        ("strips", "<", {"rowsperstrip": 16}),
        ("strips_deflate", ">", {"rowsperstrip": 64, "compression": "deflate"}),
    ):
        made.append(folder / f"{name}.tif")
        with tifffile.TiffWriter(made[-1], byteorder=order) as tiff:
            tiff.write(
                pixels,
                photometric="rgb",
                metadata=None,
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
                **options,
            )
    return [seed_of(path) for path in made]


def bigtiff_seeds(folder: Path) -> list[Seed]:
    path = write_jpeg(folder / "big.tif", section(), bigtiff=True)
    return [seed_of(path)]


def svs_seeds(folder: Path) -> list[Seed]:
    """Aperio's: tiles in JPEG, a thumbnail and a label in strips."""
    path, pixels = folder / "aperio.svs", section()
    text = APERIO.format(w=WIDTH, h=HEIGHT)
    with tifffile.TiffWriter(path) as tiff:
        for level, (factor, tile, more) in enumerate(
            ((1, (64, 64), "|AppMag = 20|MPP = 0.5"), (4, None, ""), (2, (64, 64), ""))
        ):
            tiff.write(
                block_mean(pixels, factor),
                tile=tile,
                photometric="rgb" if tile is None else "ycbcr",
                compression="jpeg",
                description=text + more,
                subfiletype=0 if level != 1 else 1,
                metadata=None,
            )
        label = np.full((48, 64, 3), 200, np.uint8)
        tiff.write(
            label,
            photometric="rgb",
            compression="lzw",
            description="Aperio Image Library v12\nlabel 64x48",
            subfiletype=1,
            metadata=None,
        )
    return [seed_of(path)]


def scn_seeds(folder: Path) -> list[Seed]:
    path = folder / "leica.scn"
    write_scn(path, section(), mpp=0.5, offset=(64, 32), canvas=(512, 512))
    return [seed_of(path)]


def ome_seeds(folder: Path) -> list[Seed]:
    """OME-TIFF with its levels in SubIFDs, in deflate and in JPEG."""
    made = []
    for compression in ("deflate", "jpeg"):
        made.append(folder / f"{compression}.ome.tif")
        with tifffile.TiffWriter(made[-1]) as tiff:
            for factor in (1, 2):
                tiff.write(
                    block_mean(section(), factor),
                    tile=(64, 64),
                    photometric="rgb",
                    compression=compression,
                    description=OME.encode() if factor == 1 else None,
                    subifds=1 if factor == 1 else 0,
                    subfiletype=int(factor > 1),
                    metadata=None,
                )
    return [seed_of(path) for path in made]


def ndpi_seeds(folder: Path) -> list[Seed]:
    levels = [(block_mean(section(), factor), 20 / factor) for factor in (1, 2)]
    return [Seed(name="hamamatsu.ndpi", data=ndpi_bytes(levels, mpp=0.5))]


def dicom_seeds(folder: Path) -> list[Seed]:
    pixels = np.ascontiguousarray(section()[64:128, 64:160])
    path = folder / "wsm.dcm"
    return [seed_of(write_wsi(path, pixels, series="1.2", mpp=0.5, instance="1.2.3"))]


def jpeg_seeds(folder: Path) -> list[Seed]:
    """Baseline, progressive, gray and turned."""
    image = Image.fromarray(section())
    turned = Image.Exif()
    turned[274] = 6
    image.save(folder / "baseline.jpg", quality=85)
    image.save(folder / "progressive.jpg", quality=85, progressive=True)
    image.save(folder / "turned.jpg", quality=85, exif=turned)
    image.convert("L").save(folder / "gray.jpg", quality=85)
    return [seed_of(path) for path in sorted(folder.glob("*.jpg"))]


def png_seeds(folder: Path) -> list[Seed]:
    """RGB, with transparency, with a palette, and 1-bit."""
    image = Image.fromarray(section())
    image.save(folder / "rgb.png", dpi=(72, 72))
    clear = image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    clear.save(folder / "alpha.png")
    image.quantize(16).save(folder / "palette.png")
    image.convert("1").save(folder / "bits.png")
    return [seed_of(path) for path in sorted(folder.glob("*.png"))]


def bmp_seeds(folder: Path) -> list[Seed]:
    image = Image.fromarray(section()[:64, :64])
    image.save(folder / "rgb.bmp")
    image.quantize(16).save(folder / "palette.bmp")
    return [seed_of(path) for path in sorted(folder.glob("*.bmp"))]


MIRAX_ID = b"0123456789abcdef0123456789abcdef"


def mirax_files() -> dict[str, bytes]:
    """The .mrxs and the files of its folder: 2 x 2 images of 64 px, one level."""
    pixels = section()[32:160, 32:160]
    parts = []
    for y in (0, 64):
        for x in (0, 64):
            out = io.BytesIO()
            tile = Image.fromarray(pixels[y : y + 64, x : x + 64])
            tile.save(out, "JPEG", quality=90)
            parts.append(out.getvalue())
    head = b"01.02" + MIRAX_ID
    images, at = b"", len(head)
    for number, part in enumerate(parts):
        images += struct.pack("<4i", number, at, len(part), 0)
        at += len(part)
    # Version and id, root of the levels, root of all else (none), then the level's
    # list: an empty page that names the page of the images.
    root = len(head) + 8
    level, page = root + 4, root + 4 + 8
    index = (
        head
        + struct.pack("<ii", root, 0)
        + struct.pack("<i", level)
        + struct.pack("<ii", 0, page)
        + struct.pack("<ii", len(parts), 0)
        + images
    )
    ini = SLIDEDAT.format(id=MIRAX_ID.decode())
    out = io.BytesIO()
    Image.fromarray(pixels[:32, :32]).save(out, "JPEG")
    return {
        "mirax.mrxs": out.getvalue(),
        "mirax/Slidedat.ini": ini.encode(),
        "mirax/Index.dat": index,
        "mirax/Data0000.dat": head + b"".join(parts),
    }


def mirax_seeds(folder: Path) -> list[Seed]:
    """Index, settings and pixels; the .mrxs itself is a picture that nobody reads."""
    files = mirax_files()
    return [Seed(name=name, data=data) for name, data in files.items() if "/" in name]


SLIDEDAT = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {id}
IMAGENUMBER_X = 2
IMAGENUMBER_Y = 2
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0 = ZoomLevel_0
HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LAYER_0_LEVEL_0_SECTION]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = 0.5
MICROMETER_PER_PIXEL_Y = 0.5
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = 64
DIGITIZER_HEIGHT = 64
IMAGE_CONCAT_FACTOR = 0
"""
