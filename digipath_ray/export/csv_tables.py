"""Tables of a run as CSV, with a description of their columns."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage.files import publish, read_table

SEPARATOR = ";"
"""Separator of list items in a cell."""
PRIVATE = ("path",)
"""Columns that are not exported: paths name people; the run's manifest.csv has them."""
DICTIONARY = "columns.csv"
"""Description and unit of every column."""


def write_tables(run: RunDirectory, out: Path) -> list[Path]:
    """Write each table of the run as CSV, and the description of their columns.

    A missing value is an empty cell, booleans are true and false, list items are
    separated by semicolons, numbers have full precision. Paths of slides are left out.

    Raises:
        RunError: the run has no tables.
    """
    found = [
        path
        for path in (run.outcomes, run.features, run.patients, run.failures)
        if path.is_file()
    ]
    if not found:
        raise RunError(f"{run.root} has no tables: no slide is finished")
    files, columns = [], []
    for path in found:
        table = read_table(path)
        table = table.drop_columns([c for c in PRIVATE if c in table.column_names])
        files.append(
            _write_csv(out / f"{path.stem}.csv", table.column_names, _cells(table))
        )
        columns += [(path.stem, f.name, str(f.type), _doc(f)) for f in table.schema]
    head = ("table", "column", "kind", "meaning")
    files.append(_write_csv(out / DICTIONARY, head, columns))
    return files


def _cells(table: pa.Table) -> Iterator[list[str]]:
    for row in table.to_pylist():
        yield [format_cell(value) for value in row.values()]


def format_cell(value: Any) -> str:
    """Format a value so that it parses back to the same value."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return SEPARATOR.join(format_cell(part) for part in value)
        case _:
            return str(value)


def _doc(field: pa.Field) -> str:
    return (field.metadata or {}).get(b"doc", b"").decode("utf-8", "replace")


def _write_csv(
    path: Path, head: Sequence[str], rows: Iterator[list[str]] | Sequence[Sequence[str]]
) -> Path:
    with (
        publish(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
    return path
