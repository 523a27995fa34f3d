"""Export formats by name."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export.

    Attributes:
        files: written files, in order.
        left_out: what was skipped and why, one sentence each.
    """

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


def export_run(
    run: RunDirectory, out: Path, *, format: str, with_patient: bool = False
) -> Exported:
    """Export a finished run to a folder; existing files are replaced.

    Args:
        run: the run.
        out: the folder.
        format: of FORMATS.
        with_patient: dicom-seg alone: name the patient of the slide's header, or of
            the manifest.

    Raises:
        RunError: not a run directory, or no slide is finished.
        ValueError: unknown format, or one that needs an extra that is not installed;
            or ``with_patient`` with another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: choose from {', '.join(FORMATS)}")
    if with_patient and format != "dicom-seg":
        raise ValueError(
            f"--with-patient with {format}: it is for --format dicom-seg alone, the "
            "other formats hold nothing of a slide's header"
        )
    if not run.settings.is_file():
        raise RunError(
            f"{run.root}: not a run directory, run.toml is missing: give the folder "
            "of digipath run --out"
        )
    if with_patient:
        return _dicom_seg(run, out, with_patient=True)
    return FORMATS[format](run, out)


def _csv(run: RunDirectory, out: Path) -> Exported:
    from digipath_ray.export.csv_tables import write_tables

    return Exported(files=tuple(write_tables(run, out)))


def _geojson(run: RunDirectory, out: Path) -> Exported:
    from digipath_ray.export.outlines import copy_outlines

    files, missing = copy_outlines(run, out)
    left_out = tuple(f"{i}: no outlines in lesions/" for i in missing)
    return Exported(files=tuple(files), left_out=left_out)


def _dicom_seg(run: RunDirectory, out: Path, *, with_patient: bool = False) -> Exported:
    if find_spec("highdicom") is None:
        raise ValueError(
            "DICOM needs highdicom, which is not installed: "
            "pip install 'digipath_ray[dicom]'"
        )
    from digipath_ray.export.dicom_seg import write_segmentations

    files, missing = write_segmentations(run, out, with_patient=with_patient)
    left_out = tuple(f"{i}: {why}" for i, why in missing.items())
    return Exported(files=tuple(files), left_out=left_out)


FORMATS: dict[str, Callable[[RunDirectory, Path], Exported]] = {
    "csv": _csv,
    "geojson": _geojson,
    "dicom-seg": _dicom_seg,
}
