"""CAMELYON16 and CAMELYON17: lymph nodes with and without metastases."""

from collections.abc import Iterable
from pathlib import Path

from digipath_ray.cohort.datasets.files import (
    DatasetCohort,
    files_by_id,
    files_named,
    id_of,
    note_unannotated,
    note_zips,
    other_layout,
    read_lines,
    slide_row,
    walk,
)

CAMELYON16_PARTLY_ANNOTATED = frozenset(
    f"tumor_{n:03d}"
    for n in (
        10, 15, 18, 20, 25, 29, 33, 34, 44, 46,
        51, 54, 55, 56, 67, 79, 85, 92, 95, 110,
    )
) | {"test_114"}  # fmt: skip
"""Slides whose tumor is not annotated exhaustively.

The 20 training slides that the paper's authors excluded (DigitalHistoPath,
dataset_csv_generation.ipynb), and a test slide excluded by them and others.
"""
CAMELYON16_DOUBTFUL = frozenset({"normal_086", "normal_144"})
"""Labeled normal, but reported to contain tumor (Liu et al. 2017, arXiv:1703.02442)."""
CAMELYON16_DUPLICATES = frozenset({"test_049"})
"""Duplicate of another test slide, removed from later editions of the dataset."""
CAMELYON17_TYPES = ("negative", "itc", "micro", "macro")
CAMELYON17_TRAINING_PATIENTS = 100
MASK_FOLDERS = ("mask", "background", "evaluation")

CAMELYON16_LAYOUT = """\
  training/normal/normal_001.tif ..     training/tumor/tumor_001.tif ..
  testing/images/test_001.tif ..        testing/reference.csv
  lesion_annotations.zip of training and testing, extracted: tumor_001.xml .."""
CAMELYON17_LAYOUT = """\
  training/center_0/patient_000_node_0.tif ..     stage_labels.csv (or stages.csv)
  lesion_annotations/patient_004_node_4.xml .."""


def read_camelyon16(folder: Path) -> DatasetCohort:
    """Read CAMELYON16; each slide counts as a patient, as patients are not published.

    Labels are negative or tumor; for test slides itc, micro or macro from
    reference.csv. Without it, a test slide without annotation has no label.
    """
    files = list(walk(folder))
    slides = _slides(files, r"(normal|tumor|test)_\d{3}\.tiff?")
    if not slides:
        raise other_layout(folder, "CAMELYON16", CAMELYON16_LAYOUT)
    drawn = files_by_id(files, r"(tumor|test)_\d{3}\.xml")
    reference = _camelyon16_reference(files)
    notes = note_zips(files, drawn)
    rows = []
    for slide_id, path in slides.items():
        if slide_id in CAMELYON16_DUPLICATES:
            notes.append(f"{slide_id} is excluded: duplicate of another slide")
            continue
        kind = slide_id.split("_")[0]
        label = {"normal": "negative", "tumor": "tumor"}.get(kind)
        if kind == "test":
            label = reference.get(slide_id, "tumor" if slide_id in drawn else None)
        if slide_id in CAMELYON16_DOUBTFUL:
            label = None
            notes.append(f"{slide_id} gets no label: reported to contain tumor")
        whole = slide_id not in CAMELYON16_PARTLY_ANNOTATED
        split = "test" if kind == "test" else "train"
        rows.append(
            slide_row(slide_id, path, label, drawn.get(slide_id), split, whole=whole)
        )
    return DatasetCohort(rows=rows, notes=[*notes, *note_unannotated(rows)])


def _camelyon16_reference(files: Iterable[Path]) -> dict[str, str]:
    """Test slide -> label, from lines like ``test_001,Tumor,IDC,Macro``."""
    labels = {}
    for path in files_named(files, "reference.csv"):
        for line in read_lines(path):
            words = {cell.strip().lower() for cell in line[1:]}
            size = words & {"itc", "micro", "macro"}
            if words & {"tumor", "tumour"} or size:
                label = size.pop() if size else "tumor"
            elif words & {"normal", "negative"}:
                label = "negative"
            else:
                continue
            labels[id_of(line[0])] = label
    return labels


def read_camelyon17(folder: Path) -> DatasetCohort:
    """Read CAMELYON17; labels of its test patients (from 100) are not published.

    Isolated tumor cells are not annotated exhaustively
    (camelyon17.grand-challenge.org/Data), so their slides are not exhaustive.
    """
    files = list(walk(folder))
    slides = _slides(files, r"patient_\d{3}_node_\d\.tiff?")
    if not slides:
        raise other_layout(folder, "CAMELYON17", CAMELYON17_LAYOUT)
    drawn = files_by_id(files, r"patient_\d{3}_node_\d\.xml")
    labels = _camelyon17_labels(files)
    notes = note_zips(files, drawn)
    rows = []
    for slide_id, path in slides.items():
        _, number, _, node = slide_id.split("_")
        train = int(number) < CAMELYON17_TRAINING_PATIENTS
        label = labels.get(slide_id)
        if train and label is None:
            raise ValueError(
                f"{folder}: no label for {slide_id}: put the challenge's "
                "stage_labels.csv (also called stages.csv) into this folder"
            )
        row = slide_row(
            slide_id,
            path,
            label,
            drawn.get(slide_id),
            "train" if train else "test",
            patient_id=f"patient_{number}",
            node=node,
            whole=label != "itc",
        )
        rows.append(row)
    missing = len(set(labels) - set(slides))
    if missing:
        notes.append(f"{missing} of {len(labels)} labeled slides are not in the folder")
    return DatasetCohort(rows=rows, notes=[*notes, *note_unannotated(rows)])


def _camelyon17_labels(files: Iterable[Path]) -> dict[str, str]:
    """Slide -> metastasis type; lines of whole patients (.zip) are skipped."""
    labels = {}
    for path in files_named(files, "stage_labels.csv", "stages.csv"):
        for line in read_lines(path):
            if not line[0].lower().endswith(".tif"):
                continue
            label = line[1].strip().lower() if len(line) > 1 else ""
            if label not in CAMELYON17_TYPES:
                raise ValueError(
                    f"{path}: {','.join(line)!r} has none of "
                    f"{', '.join(CAMELYON17_TYPES)}: download the file again"
                )
            labels[id_of(line[0])] = label
    return labels


def _slides(files: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Slides by id, without the masks that mirrors name like the slides."""
    kept = [
        f for f in files if not any(w in f.parent.name.lower() for w in MASK_FOLDERS)
    ]
    return files_by_id(kept, pattern)
