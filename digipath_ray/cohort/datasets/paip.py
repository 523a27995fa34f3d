"""PAIP 2019: liver tumors with masks of viable and whole tumor per slide."""

import re
from collections.abc import Iterable
from pathlib import Path

from digipath_ray.annotations import read_annotation
from digipath_ray.cohort.datasets.files import (
    DatasetCohort,
    files_by_id,
    note_unannotated,
    other_layout,
    slide_row,
    walk,
)
from digipath_ray.slide.open import SlideError, open_slide

PAIP_SWAPPED = "01_01_0107"
PAIP_SWAPPED_CASE = "phase_1_018"
"""Training case 018: its viable and whole masks are swapped.

github.com/paip-2019/challenge issue #29. Corrected files were announced there, so the
larger of the two is used as whole. The cases of issue #31, whose burden does not match
their masks, are named only in a screenshot and not listed here; no burden is read.
"""
PAIP_LAYOUT = """\
  Training_phase_1/Training_phase_1_001/01_01_0083.svs
  Training_phase_1/Training_phase_1_001/01_01_0083_viable.tif and .._whole.tif"""


def read_paip2019(folder: Path) -> DatasetCohort:
    """Read PAIP 2019: viable tumor masks as annotations; each slide is a patient.

    The XML files are ignored: the organizers call them a reference, and the masks the
    ground truth. In an XML, layer Id 1 is the whole tumor and Id 2 the viable.
    """
    files = list(walk(folder))
    slides = files_by_id(files, r".+\.svs")
    if not slides or not any(_is_mask(f, "viable") for f in files):
        raise other_layout(folder, "PAIP 2019", PAIP_LAYOUT)
    notes: list[str] = []
    rows = []
    for slide_id, path in slides.items():
        alone = sum(s.parent == path.parent for s in slides.values()) == 1
        viable, whole = (
            _paip_mask(files, path, kind, alone=alone) for kind in ("viable", "whole")
        )
        case = path.parent.name.lower()
        if slide_id == PAIP_SWAPPED or case.endswith(PAIP_SWAPPED_CASE):
            viable, note = _unswapped(path, viable, whole)
            notes.append(f"{slide_id}: {note}")
        rows.append(
            slide_row(path.stem, path, "tumor", viable, _split_of(folder, path))
        )
    return DatasetCohort(rows=rows, notes=[*notes, *note_unannotated(rows)])


def _is_mask(path: Path, kind: str) -> bool:
    return path.suffix.lower() in (".tif", ".tiff") and kind in path.stem.lower()


def _paip_mask(
    files: Iterable[Path], slide: Path, kind: str, *, alone: bool
) -> Path | None:
    """Mask named like the slide, or the only one in its folder."""
    begins = re.compile(re.escape(slide.stem.lower()) + "(?![0-9a-z])")
    masks = [f for f in files if _is_mask(f, kind)]
    found = [f for f in masks if begins.match(f.stem.lower())]
    if not found and alone:
        found = [f for f in masks if f.parent == slide.parent]
    if len(found) > 1:
        raise ValueError(
            f"{slide}: two {kind} masks: {found[0]} and {found[1]}: keep one of them"
        )
    return found[0] if found else None


def _unswapped(
    slide: Path, viable: Path | None, whole: Path | None
) -> tuple[Path | None, str]:
    """Viable tumor mask of a case whose masks may be swapped: the smaller one."""
    if viable is None or whole is None:
        return None, "viable and whole may be swapped, and one is missing: ignored"
    try:
        with open_slide(slide) as opened:
            size = opened.info
        areas = [read_annotation(f, slide=size).area_px for f in (viable, whole)]
    except SlideError as e:
        return None, f"viable and whole may be swapped, and cannot be compared: {e}"
    if areas[0] > areas[1]:
        return whole, "viable and whole are swapped; using the other file"
    return viable, (
        "viable and whole are correct, although swapped in an earlier release"
    )


def _split_of(folder: Path, path: Path) -> str | None:
    """Split named by a folder between the dataset folder and a file."""
    parts = path.relative_to(folder).parts[:-1]
    for part in reversed(parts):
        for word, split in (
            ("train", "train"),
            ("valid", "validation"),
            ("test", "test"),
        ):
            if word in part.lower():
                return split
    return None
