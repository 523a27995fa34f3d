"""The public datasets as cohorts: folders as they were published become slide rows.

Files are found by their names, wherever below the folder they lie, so the layouts of
the challenges' own pages and of their mirrors all do. What is known to be wrong with a
dataset stands beside its reader as data, with its source.
"""

from collections.abc import Callable
from pathlib import Path

from digipath_ray.cohort.datasets.camelyon import read_camelyon16, read_camelyon17
from digipath_ray.cohort.datasets.digestpath import read_digestpath2019
from digipath_ray.cohort.datasets.files import DatasetCohort
from digipath_ray.cohort.datasets.paip import read_paip2019
from digipath_ray.cohort.manifest import check_slide_id

__all__ = ["DATASETS", "DatasetCohort", "read_dataset"]

DATASETS: dict[str, Callable[[Path], DatasetCohort]] = {
    "camelyon16": read_camelyon16,
    "camelyon17": read_camelyon17,
    "paip2019": read_paip2019,
    "digestpath2019": read_digestpath2019,
}


def read_dataset(name: str, folder: str | Path) -> DatasetCohort:
    """The slides of a published dataset, given the folder that it was unpacked in.

    A slide whose label is not negative is ``exhaustive`` only if it is annotated, and
    wholly; a negative one always is.

    Raises:
        ValueError: no such dataset or folder, one that does not look like the dataset,
            or two files for one slide.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r}: choose from {', '.join(DATASETS)}")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: check the spelling")
    cohort = DATASETS[name](folder.absolute())
    for row in cohort.rows:
        check_slide_id(row.slide_id, where=row.path, fix="rename the file")
    rows = sorted(cohort.rows, key=lambda row: row.slide_id)
    return DatasetCohort(rows=rows, notes=cohort.notes)
