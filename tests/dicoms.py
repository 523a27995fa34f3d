"""Small DICOM files, written byte by byte or with pydicom."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.33"


def write_other(path: Path, sop_class: str = SEGMENTATION, series: str = "1.9") -> Path:
    """A DICOM file that holds no slide."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop_class, generate_uid()
    made.SeriesInstanceUID = series
    return _save(made, path)


def write_wsi(
    path: Path,
    pixels: np.ndarray,
    *,
    series: str,
    mpp: float = 1.0,
    kind: Sequence[str] = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
    implicit: bool = False,
    optical_paths: int = 1,
    instance: str | None = None,
) -> Path:
    """A whole slide image of one uncompressed tile, which OpenSlide opens."""
    height, width = pixels.shape[:2]
    made = Dataset()
    made.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.SOPInstanceUID = instance or generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.1", series
    made.FrameOfReferenceUID = "1.1.1"
    made.ImageType, made.Modality = list(kind), "SM"
    made.SamplesPerPixel, made.PhotometricInterpretation = 3, "RGB"
    made.PlanarConfiguration, made.PixelRepresentation = 0, 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.Rows, made.Columns = height, width
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = height, width
    made.NumberOfFrames = optical_paths
    made.DimensionOrganizationType = "TILED_FULL"
    made.NumberOfOpticalPaths, made.TotalPixelMatrixFocalPlanes = optical_paths, 1
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    measures = Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([measures])
    made.SharedFunctionalGroupsSequence = Items([shared])
    made.PixelData = pixels.tobytes() * optical_paths
    made["PixelData"].VR = "OB"
    return _save(made, path, implicit=implicit)


def _save(made: Dataset, path: Path, *, implicit: bool = False) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = (
        ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    )
    meta.MediaStorageSOPClassUID = made.SOPClassUID
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """An element in explicit VR, little-endian."""
    if kind in (b"SQ", b"UN", b"OB"):
        return struct.pack("<HH2sHI", group, number, kind, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value
