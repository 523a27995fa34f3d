"""A manifest (CSV, TSV, Parquet) as the rows of a cohort.

Columns go by our names or by other tools' (``ALIASES``), in any case, with dashes,
underscores or spaces. Whatever is wrong is a ``ValueError`` with file, line and column.
"""

import csv
import difflib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from digipath_ray.cohort.sheet import cell_text, read_sheet, squash
from digipath_ray.storage.files import is_url, place
from digipath_ray.words import count

log = logging.getLogger(__name__)

MANIFEST_SUFFIXES = (".csv", ".tsv", ".parquet")

ALIASES: dict[str, tuple[str, ...]] = {
    "slide_id": ("sample_id", "slide", "slide_name", "wsi_id", "image_id"),
    "path": ("image_path", "wsi", "wsi_path", "slide_path", "file_path", "file",
             "filename", "image"),
    "mpp": ("slide_mpp", "spacing_at_level_0", "spacing", "microns_per_pixel"),
    "mask": ("mask_path", "tissue_mask", "tissue_mask_path"),
    "annotation": ("annotation_path", "annotations"),
    "exhaustive": ("exhaustively_annotated",),
    "patient_id": ("patient", "case_id", "case"),
    "node": ("node_id", "lymph_node"),
    "label": ("slide_label",),
    "split": ("set", "subset", "partition"),
}  # fmt: skip
"""Manifest columns, and what other tools' tables call them (hs2p, TRIDENT, CLAM)."""

SPELLING = 0.8
"""Likeness (difflib's ratio) from which an unknown column is a misspelled known one:
anotation to annotation 0.95; sex to set 0.67, tissue to tissue mask 0.75."""
NEGATIVE = ("negative", "normal", "benign", "0")
"""Labels that say a slide holds no tumor; a missing label says nothing."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
"""Splits, and how manifests spell them; no split at all is train."""
TRUE_TEXTS, FALSE_TEXTS = ("true", "yes", "y", "1"), ("false", "no", "n", "0")
UNSAFE_CHARACTERS = '/\\:*?"<>|'
FRACTION = re.compile(r"\d+\.\d+")
WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")
MAX_ID_BYTES = 200
"""A file name holds 255 bytes, and suffixes come on top."""


@dataclass(frozen=True, kw_only=True)
class SlideRow:
    """One slide of a cohort, as the user described it; paths are absolute.

    Attributes:
        slide_id: unique in the cohort, and safe as a file name.
        path: file of the slide.
        mpp: um per level-0 px to go by instead of the file's.
        mask: file of a tissue mask.
        annotation: file of the reference annotation.
        exhaustive: whether all tumor is annotated.
        patient_id: patient the slide belongs to.
        node: lymph node of the patient.
        label: reference metastasis type.
        split: train, validation or test.
    """

    slide_id: str
    path: str
    mpp: float | None = None
    mask: str | None = None
    annotation: str | None = None
    exhaustive: bool | None = None
    patient_id: str | None = None
    node: str | None = None
    label: str | None = None
    split: str | None = None

    def columns(self) -> dict[str, Any]:
        """The manifest's columns alone, also of a record that knows more."""
        return {f.name: getattr(self, f.name) for f in fields(SlideRow)}

    @property
    def is_negative(self) -> bool:
        """Whether the label says that the slide holds no tumor."""
        return (self.label or "").strip().lower() in NEGATIVE

    @property
    def is_known(self) -> bool:
        """Whether annotation or label say what the slide shows."""
        return self.annotation is not None or self.is_negative

    @property
    def gives_normal(self) -> bool:
        """Whether what is not annotated is known to be no tumor.

        So on a negative slide, and on one whose annotation is exhaustive, as it is
        taken to be unless the manifest says otherwise.
        """
        if self.is_negative:
            return True
        return self.annotation is not None and self.exhaustive is not False

    @property
    def is_test(self) -> bool:
        """Whether the slide is held back for the test: no member is fitted on it."""
        return (self.split or "").strip().lower() in SPLITS["test"]


