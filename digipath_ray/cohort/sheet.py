"""Tables that people keep: CSV, TSV or Parquet, read as rows of named cells."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from digipath_ray.cohort.manifest import MISSING_TEXTS

Rows = list[tuple[str, dict[str, Any]]]


def read_rows(path: Path) -> Rows:
    """Rows of a CSV, TSV or Parquet as column -> cell, each with its place in words.

    Raises:
        OSError: no such file.
        ValueError: it is no such table.
    """
    try:
        if path.suffix.lower() == ".parquet":
            found = parquet.read_table(path).to_pylist()
            return [(f"{path}, row {i}", row) for i, row in enumerate(found, start=1)]
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=_delimiter(file.readline(), path))
            file.seek(0)
            return [(f"{path}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as e:
        raise ValueError(f"{path}: not a table (CSV in UTF-8, Parquet): {e}") from e


def _delimiter(header: str, path: Path) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The column with the first of some names that there is.

    As in a manifest, in any case, with dashes, underscores or spaces.
    """
    known = {_squash(column): column for column in columns}
    return next((known[_squash(n)] for n in names if _squash(n) in known), None)


def _squash(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def cell_text(cell: object) -> str:
    """A cell as text, empty where it says nothing; a whole float (an id) as an int."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = "" if cell is None else str(cell).strip()
    return "" if text in MISSING_TEXTS else text
