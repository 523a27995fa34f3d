"""Public datasets as cohorts: reads their folders as published into slide rows.

Files are found by name anywhere below the folder, so the layouts of the challenge pages
and their mirrors all work. Known errors of a dataset are listed as data in its reader,
with their source.
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
    """Read the slides of a published dataset from the folder it was unpacked in.

    A slide that is not negative is ``exhaustive`` only if it is fully annotated; a
    negative one always is.

    Raises:
        ValueError: the dataset or folder does not exist, the folder does not look like
            the dataset, or a slide has two files.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r}: choose from {', '.join(DATASETS)}")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: folder not found: check the spelling")
    cohort = DATASETS[name](folder.absolute())
    for row in cohort.rows:
        check_slide_id(row.slide_id, where=row.path, fix="rename the file")
    rows = sorted(cohort.rows, key=lambda row: row.slide_id)
    return DatasetCohort(rows=rows, notes=cohort.notes)
