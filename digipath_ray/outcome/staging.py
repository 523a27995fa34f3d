"""Metastasis types of lymph nodes, and a patient's pN stage from them (Tables 2 and 3).

A node with isolated tumor cells does not count as metastatic; one with a micro- or
macro-metastasis does. Label files and submissions are CAMELYON17's.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path, PurePath
from typing import Any, Self, TypeVar

import pyarrow as pa
from pyarrow import parquet

from digipath_ray.cohort.manifest import ALIASES, MISSING_TEXTS, NEGATIVE
from digipath_ray.storage.files import publish

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".dcm")
PATIENT_SUFFIX = ".zip"
"""CAMELYON17 calls a patient by the archive of its slides."""
NODE_OF_PATIENT = re.compile(r"(.+)_node_[^_]+", re.IGNORECASE)


class Metastasis(IntEnum):
    """What a lymph node holds; the higher the graver (Table 2)."""

    NEGATIVE = 0
    ITC = 1
    MICRO = 2
    MACRO = 3

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The type that a label names, in any case; as negative also ``normal``.

        Raises:
            ValueError: it names none.
        """
        name = text.strip().lower()
        if name in NEGATIVE:
            name = "negative"
        for member in cls:
            if member.label == name:
                return member
        known = ", ".join(m.label for m in cls)
        raise ValueError(f"metastasis type {text!r}: must be one of {known}")

    @property
    def label(self) -> str:
        """The type as CAMELYON17's label files spell it."""
        return self.name.lower()


class PnStage(StrEnum):
    """Pathologic stage of the lymph nodes; the lower down the graver (Table 3)."""

    N0 = "pN0"
    N0_ITC = "pN0(i+)"
    N1_MICRO = "pN1mi"
    N1 = "pN1"
    N2 = "pN2"
    N3A = "pN3a"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The stage that a label names, in any case.

        Raises:
            ValueError: it names none.
        """
        for member in cls:
            if member.value.lower() == text.strip().lower():
                return member
        raise ValueError(f"pN stage {text!r}: must be one of {', '.join(cls)}")


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """A row of Table 3: the gravest node, and how many are metastatic at least."""

    stage: PnStage
    gravest: Metastasis
    metastatic: int


TABLE_3: tuple[StageRule, ...] = (
    StageRule(stage=PnStage.N0, gravest=Metastasis.NEGATIVE, metastatic=0),
    StageRule(stage=PnStage.N0_ITC, gravest=Metastasis.ITC, metastatic=0),
    StageRule(stage=PnStage.N1_MICRO, gravest=Metastasis.MICRO, metastatic=1),
    StageRule(stage=PnStage.N1, gravest=Metastasis.MACRO, metastatic=1),
    StageRule(stage=PnStage.N2, gravest=Metastasis.MACRO, metastatic=4),
    StageRule(stage=PnStage.N3A, gravest=Metastasis.MACRO, metastatic=10),
)
"""Table 3; the last row is not in it but AJCC's (8th edition): the challenge's patients
have 5 nodes each."""


@dataclass(frozen=True, kw_only=True)
class PatientStage:
    """A row of the PATIENTS table; ``schema.PATIENTS`` says what its columns mean."""

    patient_id: str
    nodes: int
    missing: int
    n_itc: int
    n_micro: int
    n_macro: int
    pn_stage: PnStage | None
    complete: bool
    note: str | None


def stage_nodes(types: Sequence[Metastasis]) -> PnStage:
    """The stage of a patient with these nodes (Table 3).

    Raises:
        ValueError: there is no node.
    """
    if not types:
        raise ValueError("no lymph node has a type, so there is no stage")
    gravest = max(types)
    metastatic = sum(t >= Metastasis.MICRO for t in types)
    fitting = [
        rule.stage
        for rule in TABLE_3
        if rule.gravest == gravest and rule.metastatic <= metastatic
    ]
    return fitting[-1]


def stage_patient(
    patient_id: str, types: Sequence[Metastasis | None], *, expected: int | None = None
) -> PatientStage:
    """A patient's stage; at least it where nodes are missing, as more can only add.

    Args:
        patient_id: the patient.
        types: of each slide there is; None of one that failed.
        expected: slides that there should be; None: those there are.
    """
    known = [t for t in types if t is not None]
    absent = max(0, expected - len(types)) if expected is not None else 0
    missing = len(types) - len(known) + absent
    stage = stage_nodes(known) if known else None
    return PatientStage(
        patient_id=patient_id,
        nodes=len(known),
        missing=missing,
        n_itc=known.count(Metastasis.ITC),
        n_micro=known.count(Metastasis.MICRO),
        n_macro=known.count(Metastasis.MACRO),
        pn_stage=stage,
        complete=bool(known) and missing == 0,
        note="; ".join(_notes(stage, len(known), missing, expected)) or None,
    )


def _notes(
    stage: PnStage | None, nodes: int, missing: int, expected: int | None
) -> Iterator[str]:
    """What a reader must know of a stage."""
    if stage is None:
        yield "no stage: no node has a type"
    elif missing:
        yield f"at least {stage}: {missing} of {nodes + missing} nodes have no type"
    if stage is PnStage.N3A:
        yield "pN3a by AJCC 8: the challenge's table ends at 9 metastatic nodes"
    if expected is not None and nodes + missing > expected:
        yield f"{nodes + missing} nodes, where {expected} were expected"


@dataclass(frozen=True, kw_only=True)
class StageLabels:
    """What a label file or a submission says.

    Attributes:
        types: slide_id -> metastasis type.
        patient_of: slide_id -> patient_id, of slides whose patient is known.
        stages: patient_id -> stage, of patients that the file gives a stage.
    """

    types: Mapping[str, Metastasis]
    patient_of: Mapping[str, str]
    stages: Mapping[str, PnStage]

    def nodes(self) -> dict[str, dict[str, Metastasis]]:
        """patient_id -> slide_id -> type, in the file's order."""
        nodes: dict[str, dict[str, Metastasis]] = {}
        for slide_id, patient_id in self.patient_of.items():
            nodes.setdefault(patient_id, {})[slide_id] = self.types[slide_id]
        return nodes


