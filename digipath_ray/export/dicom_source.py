"""Source DICOM image of a segmentation: the slide's own, or a synthesized one.

A slide in another format gets the attributes of a DICOM whole-slide image. Its UIDs are
deterministic. As its position on the glass is unknown, it is put in the middle of it.
"""

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from highdicom.content import SpecimenDescription
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage
from pydicom.valuerep import format_number_as_ds

from digipath_ray.storage.cache import local_copy

ORIENTATION = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)
"""Orientation of rows and columns in the slide's frame, as scanners write it
(label left)."""
GLASS_MM = (25.0, 75.0)
"""Glass along x and y of the slide's frame, whose origin is a corner of it."""
TILE_PX = 512
"""Attributes of the referenced image; its pixels are never read."""
SECTION_MM = 0.004
"""Usual section thickness; slides do not state it, but DICOM requires it."""
UNKNOWN_ID = "unknown"


def derive_uid(*parts: object) -> UID:
    """Deterministic UID of what it identifies."""
    name = " ".join(str(part) for part in parts)
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'digipath_ray {name}').int}")


def shorten(text: str) -> str:
    """Text as a DICOM long string: 64 bytes, no backslash (it separates values)."""
    return text.replace("\\", "/").encode()[:64].decode(errors="ignore")


def find_source(slide: Mapping[str, Any]) -> Dataset:
    """The slide's own DICOM image at level 0, or a synthesized one.

    Args:
        slide: row of the slide in SLIDES.
    """
    own = None
    if Path(slide["path"]).suffix.lower() in (".dcm", ""):
        with contextlib.suppress(FileNotFoundError), local_copy(slide["path"]) as copy:
            size = {"width": slide["width"], "height": slide["height"]}
            own = read_source(copy.path, **size) if copy.path.is_file() else None
    return make_source(slide) if own is None else own


def read_source(path: Path, *, width: int, height: int) -> Dataset | None:
    """Find the image of ``width`` x ``height`` px in the series of a DICOM file."""
    first = _read_header(path)
    if first is None or first.SOPClassUID != VLWholeSlideMicroscopyImageStorage:
        return None
    for other in (path, *sorted(path.parent.iterdir())):
        header = _read_header(other) if other.is_file() else None
        if (
            header is not None
            and header.get("SeriesInstanceUID") == first.SeriesInstanceUID
            and "VOLUME" in header.ImageType
            and header.TotalPixelMatrixColumns == width
            and header.TotalPixelMatrixRows == height
        ):
            return header
    return None


def _read_header(path: Path) -> Dataset | None:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        return None


def make_source(slide: Mapping[str, Any]) -> Dataset:
    """Synthesize the attributes of a DICOM whole-slide image for the slide."""
    named = (slide["path"], slide["slide_id"], slide["width"], slide["height"])
    patient = slide.get("patient_id")
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    image.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    image.SOPInstanceUID = derive_uid("image", *named)
    image.StudyInstanceUID = derive_uid("study", patient or named)
    image.SeriesInstanceUID = derive_uid("series", *named)
    image.FrameOfReferenceUID = derive_uid("frame of reference", *named)
    image.PositionReferenceIndicator = "SLIDE_CORNER"
    image.Modality = "SM"
    image.PatientID = shorten(patient or UNKNOWN_ID)
    for empty in (
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
        "ReferringPhysicianName",
    ):
        setattr(image, empty, "")
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    _add_matrix(image, slide)
    _add_specimen(image, str(slide["slide_id"]), named)
    return image


def _add_matrix(image: Dataset, slide: Mapping[str, Any]) -> None:
    width, height = slide["width"], slide["height"]
    image.Rows = image.Columns = TILE_PX
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows = width, height
    image.TotalPixelMatrixFocalPlanes = 1
    image.NumberOfOpticalPaths = 1
    image.NumberOfFrames = -(-width // TILE_PX) * -(-height // TILE_PX)
    image.DimensionOrganizationType = "TILED_FULL"
    image.ImageOrientationSlide = list(ORIENTATION)
    origin = Dataset()
    x_mm, y_mm = place_on_glass(
        along_x=height * slide["mpp_y"] / 1000, along_y=width * slide["mpp_x"] / 1000
    )
    origin.XOffsetInSlideCoordinateSystem = format_number_as_ds(x_mm)
    origin.YOffsetInSlideCoordinateSystem = format_number_as_ds(y_mm)
    image.TotalPixelMatrixOriginSequence = DicomSequence([origin])
    measures = Dataset()
    # DICOM order: row spacing (y) first.
    spacing = (slide["mpp_y"] / 1000, slide["mpp_x"] / 1000)
    measures.PixelSpacing = [format_number_as_ds(mm) for mm in spacing]
    measures.SliceThickness = SECTION_MM
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([measures])
    image.SharedFunctionalGroupsSequence = DicomSequence([shared])


def place_on_glass(*, along_x: float, along_y: float) -> tuple[float, float]:
    """Offsets of the first pixel, mm, that put an image in the middle of the glass.

    As its rows and columns run against the axes (:data:`ORIENTATION`), its first pixel
    has the largest offsets. An image larger than the glass begins at 0.

    Args:
        along_x: length of the image along x, mm: its height.
        along_y: along y: its width.
    """
    return (
        max(along_x, (GLASS_MM[0] + along_x) / 2),
        max(along_y, (GLASS_MM[1] + along_y) / 2),
    )


def _add_specimen(image: Dataset, slide_id: str, named: Sequence[Any]) -> None:
    short = shorten(slide_id)
    image.ContainerIdentifier = short
    image.IssuerOfTheContainerIdentifierSequence = DicomSequence([])
    kind = Dataset()
    kind.CodeValue, kind.CodingSchemeDesignator = "433466003", "SCT"
    kind.CodeMeaning = "Microscope slide"
    image.ContainerTypeCodeSequence = DicomSequence([kind])
    specimen = SpecimenDescription(
        specimen_id=short, specimen_uid=derive_uid("specimen", *named)
    )
    image.SpecimenDescriptionSequence = DicomSequence([specimen])
    path = Dataset()
    path.OpticalPathIdentifier = "0"
    light = Dataset()
    brightfield = codes.DCM.BrightfieldIllumination
    light.CodeValue, light.CodingSchemeDesignator = brightfield.value, "DCM"
    light.CodeMeaning = brightfield.meaning
    path.IlluminationTypeCodeSequence = DicomSequence([light])
    image.OpticalPathSequence = DicomSequence([path])
