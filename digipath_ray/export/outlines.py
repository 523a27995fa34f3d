"""Outlines of lesions, classes and artifacts for QuPath, a GeoJSON file each."""

from pathlib import Path

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage.files import publish, read_bytes


def copy_outlines(run: RunDirectory, out: Path) -> tuple[list[Path], list[str]]:
    """Copy the outlines of finished slides; also returns the slides without any.

    Raises:
        RunError: no slide has outlines.
    """
    slide_ids = list(run.read_done())
    found = [slide_id for slide_id in slide_ids if run.lesions(slide_id).is_file()]
    if not found:
        raise RunError(f"{run.root} has no outlines: lesions/ is empty")
    files = []
    for slide_id in found:
        for source, name in (
            (run.lesions(slide_id), f"{slide_id}.geojson"),
            (run.class_outlines(slide_id), f"{slide_id}_classes.geojson"),
            (run.artifact_outlines(slide_id), f"{slide_id}_artifacts.geojson"),
        ):
            if source.is_file():
                with publish(out / name) as temporary:
                    temporary.write_bytes(read_bytes(source))
                files.append(out / name)
    return files, [slide_id for slide_id in slide_ids if slide_id not in found]