def read_stage_labels(path: str | Path) -> StageLabels:
    """Labels of a CAMELYON17 CSV (patient, stage), or of a table (slide_id, label).

    In the first a row that ends in .zip is a patient's, any other a slide's. The second
    is any manifest, CSV or Parquet; slides without label are left aside.

    Raises:
        ValueError: neither of the two, or a row that cannot be right; says which.
    """
    path = Path(path)
    rows = read_rows(path)
    columns = [str(c) for c in rows[0][1]] if rows else []
    patient, stage = (find_column(columns, (name,)) for name in ("patient", "stage"))
    if patient is not None and stage is not None:
        return _labels_of_challenge(path, rows, patient, stage)
    named = {
        ours: find_column(columns, (ours, *ALIASES[ours])) for ours in _TABLE_COLUMNS
    }
    if named["label"] is None or (named["slide_id"] or named["path"]) is None:
        raise ValueError(
            f"{path}: no labels: needs columns patient and stage (as stage_labels.csv "
            "has) or slide_id and label, and at least one row"
        )
    return _labels_of_table(rows, named)


_TABLE_COLUMNS = ("slide_id", "path", "label", "patient_id")
Rows = list[tuple[str, dict[str, Any]]]
Label = TypeVar("Label", Metastasis, PnStage)


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


def _labels_of_challenge(
    path: Path, rows: Rows, patient: str, stage: str
) -> StageLabels:
    types: dict[str, Metastasis] = {}
    stages: dict[str, PnStage] = {}
    for where, row in rows:
        name, said = cell_text(row[patient]), cell_text(row[stage])
        if name.lower().endswith(PATIENT_SUFFIX):
            patient_id = name[: -len(PATIENT_SUFFIX)]
            _add(stages, patient_id, _parse(PnStage, said, where), where)
        elif name:
            _add(types, slide_id_of(name), _parse(Metastasis, said, where), where)
    if not types and not stages:
        raise ValueError(f"{path}: no label in this file")
    found = {slide_id: _find_patient(slide_id, stages) for slide_id in types}
    patient_of = {slide: patient for slide, patient in found.items() if patient}
    return StageLabels(types=types, patient_of=patient_of, stages=stages)


