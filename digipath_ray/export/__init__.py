"""A finished run in the formats of other programs: CSV, GeoJSON, DICOM.

:mod:`tables` writes what spreadsheets read, :mod:`outlines` what QuPath opens,
:mod:`segmentation` DICOM segmentations (needs the extra ``dicom``).
"""

from digipath_ray.export.formats import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
