"""Dataset files found by name, and the slide rows built from them."""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.cohort.manifest import SlideRow


@dataclass(frozen=True, kw_only=True)
class DatasetCohort:
    """Slides of a dataset found in a folder.

    Attributes:
        rows: sorted by slide_id.
        notes: notes for the user, one sentence each.
    """

    rows: list[SlideRow]
    notes: list[str]


def slide_row(
    slide_id: str,
    path: Path,
    label: str | None,
    annotation: Path | None,
    split: str | None,
    *,
    patient_id: str | None = None,
    node: str | None = None,
    whole: bool = True,
) -> SlideRow:
    """Build a row; ``whole`` is whether an annotation of the slide is exhaustive."""
    return SlideRow(
        slide_id=slide_id,
        path=str(path),
        annotation=None if annotation is None else str(annotation),
        exhaustive=label == "negative" or (annotation is not None and whole),
        patient_id=patient_id or slide_id,
        node=node,
        label=label,
        split=split,
    )


def walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted; follows symbolic links, but not loops."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if f[0] != "." and f != "__MACOSX")
        yield from (Path(place, name) for name in sorted(names) if name[0] != ".")


def files_by_id(files: Iterable[Path], pattern: str) -> dict[str, Path]:
    """Files whose full name matches, by lower-case stem.

    Raises:
        ValueError: two files have the same stem.
    """
    found: dict[str, Path] = {}
    for file in files:
        if not re.fullmatch(pattern, file.name, re.IGNORECASE):
            continue
        first = found.setdefault(file.stem.lower(), file)
        if first is not file:
            raise ValueError(f"two files for one slide: {first} and {file}: keep one")
    return found


def id_of(name: str) -> str:
    """slide_id in a table cell, with or without the file suffix."""
    return re.sub(r"\.tiff?$", "", name.strip().lower())


def files_named(files: Iterable[Path], *names: str) -> list[Path]:
    """Files named as one of ``names``, which are lower case."""
    return [f for f in files if f.name.lower() in names]


def read_lines(path: Path) -> Iterator[list[str]]:
    """Non-empty lines of a CSV."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from (line for line in csv.reader(file) if line and line[0].strip())


def other_layout(folder: Path, name: str, layout: str) -> ValueError:
    """Error for a folder without any file of a dataset."""
    return ValueError(
        f"{folder}: no files of {name} in this folder. Expected files\n{layout}\nin "
        "folders of any name (except for DigestPath)"
    )


def note_zips(files: Iterable[Path], drawn: dict[str, Path]) -> list[str]:
    """Note annotations that are still zipped."""
    zips = [f for f in files if f.match("*annotations*.zip")]
    if drawn or not zips:
        return []
    return [f"extract {zips[0]}: this folder has no annotations yet"]


def note_unannotated(rows: Iterable[SlideRow]) -> list[str]:
    """Notes on slides that are neither negative nor fully annotated."""
    partly = [r for r in rows if not r.exhaustive and r.annotation]
    bare = [r for r in rows if not r.exhaustive and not r.annotation]
    notes = []
    if partly:
        notes.append(
            "partially annotated slides, which give tumor patches but no normal "
            f"ones: {len(partly)}"
        )
    if bare:
        notes.append(
            "slides of unknown label without annotation, which give no patches: "
            f"{len(bare)}"
        )
    return notes
