"""Slides whose headers, labels and names hold a patient, and a search for them."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from tests.dicoms import write_wsi
from tests.hamamatsu import MACRO, ndpi_bytes
from tests.runs import GLASS, paint
from tests.slides import Pixels

PLANTED = (
    "PLANTED", "ACC-7731", "MRN-4482", "19501231", "OPERATOR-9", "BARCODE-55",
)  # fmt: skip
"""What the headers of the slides below hold, and no result may."""
LABEL = (0, 255, 255)
"""Color of all labels and macro images: no tissue, glass or colormap has it."""
TEXT = "Patient = PLANTED^PATIENT|Accession = ACC-7731|MRN = MRN-4482|Born = 19501231"


def tissue(*, width: int = 200, height: int = 160, seed: int = 0) -> Pixels:
    """Tissue of random green in a margin of glass."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    coarse = rng.random((height // 8, width // 8))
    inside = (slice(24, height - 24), slice(24, width - 24))
    pixels[inside] = paint(np.kron(coarse, np.ones((8, 8))))[inside]
    return pixels


def write_svs(path: Path, *, mpp: str = "1.0", seed: int = 0) -> Path:
    """An Aperio slide with a label, a macro image, an XMP packet and personal tags."""
    head = "Aperio Image Library v12.0.15\r\n200x160"
    xmp = b"<x:xmpmeta><dc:creator>PLANTED^PATIENT ACC-7731</dc:creator></x:xmpmeta>"
    personal = [
        (315, "s", 0, "PLANTED OPERATOR-9", True),  # Artist
        (316, "s", 0, "PLANTED-HOST", True),  # HostComputer
        (700, "B", len(xmp), xmp, True),  # XMP
        (33432, "s", 0, "PLANTED^PATIENT", True),  # Copyright
    ]
    pixels = tissue(seed=seed)
    plain = np.full((60, 80, 3), LABEL, np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, pixels[::2, ::2]):
            tiff.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                description=f"{head} (64x64) JPEG/RGB Q=70|AppMag = 10|MPP = {mpp}"
                f"|{TEXT}|User = OPERATOR-9|Filename = ACC-7731|Barcode = BARCODE-55",
                extratags=personal,
                metadata=None,
            )
        for name in ("label", "macro"):
            tiff.write(
                plain,
                photometric="rgb",
                rowsperstrip=60,
                compression="lzw",
                description=f"{head}\r\n{name} 80x60|{TEXT}",
                subfiletype=1 if name == "label" else 9,
                metadata=None,
            )
    return path


def write_ndpi(path: Path, *, seed: int = 0) -> Path:
    """A Hamamatsu slide with a picture of its glass, label and personal tags."""
    pixels = tissue(seed=seed)
    macro = np.full((60, 80, 3), LABEL, np.uint8)
    levels = [(pixels, 20.0), (pixels[::2, ::2], 10.0), (macro, MACRO)]
    texts = {
        306: "2020:01:01 10:10:10 PLANTED",  # DateTime
        315: "PLANTED OPERATOR-9",  # Artist
        316: "PLANTED-HOST",  # HostComputer
        65427: "ACC-7731 PLANTED^PATIENT",  # Reference: what is written on the slide
        65442: "PLANTED-SCANNER",  # its serial number
        65449: f"Product=NDP\r\n{TEXT}\r\nBarcode=BARCODE-55\r\n",  # properties
        65468: "BARCODE-55",
    }
    path.write_bytes(ndpi_bytes(levels, mpp=1.0, texts=texts))
    return path


def write_dicom(folder: Path, *, seed: int = 0) -> Path:
    """A DICOM slide of a named patient in a folder, with its label beside it."""
    label = np.full((64, 64, 3), LABEL, np.uint8)
    kind = ("ORIGINAL", "PRIMARY", "LABEL", "NONE")
    for name, pixels, more in (
        ("level", tissue(seed=seed), {}),
        ("label", label, {"kind": kind}),
    ):
        path = write_wsi(folder / f"{name}.dcm", pixels, series="1.77", **more)
        image = pydicom.dcmread(path)
        describe_patient(image)
        image.save_as(path, enforce_file_format=True)
    return folder / "level.dcm"


