"""A run's records as the manifest of this start describes their slides.

Who a slide belongs to, its label, split and annotation are the user's word, and the
word of now counts, also for slides that an earlier start has finished. No pixel and no
heatmap depends on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from digipath_ray.cohort.manifest import SlideRow, read_manifest, write_manifest
from digipath_ray.cohort.pseudonyms import shown_path
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.schema import FAILURES, SLIDES
from digipath_ray.storage.files import publish, read_rows
from digipath_ray.words import count, name_some

DESCRIBED = ("patient_id", "node", "label", "split", "annotation", "exhaustive")
"""Columns of a manifest on which no result of a slide depends."""


def with_earlier(run: RunDirectory, rows: Sequence[SlideRow]) -> list[SlideRow]:
    """Rows with what an earlier start's manifest says in columns that they leave out.

    A column that one of the rows has is theirs alone: an empty cell is a word, too.
    """
    given = {n for n in DESCRIBED if any(getattr(row, n) is not None for row in rows)}
    earlier = {row.slide_id: row for row in _manifest(run)}
    return [
        replace(
            row,
            **{
                name: getattr(earlier[row.slide_id], name)
                for name in DESCRIBED
                if name not in given and row.slide_id in earlier
            },
        )
        for row in rows
    ]


def amend_records(
    run: RunDirectory,
    rows: Sequence[SlideRow],
    done: Mapping[str, DoneRecord],
    *,
    mark: Callable[[SlideRecord], SlideRecord] = lambda slide: slide,
) -> tuple[dict[str, DoneRecord], list[str]]:
    """Finished slides described as by ``rows``, on disk too; and what has changed.

    Args:
        run: whose ``done`` records, SLIDES and failures are written.
        rows: of this start.
        done: slide_id -> record.
        mark: which members have seen a slide, or its patient, that has changed.

    Returns:
        The records, and a sentence if some have changed.
    """
    described = {row.slide_id: {n: getattr(row, n) for n in DESCRIBED} for row in rows}
    records, lines = dict(done), []
    for slide_id, record in done.items():
        now = described.get(slide_id, {})
        changed = [n for n, value in now.items() if getattr(record.slide, n) != value]
        if not changed:
            continue
        slide = mark(replace(record.slide, **now))
        outcome = {**record.outcome, "patient_id": slide.patient_id}
        records[slide_id] = replace(record, slide=slide, outcome=outcome)
        run.write_record(records[slide_id])
        before = [_describe(n, record.slide, now[n]) for n in changed]
        lines.append(f"{slide_id} ({', '.join(before)})")
    for slide_id in described.keys() & records.keys():
        slide = records[slide_id].slide  # which lies where it was found now
        described[slide_id] |= {"path": slide.path, "mask": slide.mask}
    _amend_table(run, run.slides, SLIDES, described)
    _amend_table(run, run.failures, FAILURES, described)
    if not lines:
        return records, []
    return records, [f"described anew by the manifest: {name_some(lines)}"]


def _describe(name: str, slide: SlideRecord, now: object) -> str:
    """What a column said and says."""
    values = [str(getattr(slide, name)), str(now)]
    if name == "annotation":
        values = [shown_path(value, slide.slide_id) for value in values]
    return f"{name} {' -> '.join(values)}"


def _amend_table(
    run: RunDirectory, path: Any, schema: Any, described: Mapping[str, dict[str, Any]]
) -> None:
    """Write a table of slides anew where its columns are described otherwise."""
    if not path.exists():
        return
    before = read_rows(path, schema)
    after = [
        {
            **row,
            **{k: v for k, v in described.get(row["slide_id"], {}).items() if k in row},
        }
        for row in before
    ]
    if after != before:
        run.write_table(path, after, schema)


def drop_others(
    run: RunDirectory, rows: Sequence[SlideRow], *, drop: bool
) -> tuple[str, ...]:
    """Take slides that the cohort no longer names out of a run, or name them.

    Their heatmaps stay, and so does their record, in ``dropped/``: a later start that
    names them has them finished.

    Args:
        run: its directory.
        rows: the cohort of now.
        drop: take them out; else they still count, and the answer says so.
    """
    ids = {row.slide_id for row in rows}
    for slide_id in ids.intersection(run.dropped_ids()):
        run.take_back(slide_id)
    finished = set(run.finished_ids())
    known = {row.slide_id for row in _manifest(run)} | finished
    others = sorted(known - ids)
    if not others:
        return ()
    named = name_some(others)
    number = count(len(others), "slide")
    what = f"{number} of earlier starts that this cohort does not name"
    if not drop:
        return (f"{what}: in tables and stages still, unless --drop ({named})",)
    for slide_id in others:
        run.drop(slide_id)
    for path, schema in ((run.slides, SLIDES), (run.failures, FAILURES)):
        if path.exists():
            kept = [r for r in read_rows(path, schema) if r["slide_id"] in ids]
            run.write_table(path, kept, schema)
    return (f"{what}: taken out, their heatmaps stay ({named})",)


def _manifest(run: RunDirectory) -> list[SlideRow]:
    if not run.manifest.exists():
        return []
    return [row for row, _ in read_manifest(run.manifest)]


def write_cohort(
    run: RunDirectory, rows: Sequence[SlideRow], *, drop: bool = False
) -> None:
    """Write the manifest, with the slides of earlier starts that are not dropped."""
    ids = {row.slide_id for row in rows}
    there = run.manifest.exists() and not drop
    found = read_manifest(run.manifest) if there else []
    kept = [row for row, _ in found if row.slide_id not in ids]
    with publish(run.manifest) as path:
        write_manifest([*kept, *rows], path)
