"""Why a file cannot be opened as a slide, each reason in its own sentence."""

import re
import struct
from pathlib import Path

from digipath_ray.slide.check import TIFF_MAGIC, VIPS, cut_short
from digipath_ray.slide.image import IMAGE_SUFFIXES
from digipath_ray.slide.info import SlideError
from digipath_ray.storage.dicom import MAGIC_BYTES, is_dicom, read_header

TEXT_BYTES = 512
"""Leading bytes examined to detect a plain-text file."""
JPEG_MAGIC = b"\xff\xd8\xff"
"""An .mrxs file itself is a small JPEG."""
NO_SLIDE = "not a slide that OpenSlide can open, nor a plain image"
LOWER_CASE = (".mrxs", ".vms", ".vmu")
"""Suffixes that OpenSlide knows in lower case alone."""
DICOM_HINT = (
    "OpenSlide reads VL Whole Slide Microscopy Images in explicit VR whose pixels are "
    "JPEG, JPEG 2000 or uncompressed: convert it, e.g. with dcmconv +te or gdcmconv "
    "--raw"
)
UNSUPPORTED = {
    ".isyntax": "Philips iSyntax: export it as TIFF from the image management system",
    ".i2syntax": "Philips iSyntax: export it as TIFF from the image management system",
    ".vsi": "Olympus VSI: export it from OlyVIA or convert it with bioformats2raw",
    ".zvi": "Zeiss ZVI: convert it with Bio-Formats, e.g. bfconvert",
    ".lif": "Leica LIF: convert it with Bio-Formats, e.g. bfconvert",
    ".nd2": "Nikon ND2: convert it with Bio-Formats, e.g. bfconvert",
    ".kfb": "KFBIO: export it as SVS or TIFF from the scanner's viewer",
    ".sdpc": "SQRAY: export it as SVS or TIFF from the scanner's viewer",
    ".tmap": "UNIC: export it as SVS or TIFF from the scanner's viewer",
    ".mds": "Motic: export it as SVS or TIFF from the scanner's viewer",
    ".mdsx": "Motic: export it as SVS or TIFF from the scanner's viewer",
    ".jp2": f"JPEG 2000: convert it, e.g. {VIPS}",
    ".afi": "a list of Aperio's fluorescence channels, which are not H&E",
}
"""Suffixes of slides that OpenSlide does not read, and what to do."""

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|can ?not handle|unknown compression|unrecognized|"
    r"not implemented|bad compression|no codec|not configured",
    re.IGNORECASE,
)
# libtiff hands on what zlib or libjpeg say of broken bytes, which may be "unknown
# compression method".
_DAMAGED = re.compile(r"decoding error|bogus|corrupt|premature end", re.IGNORECASE)
_DICOM_VALUE = re.compile(r"Attribute \w+ value .* != ")
_MISSING = re.compile(
    r"no such file|couldn't open|could not open|can't open|missing file", re.IGNORECASE
)
_DENIED = re.compile(r"permission denied|access is denied", re.IGNORECASE)


def explain(path: Path, what: str, error: Exception) -> SlideError:
    """OpenSlide's error in words, with the fix that belongs to it.

    Args:
        path: the slide.
        what: what could not be done, e.g. "opened".
        error: of OpenSlide.
    """
    text = str(error)
    if "PlanarConfiguration" in text:
        hint = "DICOM of one gray channel: give a brightfield slide in RGB"
    elif "transfer syntax" in text or _DICOM_VALUE.search(text):
        hint = DICOM_HINT
    elif _UNSUPPORTED.search(text) and not _DAMAGED.search(text):
        hint = f"OpenSlide does not read this kind of file: convert it, e.g. {VIPS}"
    elif _DENIED.search(text):
        hint = "check the owner and permissions of the file and those beside it"
    elif _MISSING.search(text):
        hint = "a file that belongs to the slide is missing: copy all of them again"
    else:
        hint = "the file is damaged or truncated: copy it again"
    return SlideError(f"{path.name}: cannot be {what}: {text}", hint)


