"""Source DICOM image of a segmentation: the slide's own, or a synthesized one.

A slide in another format gets the attributes of a DICOM whole-slide image. Its UIDs are
deterministic. As its position on the glass is unknown, it is put in the middle of it.

Unless the patient is asked for, a segmentation names none: of the slide's own image
only what places and references it is taken (:data:`PLACING`), everything else is made
anew. That keeps the UIDs, as the Retain UIDs Option of DICOM PS3.15, table E.1-1, does:
without them no viewer could lay the segmentation over its slide.
"""

import contextlib
import hashlib
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
PLACING = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
    "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths",
    "DimensionOrganizationType",
    "ImageOrientationSlide",
)
"""Attributes of a slide's own image that say where it lies and what it is called."""
OFFSETS = (
    "XOffsetInSlideCoordinateSystem",
    "YOffsetInSlideCoordinateSystem",
    "ZOffsetInSlideCoordinateSystem",
)
REMOVED = "Patient, study and specimen removed, UIDs retained: digipath_ray"
"""How the patient's identity was removed."""


def derive_uid(*parts: object) -> UID:
    """Deterministic UID of what it identifies."""
    name = " ".join(str(part) for part in parts)
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'digipath_ray {name}').int}")


def shorten(text: str) -> str:
    """Text as a DICOM long string: 64 bytes, no backslash (it separates values)."""
    return text.replace("\\", "/").encode()[:64].decode(errors="ignore")


def find_source(slide: Mapping[str, Any], *, with_patient: bool = False) -> Dataset:
    """The slide's own DICOM image at level 0, or a synthesized one.

    Args:
        slide: row of the slide in SLIDES.
        with_patient: keep patient, study and specimen of the slide's header, or name
            the manifest's patient where it has none; else they are de-identified.
    """
    own = None
    if Path(slide["path"]).suffix.lower() in (".dcm", ""):
        with contextlib.suppress(FileNotFoundError), local_copy(slide["path"]) as copy:
            size = {"width": slide["width"], "height": slide["height"]}
            own = read_source(copy.path, **size) if copy.path.is_file() else None
    if own is not None and with_patient:
        return own
    made = make_source(slide, with_patient=with_patient)
    if own is not None:
        place_like(made, own)
    if not with_patient:
        # One ID a study: DICOM has a study belong to one patient.
        made.PatientID = f"ANON-{uid_digest(made.StudyInstanceUID)}"
    return made


def place_like(made: Dataset, own: Dataset) -> None:
    """Give a made image the place, scale and UIDs of a slide's own, nothing else."""
    for name in PLACING:
        if name in own:
            setattr(made, name, getattr(own, name))
    origin, measures = Dataset(), Dataset()
    for name in OFFSETS:
        if (value := own.TotalPixelMatrixOriginSequence[0].get(name)) is not None:
            setattr(origin, name, value)
    theirs = own.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = theirs.PixelSpacing
    measures.SliceThickness = theirs.get("SliceThickness") or SECTION_MM
    shared = Dataset()
    shared.PixelMeasuresSequence = DicomSequence([measures])
    made.TotalPixelMatrixOriginSequence = DicomSequence([origin])
    made.SharedFunctionalGroupsSequence = DicomSequence([shared])


def uid_digest(uid: str) -> str:
    """16 hex digits of a UID's SHA-256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:16]


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


def make_source(slide: Mapping[str, Any], *, with_patient: bool = False) -> Dataset:
    """Synthesize the attributes of a DICOM whole-slide image for the slide.

    Args:
        slide: row of the slide in SLIDES.
        with_patient: name the manifest's patient, whose slides are then one study.
    """
    # No path and no patient: who guesses a name could confirm it by the UID.
    named = (slide["slide_id"], slide.get("digest"), slide["width"], slide["height"])
    patient = slide.get("patient_id") if with_patient else None
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