Found = tuple[SlideRow, str]
"""A row, and where it came from in words."""


def check_slide_id(slide_id: str, *, where: str, fix: str) -> None:
    """Refuse an id that cannot be a file name on every system."""
    bad = sorted({c for c in slide_id if c in UNSAFE_CHARACTERS or not c.isprintable()})
    too_long = len(slide_id.encode()) > MAX_ID_BYTES
    if not bad and not too_long and slide_id.strip() and slide_id[0] not in ". ":
        return
    why = f"holds {' '.join(map(repr, bad))}" if bad else "starts with a dot or space"
    if too_long:
        why = f"is longer than {MAX_ID_BYTES} bytes"
    raise ValueError(
        f"{where}: slide_id {slide_id!r} cannot be a file name, it {why}: {fix}"
    )


def read_manifest(path: Path) -> list[Found]:
    """The rows of a manifest; its relative paths are relative to the manifest.

    Raises:
        ValueError: what is wrong with it, and where.
        OSError: it cannot be read.
    """
    columns, rows = read_sheet(path)
    names = _canonical_columns(path, columns)
    if not rows:
        raise ValueError(f"{path}: no slide in this manifest: add a row per slide")
    base = path.parent if is_url(path) else path.absolute().parent
    cells = [(_known_cells(row, names), where) for where, row in rows]
    for name in ("patient_id", "node"):
        _join_whole_numbers(path, name, [row for row, _ in cells])
    return _without_repeats(
        path, [(_row_of_manifest(row, where, base), where) for row, where in cells]
    )


