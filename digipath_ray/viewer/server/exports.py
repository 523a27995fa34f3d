"""Content of downloads: outlines, heatmaps, tables."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from digipath_ray.export.csv_tables import format_cell
from digipath_ray.run.directory import RunDirectory
from digipath_ray.schema import OUTCOMES
from digipath_ray.storage import bucket
from digipath_ray.storage.files import is_url, read_bytes
from digipath_ray.viewer.collection.snapshot import FIRST, Entry, Snapshot
from digipath_ray.viewer.tiles.layers import NoMap
from digipath_ray.viewer.tiles.valuetiles import read_range

LESION_COLUMNS = (
    "number",
    "area_mm2",
    "perimeter_um",
    "major_axis_um",
    "feret_um",
    "eccentricity",
    "extent",
    "solidity",
    "mean_p",
    "max_p",
    "x_um",
    "y_um",
    "counted",
)
SLIDE_COLUMNS = ("slide_id", "patient_id", "node", "status", "attention", "reasons")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that start a formula in a spreadsheet."""
PART_BYTES = 1 << 20


def attachment(name: str) -> dict[str, str]:
    """Content-Disposition header for any file name (RFC 6266)."""
    plain = "".join(
        c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name
    )
    exact = quote(name, safe="")
    value = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"
    return {"content-disposition": value}


def find_outlines(entry: Entry, run: str) -> Path:
    """Find the GeoJSON of a run's lesions on a slide.

    Raises:
        NoMap: it does not exist.
    """
    return _find(entry, run, RunDirectory.lesions, "outlines")


def find_heatmap(entry: Entry, run: str) -> Path:
    """Find the OME-TIFF of a run's heatmap of a slide.

    Raises:
        NoMap: it does not exist.
    """
    return _find(entry, run, RunDirectory.heatmap, "heatmap")


def _find(
    entry: Entry, run: str, path_of: Callable[[RunDirectory, str], Path], what: str
) -> Path:
    held = entry.runs.get(run)
    path = None if held is None else held.find_finished(path_of)
    if path is None:
        raise NoMap(f"no {what} of this slide")
    return path


def read_outlines(entry: Entry, run: str) -> bytes:
    """Read the GeoJSON of a run's lesions on a slide, level-0 px.

    Raises:
        NoMap: it does not exist.
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    path = find_outlines(entry, run)
    try:
        data = read_bytes(path)
    except FileNotFoundError as e:
        raise NoMap("no outlines of this slide") from e
    try:
        json.loads(data)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path}: damaged: {e}: recompute the slide") from e
    return data


def size_of(path: Path) -> int:
    """Size of a file or object, bytes.

    Raises:
        OSError: it cannot be accessed.
    """
    if is_url(path):
        return bucket.head(path).size
    return path.stat().st_size


def read_parts(path: Path, size: int) -> Iterator[bytes]:
    """Read a file or object of ``size`` bytes in parts.

    Raises:
        OSError: it cannot be read.
    """
    for start in range(0, size, PART_BYTES):
        yield read_range(path, start, min(PART_BYTES, size - start))


def lesions_csv(entry: Entry, run: str) -> bytes:
    """CSV of a slide's lesions in a run, one row each."""
    lesions = entry.lesions.get(run, ())
    rows = ([lesion.get(name) for name in LESION_COLUMNS] for lesion in lesions)
    return write_csv(LESION_COLUMNS, rows)


def cohort_csv(snapshot: Snapshot, run: str) -> bytes:
    """CSV of all slides: payload columns and row of OUTCOMES.

    For the second run only its OUTCOMES, for slides in both runs, because payloads and
    failures are of the first run.
    """
    if run != FIRST:
        return _outcomes_csv(snapshot, run)
    measured = [name for name in OUTCOMES.names if name not in SLIDE_COLUMNS]
    head = (*SLIDE_COLUMNS, *measured, "error")

    def row(entry: Entry) -> list[Any]:
        outcome = entry.outcomes.get(FIRST, {})
        failure = entry.payload["failure"] or {}
        value = [entry.payload[name] for name in SLIDE_COLUMNS]
        return [*value, *(outcome.get(n) for n in measured), failure.get("error")]

    return write_csv(head, (row(entry) for entry in snapshot.entries.values()))


def _outcomes_csv(snapshot: Snapshot, run: str) -> bytes:
    found = [e.outcomes[run] for e in snapshot.entries.values() if run in e.outcomes]
    names = OUTCOMES.names
    return write_csv(names, ([row.get(name) for name in names] for row in found))


def write_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """Table as UTF-8 CSV; texts that a spreadsheet would evaluate are prefixed by '."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    text = format_cell(value)
    is_text = isinstance(value, str | list)
    return f"'{text}" if is_text and text.startswith(FORMULA) else text
