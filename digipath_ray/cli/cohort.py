"""``digipath cohort``: a public dataset's folder into the table of a cohort."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.cohort.datasets import read_dataset
from digipath_ray.cohort.manifest import SlideRow, write_manifest
from digipath_ray.words import count


def write_cohort(
    console: Console, dataset: str, folder: Path, out: Path, *, overwrite: bool
) -> int:
    """Write the dataset's slides as a manifest, and print what is in it.

    Raises:
        ValueError: the folder is not the dataset's, or the file exists.
    """
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: exists: give --overwrite, or another name")
    cohort = read_dataset(dataset, folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(cohort.rows, out)
    console.print(counted(cohort.rows))
    for note in cohort.notes:
        console.print(f"note   {escape(note)}")
    patients = count(len({row.patient_id for row in cohort.rows}), "patient")
    slides = count(len(cohort.rows), "slide")
    console.print(f"cohort {escape(str(out))}: {slides} of {patients}")
    return 0


def counted(rows: Sequence[SlideRow]) -> Table:
    """Slides by split and label, and how many of them are annotated."""
    groups = Counter((row.split or "-", row.label or "-") for row in rows)
    table = Table(box=None, pad_edge=False)
    for head in ("split", "label"):
        table.add_column(head)
    for head in ("slides", "annotated", "exhaustively"):
        table.add_column(head, justify="right")
    for (split, label), number in sorted(groups.items()):
        here = [r for r in rows if (r.split or "-", r.label or "-") == (split, label)]
        drawn = [r for r in here if r.annotation]
        whole = sum(bool(r.exhaustive) for r in drawn)
        table.add_row(split, label, str(number), str(len(drawn)), str(whole))
    return table
