"""Export of a finished run to CSV, GeoJSON and DICOM.

:mod:`tables` writes CSV for spreadsheets, :mod:`outlines` GeoJSON for QuPath,
:mod:`segmentation` DICOM segmentations (needs the extra ``dicom``).
"""

from digipath_ray.export.formats import FORMATS, Exported, export_run

__all__ = ["FORMATS", "Exported", "export_run"]
