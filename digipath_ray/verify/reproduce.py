"""A run made once more of the same slides, weights and versions, and held to the first.

Chunks are the same whatever the number of workers, the batch size, the order of blocks,
the pools or the starts that a run took, so that all of these may differ between the
two.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from digipath_ray.cohort.pseudonyms import shown_path
from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.file import read_heatmap
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.identity import MISSING, digest_mask, look_at
from digipath_ray.run.provenance import provenance
from digipath_ray.run.record import DoneRecord
from digipath_ray.storage.digest import describe_change
from digipath_ray.storage.files import read_table
from digipath_ray.verify.repeat import difference, is_rounding
from digipath_ray.words import count

VERSIONS = ("version", "commit", "settings")
"""What must be the same of how a slide was made, beside its libraries."""
OWN = ("seconds",)
"""Columns of OUTCOMES that differ from run to run."""
MEASURE = 0.01
"""Relative difference of a measure in the tables that rounding of heatmaps may make."""


def find_changes(done: Mapping[str, DoneRecord], config: RunConfig) -> list[str]:
    """What is not as it was when the slides of a run were finished.

    Args:
        done: slide_id -> ``done`` record.
        config: of the run, resolved, so that its weights are those of then.

    Returns:
        A line for each version, slide or mask that is another one now.

    Raises:
        OSError: a bucket cannot be accessed.
    """
    return [*_other_versions(done, config), *_other_slides(done)]


def _other_versions(done: Mapping[str, DoneRecord], config: RunConfig) -> Iterator[str]:
    now = provenance(config, ())
    changed: Counter[tuple[str, Any, Any]] = Counter()
    for record in done.values():
        then = record.made_with
        if then is None:
            before = "a version that did not note it"
            changed["version", before, now["version"]] += 1
            continue
        if not config.ensemble.out_of_fold:  # there each slide has its own members
            for name in VERSIONS:
                if then[name] != now[name]:
                    changed[name, then[name], now[name]] += 1
        for name in then["libraries"].keys() | now["libraries"].keys():
            pair = then["libraries"].get(name), now["libraries"].get(name)
            if pair[0] != pair[1]:
                changed[name, *pair] += 1
    for (name, before, after), slides in sorted(changed.items(), key=str):
        yield f"{name}: {before} -> {after} ({count(slides, 'slide')})"


def _other_slides(done: Mapping[str, DoneRecord]) -> Iterator[str]:
    for slide_id, record in done.items():
        slide = record.slide
        now = look_at(slide.path, slide).digest
        if now is None:
            yield f"{slide_id}: {shown_path(slide.path, slide_id)} cannot be read"
        elif slide.digest is None:
            yield f"{slide_id}: finished by a version that kept no digest of slides"
        elif now != slide.digest:
            yield f"{slide_id}: another slide, {describe_change(slide.digest, now)}"
        mask = digest_mask(slide)
        if mask != slide.mask_digest:
            what = "cannot be read" if mask == MISSING else "is another one"
            shown = shown_path(slide.mask, slide_id)
            yield f"{slide_id}: its tissue mask {shown} {what}"


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a repeated run is from the first.

    Attributes:
        slides: whose heatmaps were compared.
        identical: of those, whose heatmaps are the same to the bit.
        largest: difference of any channel at a pixel.
        mean: of the probability, the largest of a slide.
        wrong: what differs by more than rounding makes.
    """

    slides: int
    identical: int
    largest: float
    mean: float
    wrong: Sequence[str]


def compare_repeated(first: RunDirectory, second: RunDirectory) -> Agreement:
    """A run and its repetition, slide by slide and table by table.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    done, again = first.read_done(), second.read_done()
    alone = sorted(done.keys() ^ again.keys())
    wrong = [f"{slide_id}: finished in one run alone" for slide_id in alone]
    largest = mean = 0.0
    identical, both = 0, sorted(done.keys() & again.keys())
    for slide_id in both:
        a, b = (read_heatmap(run.heatmap(slide_id)) for run in (first, second))
        if a.channels != b.channels or not np.array_equal(a.covered, b.covered):
            wrong.append(f"{slide_id}: other patches were predicted")
            continue
        identical += np.array_equal(a.data, b.data, equal_nan=True)
        worst, off = difference(a, b, a.covered)
        largest, mean = max(largest, worst), max(mean, off)
        if not is_rounding(worst, off, done[slide_id].precision):
            wrong.append(f"{slide_id}: its heatmap is up to {worst:.3g} away")
    for name in ("outcomes", "features", "patients"):
        wrong += _table_differences(name, getattr(first, name), getattr(second, name))
    return Agreement(
        slides=len(both), identical=identical, largest=largest, mean=mean, wrong=wrong
    )


def _table_differences(name: str, first: Any, second: Any) -> Iterator[str]:
    """Yield the cells of a table in which two runs differ by more than rounding."""
    tables = []
    for path in (first, second):
        rows = read_table(path).to_pylist() if path.exists() else []
        names = [row.get("slide_id", row.get("patient_id")) for row in rows]
        tables.append(dict(zip(names, rows, strict=True)))
    for key in sorted(tables[0].keys() & tables[1].keys()):
        a, b = tables[0][key], tables[1][key]
        for column in a.keys() | b.keys():
            pair = a.get(column), b.get(column)
            if column not in OWN and not is_close(*pair):
                yield f"{name}, {key}, {column}: {pair[0]} and {pair[1]}"


def is_close(a: Any, b: Any) -> bool:
    """Whether two cells are the same but for rounding of a measure."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) and math.isnan(b):
            return True
        return math.isclose(a, b, rel_tol=MEASURE, abs_tol=1e-6)
    return bool(a == b)
