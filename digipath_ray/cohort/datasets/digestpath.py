"""DigestPath 2019: colon tissue, JPEGs with JPEG masks."""

import re
from pathlib import Path

from digipath_ray.cohort.datasets.files import (
    DatasetCohort,
    files_by_id,
    note_unannotated,
    other_layout,
    slide_row,
    walk,
)

DIGESTPATH_LAYOUT = """\
  tissue-train-pos-v1/NAME.jpg and NAME_mask.jpg
  tissue-train-neg/NAME.jpg"""


def read_digestpath2019(folder: Path) -> DatasetCohort:
    """Read the tissue part of DigestPath 2019: images with and without lesions.

    Patients are not published: the file name up to the scan date, without the block
    number, is used instead.
    """
    files = [f for f in walk(folder) if f.suffix.lower() in (".jpg", ".jpeg", ".png")]
    kinds = {f: _digestpath_kind(folder, f) for f in files}
    images = [f for f, kind in kinds.items() if kind and not _is_digestpath_mask(f)]
    if not images:
        raise other_layout(folder, "DigestPath 2019", DIGESTPATH_LAYOUT)
    masks = files_by_id([f for f in files if kinds[f] == "pos"], r".+_mask\.\w+")
    rows = []
    for slide_id, path in files_by_id(images, r".+").items():
        positive = kinds[path] == "pos"
        row = slide_row(
            path.stem,
            path,
            "tumor" if positive else "negative",
            masks.get(f"{slide_id}_mask") if positive else None,
            "train",
            patient_id=_digestpath_patient(path.stem),
        )
        rows.append(row)
    note = (
        "the images have no mpp: give --slide-mpp, or add a column mpp (the "
        "publications give both 0.25 and 20x, about 0.5)"
    )
    return DatasetCohort(rows=rows, notes=[note, *note_unannotated(rows)])


def _digestpath_kind(folder: Path, path: Path) -> str | None:
    for part in path.relative_to(folder.parent).parts[:-1]:
        named = re.match(r"tissue-train-(pos|neg)", part.lower().replace("_", "-"))
        if named:
            return named[1]
    return None


def _is_digestpath_mask(path: Path) -> bool:
    return path.stem.lower().endswith("_mask")


def _digestpath_patient(stem: str) -> str:
    """``2018_64982`` of ``2018_64982_1-3_2019-02-25 21_57_36-lv1-31039-20240-5580``."""
    before_date = re.split(r"_?20\d\d-\d\d-\d\d", stem)[0]
    return re.sub(r"(_\d+-\d+|-\d+|S\d+)$", "", before_date) or stem