def _labels_of_table(rows: Rows, named: Mapping[str, str | None]) -> StageLabels:
    types: dict[str, Metastasis] = {}
    patient_of: dict[str, str] = {}
    for where, row in rows:
        cells = {
            ours: cell_text(row.get(c)) for ours, c in named.items() if c is not None
        }
        slide_id = cells.get("slide_id") or PurePath(cells.get("path", "")).stem
        if not cells["label"] or not slide_id:
            continue
        _add(types, slide_id, _parse(Metastasis, cells["label"], where), where)
        patient = cells.get("patient_id") or _find_patient(slide_id, ())
        if patient and patient_of.setdefault(slide_id, patient) != patient:
            raise ValueError(f"{where}: {slide_id} is there twice, of two patients")
    return StageLabels(types=types, patient_of=patient_of, stages={})


def cell_text(cell: object) -> str:
    """A cell as text, empty where it says nothing; a whole float (an id) as an int."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    text = "" if cell is None else str(cell).strip()
    return "" if text in MISSING_TEXTS else text


def _parse(kind: type[Label], text: str, where: str) -> Label:
    try:
        return kind.from_text(text)
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e


def _add(known: dict[str, Label], name: str, value: Label, where: str) -> None:
    if known.setdefault(name, value) != value:
        raise ValueError(f"{where}: {name} is there twice, with two labels")


def slide_id_of(name: str) -> str:
    """A slide's id from its file name: ``patient_000_node_0.tif`` without ``.tif``."""
    suffix = PurePath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SLIDE_SUFFIXES else name


def _find_patient(slide_id: str, patients: Iterable[str]) -> str | None:
    """The patient that a slide's name holds."""
    match = NODE_OF_PATIENT.fullmatch(slide_id)
    if match:
        return match[1]
    named = [p for p in patients if slide_id.startswith(f"{p}_")]
    return max(named, key=len, default=None)


def stage_label_file(
    path: str | Path, *, expected: int | None = None
) -> list[PatientStage]:
    """The patients of a label file, staged from their slides' types.

    Args:
        path: as :func:`read_stage_labels` reads it; stages it states play no part.
        expected: slides that every patient should have.

    Raises:
        ValueError: it cannot be read, it holds no slide, or a slide's patient is not
            known.
    """
    if expected is not None and expected < 1:
        raise ValueError(f"nodes = {expected}: must be at least 1")
    labels = read_stage_labels(path)
    if not labels.types:
        raise ValueError(f"{path}: no slide's type, from which a stage would follow")
    lost = labels.types.keys() - labels.patient_of.keys()
    if lost:
        raise ValueError(
            f"{path}: the patient of {min(lost)} is not known: name slides "
            "PATIENT_node_N, or add a column patient_id"
        )
    return [
        stage_patient(patient_id, list(nodes.values()), expected=expected)
        for patient_id, nodes in labels.nodes().items()
    ]


def write_submission(
    path: str | Path,
    stages: Mapping[str, PnStage],
    nodes: Mapping[str, Mapping[str, Metastasis]],
) -> None:
    """Write a CSV as CAMELYON17 takes it: each patient's row, then its slides' rows.

    Args:
        path: the file.
        stages: patient_id -> stage.
        nodes: patient_id -> slide_id -> type.
    """
    with (
        publish(Path(path)) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("patient", "stage"))
        for patient_id, stage in sorted(stages.items()):
            writer.writerow((f"{patient_id}{PATIENT_SUFFIX}", stage.value))
            for slide_id, kind in sorted(nodes.get(patient_id, {}).items()):
                writer.writerow((f"{slide_id}{SLIDE_SUFFIXES[0]}", kind.label))