def unknown_file(path: Path) -> SlideError | None:
    """Why OpenSlide does not know a file; None if it may be a plain image."""
    start = _start(path)
    suffix = path.suffix.lower()
    return (
        _empty_or_text(path, start)
        or _mirax(path, start)
        or _upper_case(path)
        or _dicom(path)
        or _unsupported(path)
        or _cut_tiff(path, start)
        or (None if suffix in IMAGE_SUFFIXES else _no_slide(path))
    )


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(TEXT_BYTES)
    except OSError as e:
        raise SlideError(
            f"{path.name}: cannot read the file: {e.strerror}",
            "check the file's owner and permissions",
        ) from e


def _empty_or_text(path: Path, start: bytes) -> SlideError | None:
    if not start:
        return SlideError(f"{path.name}: the file is empty", "copy it again")
    if start.isascii() and all(c >= 32 or c in b"\t\n\r\f" for c in start):
        if path.suffix.lower() in (".vms", ".vmu", ".afi"):
            return None
        return SlideError(
            f"{path.name}: a text file, not a slide",
            "give the slide itself, not a list of slides or a Git LFS pointer",
        )
    return None


def _mirax(path: Path, start: bytes) -> SlideError | None:
    """What an MRXS lacks: its pixels lie in the folder of its name."""
    if path.suffix.lower() != ".mrxs":
        return None
    folder = path.with_suffix("")
    if not folder.is_dir():
        other = "" if start.startswith(JPEG_MAGIC) else "; the .mrxs is damaged too"
        return SlideError(
            f"{path.name}: its folder {folder.name}/ is missing, which holds the "
            "pixels of an MRXS slide",
            f"copy the folder {folder.name}/ (Slidedat.ini, Index.dat, Data*.dat) "
            f"beside the .mrxs file, both under the same name{other}",
        )
    if not (folder / "Slidedat.ini").is_file():
        return SlideError(
            f"{path.name}: {folder.name}/Slidedat.ini is missing",
            f"copy the folder {folder.name}/ again, with all its files",
        )
    return None


def _upper_case(path: Path) -> SlideError | None:
    lower = path.suffix.lower()
    if lower not in LOWER_CASE or path.suffix == lower:
        return None
    return SlideError(
        f"{path.name}: OpenSlide knows the suffix {lower} in lower case alone",
        f"rename it to {path.with_suffix(lower).name}",
    )


def _dicom(path: Path) -> SlideError | None:
    with path.open("rb") as file:
        start = file.read(MAGIC_BYTES)
    if not is_dicom(start):
        return None
    header = read_header(path)
    if header is None or header.is_slide:
        return SlideError(
            f"{path.name}: a DICOM file that OpenSlide does not read",
            f"{DICOM_HINT}, or copy it again if it was cut short",
        )
    return SlideError(
        f"{path.name}: {header.kind}, not a whole slide image",
        "name a file of the slide's own series, or its folder",
    )


def _unsupported(path: Path) -> SlideError | None:
    known = UNSUPPORTED.get(path.suffix.lower())
    if known is None:
        return None
    return SlideError(f"{path.name}: a format that OpenSlide does not read", known)


def _cut_tiff(path: Path, start: bytes) -> SlideError | None:
    """A TIFF that ends before the directory its header points to."""
    if start[:4] not in TIFF_MAGIC:
        return None
    order, is_big = "<" if start[:2] == b"II" else ">", 43 in start[2:4]
    kind, at = ("Q", 8) if is_big else ("I", 4)
    if len(start) < 16:
        return None
    first, size = struct.unpack_from(order + kind, start, at)[0], path.stat().st_size
    return cut_short(path, first, size) if first >= size else None


def _no_slide(path: Path) -> SlideError:
    return SlideError(
        f"{path.name}: {NO_SLIDE}",
        "the file is damaged or its format is unsupported: copy it again or convert it",
    )
