"""Heatmaps as DICOM segmentations of their slides.

FRACTIONAL of type PROBABILITY keeps the map to 1/255, so readers can apply any
threshold; BINARY would fix one. Pixels that were not predicted are 0, as DICOM has no
missing value. Uncertainty maps are not exported. Viewers that draw only pixel sizes of
one of the slide's levels (Slim) need slides that were read without resampling.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from digipath_ray import __version__
from digipath_ray.export.dicom_source import (
    REMOVED,
    SECTION_MM,
    derive_uid,
    find_source,
)
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.identity import check_same
from digipath_ray.storage.files import is_url, publish

TILE_PX = 512
LEVELS = 255
"""Steps from a probability of 0 to 1."""
SERIES_NUMBER = 100
RESEARCH = "Tumor probability; for research use only"


def write_segmentations(
    run: RunDirectory, out: Path, *, with_patient: bool = False
) -> tuple[list[Path], dict[str, str]]:
    """Write ``<slide_id>.dcm`` per finished slide; also returns why some have none.

    Args:
        run: a run with finished slides.
        out: folder to write to.
        with_patient: name the patient, as :func:`make_segmentation` does.

    Raises:
        RunError: no slide is finished.
    """
    done = run.read_done()
    if not done:
        raise RunError(f"{run.root} has no finished slide")
    files: list[Path] = []
    left_out: dict[str, str] = {}
    for slide_id, record in done.items():
        try:
            if record.slide.digest is not None and not is_url(record.slide.path):
                since = "its heatmap was made"
                check_same(record.slide.path, record.slide.digest, since=since)
            heatmap = read_heatmap(run.heatmap(slide_id))
        except (ValueError, FileNotFoundError) as e:  # keep exporting the other slides
            left_out[slide_id] = str(e)
            continue
        made = make_segmentation(
            heatmap,
            record.slide.to_row(),
            digest=record.files["heatmap"],
            with_patient=with_patient,
        )
        path = out / f"{slide_id}.dcm"
        with publish(path) as temporary:
            made.save_as(temporary)
        files.append(path)
    return files, left_out


def make_segmentation(
    heatmap: Heatmap,
    slide: Mapping[str, Any],
    *,
    digest: str,
    with_patient: bool = False,
) -> hd.seg.Segmentation:
    """Build a DICOM segmentation of a heatmap's probability in the slide's frame.

    Args:
        heatmap: heatmap of the slide, with the same top-left corner.
        slide: row of the slide in SLIDES.
        digest: digest of the heatmap, from which the UIDs are derived.
        with_patient: take patient, study and specimen from the slide's own header, or
            the patient from the manifest. Else the segmentation names nobody: these
            attributes are empty or derived, which DICOM allows, and the slide's UIDs
            alone tie it to its slide.
    """
    source = find_source(slide, with_patient=with_patient)
    made = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=quantize(heatmap)[np.newaxis, :, :, np.newaxis],
        segmentation_type=hd.seg.SegmentationTypeValues.FRACTIONAL,
        fractional_type=hd.seg.SegmentationFractionalTypeValues.PROBABILITY,
        max_fractional_value=LEVELS,
        segment_descriptions=[describe_tumor(digest)],
        series_instance_uid=derive_uid("segmentation series", digest),
        series_number=SERIES_NUMBER,
        sop_instance_uid=derive_uid("segmentation", digest, source.SOPInstanceUID),
        instance_number=1,
        manufacturer="digipath_ray",
        manufacturer_model_name="digipath_ray",
        software_versions=__version__,
        device_serial_number="none",
        content_label="TUMOR",
        content_description=RESEARCH,
        transfer_syntax_uid=RLELossless,
        tile_pixel_array=True,
        tile_size=(TILE_PX, TILE_PX),
        pixel_measures=hd.PixelMeasuresSequence(
            # DICOM order: row spacing (y) first.
            pixel_spacing=(heatmap.mpp_y / 1000, heatmap.mpp_x / 1000),
            slice_thickness=SECTION_MM,
        ),
        plane_positions=[place_matrix(heatmap, source)],
    )
    made.PatientOrientation = None  # required attribute, empty if unknown
    if not with_patient:
        made.PatientIdentityRemoved = "YES"
        made.DeidentificationMethod = REMOVED
        made.LongitudinalTemporalInformationModified = "REMOVED"
    return made


def quantize(heatmap: Heatmap) -> NDArray[np.float32]:
    """Probability [height, width], rounded to the steps of DICOM."""
    p = np.where(heatmap.covered, heatmap.probability, 0)
    return np.asarray(np.rint(p * LEVELS) / LEVELS, np.float32)


def place_matrix(heatmap: Heatmap, source: Dataset) -> hd.PlanePositionSequence:
    """Position of the center of the heatmap's first pixel in the slide's frame, mm.

    The images share their outer corner, so their first pixel centers are half the
    difference of the pixel sizes apart (highdicom offsets are of centers).
    """
    measures = source.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    down_mm, right_mm = (float(v) for v in measures.PixelSpacing)
    origin = source.TotalPixelMatrixOriginSequence[0]
    start = np.array(
        [
            float(origin.XOffsetInSlideCoordinateSystem),
            float(origin.YOffsetInSlideCoordinateSystem),
            float(origin.get("ZOffsetInSlideCoordinateSystem") or 0.0),
        ]
    )
    cosines = np.array([float(v) for v in source.ImageOrientationSlide])
    right, down = cosines[:3], cosines[3:]
    shift_x = (heatmap.mpp_x / 1000 - right_mm) / 2
    shift_y = (heatmap.mpp_y / 1000 - down_mm) / 2
    return hd.PlanePositionSequence(
        coordinate_system=hd.CoordinateSystemNames.SLIDE,
        image_position=(start + right * shift_x + down * shift_y).tolist(),
        pixel_matrix_position=(1, 1),
    )


def describe_tumor(digest: str) -> hd.seg.SegmentDescription:
    """The only segment: neoplasm, found by a network."""
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumor",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="digipath_ray",
            version=__version__,
            family=codes.DCM.ArtificialIntelligence,
        ),
        tracking_uid=derive_uid("tumor", digest),
        tracking_id="tumor",
    )
