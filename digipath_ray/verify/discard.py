"""Damaged results taken out of a run, so that the next start makes them again."""

from collections.abc import Sequence
from dataclasses import replace

from digipath_ray.cohort.manifest import read_manifest
from digipath_ray.run.checksums import unseal
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import place
from digipath_ray.verify.faults import Fault


def discard_damaged(
    run: RunDirectory, faults: Sequence[Fault]
) -> tuple[list[str], list[str]]:
    """Discard what is damaged of finished slides.

    A slide of which only files are damaged that follow from its heatmap keeps this, and
    is measured again. Nothing is discarded of a slide that is not there any more.

    Args:
        run: the run, which nobody writes to.
        faults: what was found wrong with it.

    Returns:
        The slides whose results were discarded, and those that were left alone.

    Raises:
        RunError: the run is in use.
    """
    by_slide: dict[str, list[Fault]] = {}
    for fault in faults:
        if fault.slide_id is not None:
            by_slide.setdefault(fault.slide_id, []).append(fault)
    discarded, kept = [], []
    with run.lock():
        unseal(run)
        places = {row.slide_id: row.path for row, _ in read_manifest(run.manifest)}
        for slide_id, found in by_slide.items():
            if all(fault.kinds for fault in found):
                _have_measured_again(run, slide_id, found)
            elif slide_id in places and place(places[slide_id]).exists():
                run.forget(slide_id)
            else:
                kept.append(slide_id)
                continue
            discarded.append(slide_id)
    return discarded, kept


def _have_measured_again(
    run: RunDirectory, slide_id: str, faults: Sequence[Fault]
) -> None:
    """Remove files that follow from the heatmap, and the note that they were made."""
    record = run.read_record(slide_id)
    kinds = {kind for fault in faults for kind in fault.kinds}
    for kind in kinds:
        run.slide_files(slide_id)[kind].unlink(missing_ok=True)
    files = {k: digest for k, digest in record.files.items() if k not in kinds}
    run.write_record(replace(record, measured=None, files=files))