def describe_patient(image: Dataset) -> None:
    """What a scanner's work list puts into a DICOM header, private tags too."""
    image.PatientName, image.PatientID = "PLANTED^PATIENT", "MRN-4482"
    image.PatientBirthDate, image.PatientSex = "19501231", "F"
    image.AccessionNumber, image.StudyID = "ACC-7731", "ACC-7731"
    image.StudyDate, image.StudyTime = "20200101", "101010"
    image.ReferringPhysicianName = "PLANTED^REFERRER"
    image.OperatorsName = "PLANTED^OPERATOR-9"
    image.InstitutionName = "PLANTED Hospital"
    image.StudyDescription = image.SeriesDescription = "PLANTED biopsy"
    image.PatientComments = image.ImageComments = "PLANTED comment"
    image.OtherPatientIDs = "MRN-4482"
    image.LabelText, image.BarcodeValue = "PLANTED ACC-7731", "BARCODE-55"
    image.ContainerIdentifier = "ACC-7731-A"
    specimen = Dataset()
    specimen.SpecimenIdentifier = "ACC-7731-A1"
    specimen.SpecimenUID = "1.88"
    specimen.SpecimenShortDescription = "PLANTED node"
    specimen.SpecimenDetailedDescription = "PLANTED node of MRN-4482"
    specimen.SpecimenPreparationSequence = Items([])
    image.SpecimenDescriptionSequence = Items([specimen])
    block = image.private_block(0x1129, "PLANTED SCANNER", create=True)
    block.add_new(0x01, "LO", "PLANTED private")
    image.TotalPixelMatrixOriginSequence = Items([Dataset()])
    origin = image.TotalPixelMatrixOriginSequence[0]
    origin.XOffsetInSlideCoordinateSystem = 20.0
    origin.YOffsetInSlideCoordinateSystem = 50.0
    measures = image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SliceThickness = 0.004


def write_picture(path: Path, *, seed: int = 0) -> Path:
    """A plain PNG with texts and EXIF."""
    said = PngImagePlugin.PngInfo()
    said.add_text("Author", "PLANTED OPERATOR-9")
    said.add_itxt("XML:com.adobe.xmp", "PLANTED^PATIENT ACC-7731", zip=True)
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "PLANTED^PATIENT MRN-4482", "OPERATOR-9"
    Image.fromarray(tissue(seed=seed)).save(path, pnginfo=said, exif=exif)
    return path


def write_generic(path: Path, *, seed: int = 0) -> Path:
    """A tiled TIFF whose description and tags name a patient."""
    tifffile.imwrite(
        path,
        tissue(seed=seed),
        tile=(64, 64),
        photometric="rgb",
        compression="deflate",
        resolution=(10_000, 10_000),
        resolutionunit="CENTIMETER",
        description=TEXT,
        extratags=[(315, "s", 0, "PLANTED OPERATOR-9", True)],
        metadata=None,
    )
    return path


def truncated(path: Path, source: Path) -> Path:
    """The first part of a file: headers that can be read, pixels that cannot."""
    data = source.read_bytes()
    path.write_bytes(data[: len(data) // 3])
    return path


# The search


def readings(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's bytes as they are, and what is compressed in it: (where, bytes)."""
    yield name, data
    if data[:4] == b"PAR1":
        table = pq.read_table(io.BytesIO(data))
        yield f"{name} schema", repr((table.schema, table.schema.metadata)).encode()
        yield f"{name} rows", repr(table.to_pylist()).encode()
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            for page in tiff.pages:
                tags = [(tag.code, tag.value) for tag in page.tags.values()]
                yield f"{name} tags", repr(tags).encode()
    elif data[:8] == b"\x89PNG\r\n\x1a\n" or data[:3] == b"\xff\xd8\xff":
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            told = (image.info, dict(image.getexif()))
            yield f"{name} info", repr(told).encode()
    elif data[128:132] == b"DICM":
        yield f"{name} header", str(pydicom.dcmread(io.BytesIO(data))).encode()
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield f"{name}/{member}", archive.read(member)


def find_planted(name: str, data: bytes, planted: Iterable[str] = PLANTED) -> list[str]:
    """Which planted texts a file or an answer holds, in UTF-8 or UTF-16, and where."""
    found = []
    for where, reading in readings(name, data):
        lowered = reading.lower()
        found += [
            f"{text} in {where}"
            for text in planted
            for encoding in ("utf-8", "utf-16-le", "utf-16-be")
            if text.lower().encode(encoding) in lowered
        ]
    return found


def search_folder(
    folder: Path, planted: Iterable[str] = PLANTED, *, but: Iterable[str] = ()
) -> list[str]:
    """Planted texts in names and content of all files below a folder, few left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.is_symlink() and name not in but:
            found += find_planted(name, name.encode(), planted)
            found += find_planted(name, path.read_bytes(), planted)
    return found


def shows_label(pixels: NDArray[np.uint8]) -> bool:
    """Whether an image [height, width, 3] has the color of the labels."""
    away = np.abs(pixels[..., :3].astype(int) - LABEL).max(axis=-1)
    return bool((away < 40).any())
