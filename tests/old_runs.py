"""A run directory that commit 0e105a9 wrote, before [outcome] held the threshold.

Three small slides, of which it had finished two; pictures and report are left out.
"""

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ARCHIVE = Path(__file__).parent / "data" / "run_0e105a9.zip"
WRITTEN_AT = "/data/cohort"
"""Where the slides were."""


def unpack_run(folder: Path) -> tuple[Path, Path]:
    """The cohort and the run in a folder, every path in the run naming the cohort."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    cohort, run = folder / "cohort", folder / "run"
    for path in run.rglob("*"):
        if path.suffix == ".parquet":
            move_table(path, str(cohort))
        elif path.suffix in (".json", ".csv"):
            text = path.read_text("utf-8")
            path.write_text(text.replace(WRITTEN_AT, str(cohort)), "utf-8")
    return cohort, run


def move_table(path: Path, cohort: str) -> None:
    """Name another folder in a table's column ``path`` and in its metadata."""
    table = pq.read_table(path)
    metadata = {
        key: value.replace(WRITTEN_AT.encode(), cohort.encode())
        for key, value in (table.schema.metadata or {}).items()
    }
    if "path" in table.column_names:
        index = table.schema.get_field_index("path")
        field = table.schema.field(index)
        paths = [p.replace(WRITTEN_AT, cohort) for p in table["path"].to_pylist()]
        table = table.set_column(index, field, pa.array(paths, field.type))
    pq.write_table(table.replace_schema_metadata(metadata), path)
