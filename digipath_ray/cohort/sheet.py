"""Tables that people keep (CSV, TSV, Parquet): rows of cells, and cells as text."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from digipath_ray.storage.files import open_file, read_table

MISSING = frozenset(
    ("", "-", "--", "na", "n/a", "#n/a", "nan", "nat", "none", "null", "nil", "<na>")
)
"""What spreadsheets, pandas, R and databases write for a missing cell, in any case."""
DELIMITERS = (",", ";", "\t")
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
SAVE_AS_CSV = (
    "a spreadsheet program's own file: save it as CSV (in Excel: Save As, CSV UTF-8) "
    "and name that"
)
ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
"""How .xlsx, .ods and .xls begin, whatever they are called."""
Rows = list[tuple[str, dict[str, Any]]]
"""Rows as column -> cell, each with its place (file and line) as text."""


def read_sheet(path: Path) -> tuple[list[str], Rows]:
    """Columns and rows of a table; the cells of a CSV or TSV are text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such table, or a row has more cells than the header.
    """
    check_no_workbook(path)
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)


def check_no_workbook(path: Path) -> None:
    """Refuse a spreadsheet program's own file, by its name.

    Raises:
        ValueError: says to save it as CSV.
    """
    if path.suffix.lower() in WORKBOOKS:
        raise ValueError(f"{path}: {SAVE_AS_CSV}")


def _read_csv(path: Path) -> tuple[list[str], Rows]:
    rows: Rows = []
    try:
        with open_file(path) as raw:
            if raw.read(4) in (ZIP, OLE):
                raise ValueError(f"{path}: {SAVE_AS_CSV}")
            raw.seek(0)
            file = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            lines = list(file)
        first, delimiter = _header(path, lines)
        reader = csv.reader(lines[first:], delimiter=delimiter, strict=True)
        columns = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            where = f"{path}, line {first + reader.line_num}"
            if not any(cell.strip() for cell in cells) or _is_comment(cells):
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()  # separators that a spreadsheet leaves at a line's end
            if len(cells) > len(columns):
                title = ", and remove a title above their names"
                raise ValueError(
                    f"{where}: {len(cells)} cells for {len(columns)} columns: "
                    'put a text that holds the separator in "quotes"'
                    f"{title if len(columns) == 1 else ''}"
                )
            rows.append((where, dict(zip(columns, cells, strict=False))))
    except (UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"{path}: not a CSV in UTF-8 ({e}): save it as one") from e
    return columns, rows


def _is_comment(cells: Sequence[str]) -> bool:
    """Whether a row between others is a comment, not a slide called ``#5``."""
    first, *others = cells
    if first.startswith("# "):
        return True
    return first.startswith("#") and not any(cell.strip() for cell in others)


def _header(path: Path, lines: Sequence[str]) -> tuple[int, str]:
    """Number of the header's line, and what separates its cells.

    Empty lines and comments (``#``) above it are skipped, and Excel's ``sep=;``, which
    states the separator.
    """
    stated = "\t" if path.suffix.lower() == ".tsv" else None
    for number, line in enumerate(lines):
        text = line.strip("\r\n ")
        if text[:4].lower() == "sep=" and text[4:] in DELIMITERS:
            stated = text[4:]
        elif text.strip(",;\t ") and not text.startswith("#"):
            # Of equals the comma, which comes first.
            return number, stated or max(DELIMITERS, key=line.count)
    return 0, ","


def _read_parquet(path: Path) -> tuple[list[str], Rows]:
    try:
        table = read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as e:
        raise ValueError(f"{path}: not a Parquet file ({e}): write it again") from e
    columns = [c for c in table.column_names if not c.startswith("__index_level_")]
    rows = table.select(columns).to_pylist()
    return columns, [(f"{path}, row {i}", row) for i, row in enumerate(rows, start=1)]


def squash(name: str) -> str:
    """A column name without case, dashes, underscores and spaces."""
    return "".join(c for c in name.lower() if c.isalnum())


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """The first of some names that is a column, in whatever spelling it has there."""
    known = {squash(column): column for column in columns}
    return next((known[squash(n)] for n in names if squash(n) in known), None)


def cell_text(cell: object) -> str:
    """A cell as text, "" if it is MISSING; a whole float (pandas' ids) as an int."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = "" if cell is None else str(cell).strip()
    return "" if text.lower() in MISSING else text
