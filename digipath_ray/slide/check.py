"""One look at the headers of a TIFF before OpenSlide opens it.

OpenSlide hands on whatever libtiff makes of a file: 12-bit samples as black, one gray
channel as a picture, tiles turned one by one. What it would show wrongly is refused
here, with what the file is and how to convert it. No pixel is read.
"""

import functools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import defusedxml
import tifffile
from defusedxml import ElementTree

from digipath_ray.slide.info import Note, SlideError, positive_number
from digipath_ray.slide.sizes import check_pages

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 64
"""Images of a TIFF that are looked at; a slide has about ten."""
GENERIC = "generic-tiff"
READ_BY_OPENSLIDE = (1, 5, 7, 8, 32773, 32946, 50000)
"""TIFF compressions of generic TIFFs: none, LZW, JPEG, Deflate, PackBits, Zstandard."""
READ_BY_PILLOW = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
"""The same of untiled TIFFs, with CCITT, old JPEG and LZMA besides."""
STORED_AS_SHOWN = (7, 33003, 33005)
"""JPEG and Aperio's JPEG 2000, whose tiles OpenSlide does not turn."""
ALPHA = (1, 2)
"""TIFF extra samples that are transparency."""
COLORS = {0: "gray", 1: "gray", 5: "CMYK", 8: "CIE L*a*b*", 9: "CIE L*a*b*"}
FORMATS = {2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}
BROKEN = (
    tifffile.TiffFileError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    struct.error,
)
"""What readers of pictures written in Python raise on damaged bytes."""
UNREADABLE = (OSError, *BROKEN)
"""The same, and OSError, which some of them raise as if the disk had failed."""

VIPS = "vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
TO_RGB = "convert it to 8-bit RGB"
SCALED = (
    f"{TO_RGB}, divided by 16 if 12 bits are used and by 257 if 16 are, e.g. "
    "vips linear IN OUT.tif[tile,pyramid,compression=jpeg] 0.0625 0 --uchar"
)
UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0,
    "microns": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25_400.0, "inch": 25_400.0,
}  # fmt: skip
"""Of OME-XML and ImageJ, with the Greek mu and the micro sign."""
UM_PER_TIFF_UNIT = {2: 25_400.0, 3: 10_000.0, 4: 1_000.0, 5: 1.0}
"""Of ResolutionUnit: inch, centimeter, and the later millimeter and micrometer."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a TIFF's headers say that OpenSlide does not.

    Attributes:
        mpp_x, mpp_y: um per px by OME-XML, ImageJ or the TIFF's resolution.
        source: which of them.
        notes: what to know of the file.
    """

    mpp_x: float | None = None
    mpp_y: float | None = None
    source: str = ""
    notes: tuple[Note, ...] = ()