def _join_whole_numbers(path: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write ids like 1.0, which a program took for numbers, as 1, in place.

    Not where another id of the column has a fraction, as 1.1 beside 1.0.
    """
    texts = [cell_text(row.get(name)) for row in rows]
    fractions = [text for text in texts if FRACTION.fullmatch(text)]
    whole = {text for text in fractions if not text.partition(".")[2].strip("0")}
    if not whole or len(whole) < len(set(fractions)):
        return
    for row, text in zip(rows, texts, strict=True):
        row[name] = text.partition(".")[0] if text in whole else text
    example = min(whole)
    log.warning(
        "%s, column %s: %s is read as %s: numbers that a program wrote with a fraction",
        *(path, name, example, example.partition(".")[0]),
    )


def _without_repeats(path: Path, found: Sequence[Found]) -> list[Found]:
    """The rows without those that say again what an earlier one says."""
    kept = dict(reversed(found))
    once = [(row, where) for row, where in found if kept[row] == where]
    if len(once) < len(found):
        repeats = count(len(found) - len(once), "row")
        log.warning("%s: %s left out: repeated word for word", path, repeats)
    return once


def _known_cells(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row's cells by our column names, without those of columns we do not know."""
    return {names[column]: cell for column, cell in row.items() if column in names}


def write_manifest(rows: Sequence[SlideRow], path: Path) -> None:
    """Write rows as a manifest that :func:`read_manifest` reads back as they are.

    All columns are there; a CSV and a TSV are in UTF-8, what is not known empty.

    Raises:
        ValueError: no row, or a file that is not called as a manifest.
    """
    if path.suffix.lower() not in MANIFEST_SUFFIXES:
        raise ValueError(f"{path}: call it {' or '.join(MANIFEST_SUFFIXES)}")
    if not rows:
        raise ValueError(f"{path}: no slide to write")
    if path.suffix.lower() == ".parquet":
        parquet.write_table(pa.Table.from_pylist([row.columns() for row in rows]), path)
        return
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(ALIASES)
        writer.writerows(
            [_cell(getattr(row, name)) for name in ALIASES] for row in rows
        )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _canonical_columns(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """The manifest's columns -> ours; of those we do not know a warning is logged.

    Raises:
        ValueError: a misspelled or doubled column, or none that names the files.
    """
    if not columns:
        raise ValueError(f"{path}: empty: its first line must name the columns")
    known = {squash(a): name for name, more in ALIASES.items() for a in (name, *more)}
    found = [c for c in columns if squash(c) in known]
    unknown = [c for c in columns if squash(c) not in known]
    _refuse_misspelled(path, unknown, known, {known[squash(c)] for c in found})
    names: dict[str, str] = {}
    for column in found:
        name = known[squash(column)]
        if name in names.values():
            both = [c for c in found if known[squash(c)] == name]
            text = " and ".join(map(repr, both))
            raise ValueError(f"{path}: {text} both mean {name}: remove one of them")
        names[column] = name
    if "path" not in names.values():
        seen = ", ".join(repr(column) for column in columns if column)
        raise ValueError(
            f"{path}: no column path: add one with each slide's file. Its first line "
            f"names {seen or 'nothing'}: if that is a title, remove the lines above "
            "the columns' names"
        )
    if unknown:
        unused = ", ".join(map(repr, unknown))
        log.warning("%s: columns %s are not used", path, unused)
    return names


def _refuse_misspelled(
    path: Path, unknown: Sequence[str], known: Mapping[str, str], there: set[str]
) -> None:
    """Refuse an unknown column that is nearly the name of one that is not there."""
    absent = [text for text, name in known.items() if name not in there]
    for column in unknown:
        close = difflib.get_close_matches(squash(column), absent, 1, SPELLING)
        if close:
            raise ValueError(
                f"{path}: unknown column {column!r}: is it meant as "
                f"{known[close[0]]!r}? Rename it so, or to something else"
            )


def _row_of_manifest(row: Mapping[str, Any], where: str, base: Path) -> SlideRow:
    cells = {name: cell_text(value) or None for name, value in row.items()}
    for name, text in cells.items():
        if text is not None and "\0" in text:
            raise ValueError(
                f"{where}, column {name}: holds a NUL: the file is damaged"
            )

    def file(name: str) -> str | None:
        text = cells.get(name)
        return (
            None if text is None else _absolute(text, base, f"{where}, column {name}")
        )

    path = file("path")
    if path is None:
        raise ValueError(f"{where}, column path: empty: name the slide's file")
    slide_id = cells.get("slide_id")
    if slide_id is None:
        slide_id = Path(path).stem
    for name in ("patient_id", "node", "label", "split"):
        if len((cells.get(name) or "").splitlines()) > 1:
            raise ValueError(f"{where}, column {name}: holds a line break: remove it")
    fix = "change it in column slide_id"
    check_slide_id(slide_id, where=where, fix=fix)
    return SlideRow(
        slide_id=slide_id,
        path=path,
        mpp=_mpp(cells.get("mpp"), where),
        mask=file("mask"),
        annotation=file("annotation"),
        exhaustive=_flag(cells.get("exhaustive"), where),
        patient_id=cells.get("patient_id"),
        node=cells.get("node"),
        label=cells.get("label"),
        split=cells.get("split"),
    )


def _absolute(text: str, base: Path, where: str) -> str:
    if "://" in text:
        return str(place(text))
    if is_url(base):
        return str(base / text)
    if os.name != "nt" and WINDOWS_PATH.match(text):
        raise ValueError(
            f"{where}: {text} is a path of Windows: give it as this machine sees it"
        )
    path = base / Path(text).expanduser()
    other = base / text.replace("\\", "/")
    # A backslash is a legal character here: only where no file is called like that.
    return str(other if other.exists() and not path.exists() else path)


def _mpp(text: str | None, where: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = -1.0
    if not 0.01 <= value <= 100:
        raise ValueError(
            f"{where}, column mpp: {text!r}: give um per level-0 px, 0.01 to 100, "
            "or leave it empty to go by the file"
        )
    return value


def _flag(text: str | None, where: str) -> bool | None:
    if text is None:
        return None
    if text.lower() in TRUE_TEXTS:
        return True
    if text.lower() in FALSE_TEXTS:
        return False
    raise ValueError(f"{where}, column exhaustive: {text!r}: give true or false")
