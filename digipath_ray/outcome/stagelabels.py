"""Reference types and stages of slides and patients, and the challenge's submission."""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar

from digipath_ray.cohort.manifest import ALIASES
from digipath_ray.cohort.sheet import Rows, cell_text, find_column, read_sheet
from digipath_ray.outcome.staging import (
    Metastasis,
    PatientStage,
    PnStage,
    stage_patient,
)
from digipath_ray.storage.files import publish

SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".dcm")


PATIENT_SUFFIX = ".zip"
"""CAMELYON17 calls a patient by the archive of its slides."""


NODE_OF_PATIENT = re.compile(r"(.+)_node_[^_]+", re.IGNORECASE)


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
    rows = read_sheet(path)[1]
    columns = [str(c) for c in rows[0][1]] if rows else []
    patient, stage = (find_column(columns, (name,)) for name in ("patient", "stage"))
    if patient is not None and stage is not None:
        return _labels_of_challenge(path, rows, patient, stage)
    named = {
        name: find_column(columns, (name, *ALIASES[name])) for name in _TABLE_COLUMNS
    }
    if named["label"] is None or (named["slide_id"] or named["path"]) is None:
        raise ValueError(
            f"{path}: no labels: needs columns patient and stage (as stage_labels.csv "
            "has) or slide_id and label, and at least one row"
        )
    return _labels_of_table(rows, named)


_TABLE_COLUMNS = ("slide_id", "path", "label", "patient_id")


Label = TypeVar("Label", Metastasis, PnStage)


def _labels_of_challenge(
    path: Path, rows: Rows, patient: str, stage: str
) -> StageLabels:
    types: dict[str, Metastasis] = {}
    stages: dict[str, PnStage] = {}
    for where, row in rows:
        name, label = cell_text(row[patient]), cell_text(row[stage])
        if name.lower().endswith(PATIENT_SUFFIX):
            patient_id = name[: -len(PATIENT_SUFFIX)]
            _add(stages, patient_id, _parse(PnStage, label, where), where)
        elif name:
            _add(types, slide_id_of(name), _parse(Metastasis, label, where), where)
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
            name: cell_text(row.get(c)) for name, c in named.items() if c is not None
        }
        slide_id = cells.get("slide_id") or PurePath(cells.get("path", "")).stem
        if not cells["label"] or not slide_id:
            continue
        _add(types, slide_id, _parse(Metastasis, cells["label"], where), where)
        patient = cells.get("patient_id") or _find_patient(slide_id, ())
        if patient and patient_of.setdefault(slide_id, patient) != patient:
            raise ValueError(f"{where}: {slide_id} is there twice, of two patients")
    return StageLabels(types=types, patient_of=patient_of, stages={})


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