def is_tiff(path: Path) -> bool:
    """Whether a file starts like a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in TIFF_MAGIC


def cut_short(path: Path, needed: int, size: int) -> SlideError:
    """The error for a file that ends before its own contents."""
    return SlideError(
        f"{path.name}: cut short: its contents reach to byte {needed:,}, the file has "
        f"{size:,}",
        "copy it again, as the transfer was broken off (the file is truncated)",
    )


def look_at_tiff(path: Path, vendor: str | None) -> Look:
    """Look at the headers of a TIFF.

    Args:
        path: the file.
        vendor: OpenSlide's name of its format; None if OpenSlide does not know it.

    Raises:
        SlideError: OpenSlide or Pillow would show its pixels wrongly, or not at all.
    """
    stat = path.stat()
    return _look(path, vendor, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1 << 12)
def _look(path: Path, vendor: str | None, size: int, modified: int) -> Look:
    """Look at a file of that size, last written then: readers open it many times."""
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = first_pages(tiff)
            check_pages(path, pages)
            first = pages[0]
            main = first
            if vendor not in (None, GENERIC):  # a macro image may come first
                main = max(pages, key=lambda p: p.imagewidth * p.imagelength)
            fault = _fault(main, pages, vendor)
            # A scanner's macro image has a scale of its own: its format's reader knows.
            look = _mpp(first) if vendor in (None, GENERIC) else (None, None, "")
            notes = tuple(_notes(main, pages, vendor))
            end = max(_end_of_tiles(page) for page in pages)
    except SlideError:
        raise
    except UNREADABLE as e:
        if vendor is None:  # Pillow says what is wrong
            return Look()
        # Also of a scanner's format: a tile whose size is not known here may be one
        # that OpenSlide ends the process for.
        raise SlideError(
            f"{path.name}: its TIFF headers cannot be read: {e}",
            "the file is damaged or truncated: copy it again",
        ) from e
    if fault is not None:
        raise SlideError(f"{path.name}: {fault[0]}", fault[1])
    if end > size:
        raise cut_short(path, end, size)
    return Look(mpp_x=look[0], mpp_y=look[1], source=look[2], notes=notes)


def pages_of_levels(
    tiff: tifffile.TiffFile, sizes: Sequence[tuple[int, int]]
) -> dict[int, Any]:
    """Number of a level -> its page, by its size, px.

    Of images of one size (focal planes) OpenSlide shows the first.
    """
    first = {(p.imagewidth, p.imagelength): p for p in reversed(first_pages(tiff))}
    return {i: first[size] for i, size in enumerate(sizes) if size in first}


def first_pages(tiff: tifffile.TiffFile) -> list[Any]:
    """The images of a TIFF that are looked at."""
    count = min(len(tiff.pages), MAX_PAGES)
    return [tiff.pages[i].aspage() for i in range(count)]


def _end_of_tiles(page: Any) -> int:
    """Byte at which the last tile of an image ends; 0 if it has none."""
    if not page.is_tiled:
        return 0  # Pillow says what of an untiled image is missing
    pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
    # Python's own numbers: those of a damaged file are larger than 64 bits together.
    return max((int(start) + int(count) for start, count in pieces), default=0)


def _fault(page: Any, pages: list[Any], vendor: str | None) -> tuple[str, str] | None:
    """Why an image cannot be read as the slide, and the fix."""
    return (
        _depth(page)
        or _channels(page, pages)
        or _compression(page, vendor)
        or _orientation(page, vendor)
    )


def _depth(page: Any) -> tuple[str, str] | None:
    bits = page.bitspersample
    kind = FORMATS.get(int(page.sampleformat), "")
    if bits == 8 and not kind:
        return None
    depth = f"{bits}-bit" if isinstance(bits, int) else "samples of several depths,"
    hint = SCALED if bits == 16 and not kind else TO_RGB
    return f"{depth} {kind}pixels, not 8-bit color", hint


def _channels(page: Any, pages: list[Any]) -> tuple[str, str] | None:
    """What is neither RGB, RGB with transparency, YCbCr nor a palette."""
    samples = int(page.samplesperpixel)
    photometric = int(page.photometric)
    extra = [int(e) for e in page.extrasamples]
    if photometric in (0, 1):
        return _gray(page, pages, samples)
    if photometric == 3 and samples == 1:
        return None
    if photometric not in (2, 6):
        name = COLORS.get(photometric, f"photometric {photometric}")
        return f"{name} pixels, not 8-bit color", TO_RGB
    if samples == 3 or (samples == 4 and extra and extra[0] in ALPHA):
        return None
    return (
        f"{samples} samples a pixel, of which only 3 are color",
        "save red, green and blue alone: networks for H&E see nothing else",
    )


def _gray(page: Any, pages: list[Any], samples: int) -> tuple[str, str] | None:
    size = (page.imagewidth, page.imagelength)
    alike = [p for p in pages if (p.imagewidth, p.imagelength) == size]
    if samples == 1 and len(alike) == 1:
        return (
            "one gray channel, not color",
            "give the RGB slide: a fluorescence channel or a mask is not H&E",
        )
    channels = samples if samples > 1 else len(alike)
    if channels == 3:
        return (
            "3 gray channels, not color",
            "if they are red, green and blue, join them to RGB, e.g. vips bandjoin "
            "'R.tif G.tif B.tif' OUT.tif; fluorescence is not H&E",
        )
    return (
        f"{channels} gray channels, not color",
        "give a brightfield slide in RGB: fluorescence and multiplex images are not "
        "H&E",
    )


def _compression(page: Any, vendor: str | None) -> tuple[str, str] | None:
    reader, known = {
        GENERIC: ("OpenSlide", READ_BY_OPENSLIDE),
        None: ("Pillow", READ_BY_PILLOW),
    }.get(vendor, ("", (page.compression,)))  # a scanner's own is OpenSlide's to know
    if page.compression in known:
        return None
    name = getattr(page.compression, "name", str(page.compression))
    return (
        f"its pixels are compressed with {name}, which {reader} does not read",
        f"convert it, e.g. {VIPS}",
    )


def _orientation(page: Any, vendor: str | None) -> tuple[str, str] | None:
    tag = page.tags.get("Orientation")
    turn = int(tag.value) if tag is not None else 1
    if turn in (0, 1) or vendor is None:  # Pillow turns the whole image
        return None
    if vendor != GENERIC and page.compression in STORED_AS_SHOWN:
        return None
    return (
        f"stored turned or mirrored (Orientation {turn}), which OpenSlide applies to "
        "each tile by itself or not at all",
        "turn its pixels, e.g. vips autorot IN OUT.tif"
        "[tile,pyramid,compression=jpeg], and the annotations with them",
    )


def _notes(page: Any, pages: list[Any], vendor: str | None) -> Iterator[Note]:
    if vendor not in (GENERIC, None):
        return
    if page.subifds and vendor == GENERIC:
        yield Note(
            flag=None,
            text="its smaller levels lie in SubIFDs, which OpenSlide does not read: "
            "reading is slower, but right",
        )
    size = (page.imagewidth, page.imagelength)
    alike = sum((p.imagewidth, p.imagelength) == size for p in pages)
    if alike > 1:
        yield Note(
            flag="several images",
            text=f"{alike} images of the full size (focal planes, times or channels): "
            "only the first is read",
        )


def _mpp(page: Any) -> tuple[float | None, float | None, str]:
    """Um per px in x and y, and which header says so."""
    text = page.description or ""
    if "<OME" in text[:2000]:
        x, y = _ome_mpp(text)
        if x or y:
            return x, y, "OME-XML"
    unit = page.tags.get("ResolutionUnit")
    unit = 2 if unit is None else int(unit.value)
    um, source = UM_PER_TIFF_UNIT.get(unit), "TIFF resolution"
    if text.startswith("ImageJ=") and unit == 1:
        named = re.search(r"^unit=(.+)$", text, re.MULTILINE)
        # ImageJ writes the micro sign as an escape.
        name = named[1].strip().replace("\\u00B5", "µ") if named else ""
        um, source = UM_PER_UNIT.get(name), "ImageJ"
    per_unit = [_ratio(page, name) for name in ("XResolution", "YResolution")]
    x, y = (um / n if um and n else None for n in per_unit)
    return x, y, source


def _ratio(page: Any, name: str) -> float | None:
    tag = page.tags.get(name)
    if tag is None:
        return None
    over, under = tag.value
    return positive_number(over / under) if under else None


def _ome_mpp(text: str) -> tuple[float | None, float | None]:
    """PhysicalSizeX and Y of the first image of an OME-XML, um."""
    try:
        root = ElementTree.fromstring(text.encode())
    except (ParseError, ValueError, LookupError, defusedxml.DefusedXmlException):
        return None, None
    pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None, None
    sizes = []
    for axis in ("X", "Y"):
        size = positive_number(pixels.get(f"PhysicalSize{axis}"))
        um = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        sizes.append(size * um if size and um else None)
    return sizes[0], sizes[1]
