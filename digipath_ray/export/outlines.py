"""Lesion outlines as GeoJSON for QuPath, one file per slide."""

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
        path = out / run.lesions(slide_id).name
        with publish(path) as temporary:
            temporary.write_bytes(read_bytes(run.lesions(slide_id)))
        files.append(path)
    return files, [slide_id for slide_id in slide_ids if slide_id not in found]
