"""Files of a dataset, found by their names, and the rows made of them."""

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from digipath_ray.cohort.manifest import SlideRow


@dataclass(frozen=True, kw_only=True)
class DatasetCohort:
    """The slides of a dataset that lie in a folder.

    Attributes:
        rows: sorted by slide_id.
        notes: what the user should know of them, a sentence each.
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
    """A row; ``whole`` says whether an annotation of the slide would be exhaustive."""
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
    """The files below a folder, sorted; linked folders are followed, loops not."""
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
    """The files whose whole name matches, by their lower-case stem.

    Raises:
        ValueError: two have one stem.
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
    """The slide_id in a table's cell, with or without the file's suffix."""
    return re.sub(r"\.tiff?$", "", name.strip().lower())


def files_named(files: Iterable[Path], *names: str) -> list[Path]:
    """The files that are called one of ``names``, which are lower case."""
    return [f for f in files if f.name.lower() in names]


def read_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a CSV that are not empty."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        yield from (line for line in csv.reader(file) if line and line[0].strip())


def other_layout(folder: Path, name: str, layout: str) -> ValueError:
    """The error for a folder in which nothing of a dataset was found."""
    return ValueError(
        f"{folder}: nothing of {name} in this folder. Its files are called\n{layout}\n"
        "in folders of any name (DigestPath's apart)"
    )


def note_zips(files: Iterable[Path], drawn: dict[str, Path]) -> list[str]:
    """Say so where the annotations are still packed."""
    zips = [f for f in files if f.match("*annotations*.zip")]
    if drawn or not zips:
        return []
    return [f"extract {zips[0]}: no annotation lies in this folder yet"]


def note_unannotated(rows: Iterable[SlideRow]) -> list[str]:
    """What becomes of the slides that are not negative and not wholly annotated."""
    partly = [r for r in rows if not r.exhaustive and r.annotation]
    bare = [r for r in rows if not r.exhaustive and not r.annotation]
    notes = []
    if partly:
        notes.append(
            "slides annotated in part, which give tumor patches but no normal ones: "
            f"{len(partly)}"
        )
    if bare:
        notes.append(
            "slides that are not known to be negative and have no annotation, which "
            f"give no patches: {len(bare)}"
        )
    return notes
