"""Every slide accounted for once, every file as it was written, tables as the records.

What is looked at, file by file, is in docs/reliability.md.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from digipath_ray.cohort.manifest import read_manifest
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import from_tree, read_toml
from digipath_ray.outcome.features import FEATURES_SCHEMA
from digipath_ray.outcome.tables import make_tables, read_waiting
from digipath_ray.pipeline.finish import DRAWN, MEASURED
from digipath_ray.report.render import STATE
from digipath_ray.run.checksums import SUMS, read_sums, state_digest, sums_file, sums_of
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure, RunError
from digipath_ray.run.provenance import settings_digest
from digipath_ray.run.record import DoneRecord
from digipath_ray.schema import OUTCOMES, PATIENTS
from digipath_ray.storage.files import TEMPORARY, file_digest, read_table, read_text
from digipath_ray.verify.faults import Fault, Fix, Verification
from digipath_ray.verify.maps import check_heatmap
from digipath_ray.words import count, name_some

DAMAGED = (ValueError, OSError, KeyError)
"""What reading a damaged file of a run raises."""
ALWAYS = ("heatmap", "thumbnail", "mask", "patches", *DRAWN, "lesions")
"""Kinds of files that every finished slide has."""

AT_ONCE = 4
"""Slides looked at at once; the largest heatmap and its weights take 1 GB each."""

GIVEN = ("run.toml", "manifest.csv")
"""Files that no command can write again."""

T = TypeVar("T")
Progress = Callable[[int, int], None]
Records = Mapping[str, DoneRecord]


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""


def verify_run(run: RunDirectory, *, progress: Progress = no_progress) -> Verification:
    """Look at every file of a run, and whether they say the same.

    Args:
        run: on a disk or in a bucket, and not being written to.
        progress: called with how many slides were looked at, and of how many.

    Raises:
        RunError: no run's directory.
        OSError: the bucket cannot be accessed.
    """
    if not run.settings.exists():
        raise RunError(
            f"{run.root}: no run: name the directory given to digipath run --out"
        )
    faults: list[Fault] = []
    config = _read(lambda: from_tree(read_toml(run.settings)), run.settings, faults)
    rows = _read(lambda: read_manifest(run.manifest), run.manifest, faults) or []
    failures = _read(run.read_failures, run.failures, faults) or []
    sums = _read(lambda: read_sums(run), sums_file(run), faults)
    done, damaged = read_records(run)
    wanted, failed = {row.slide_id for row, _ in rows}, {f.slide_id for f in failures}
    faults += damaged
    faults += check_accounts(wanted, done, failures)
    faults += check_sums(run, sums or {}, done)
    if config is not None:
        faults += check_slides(run, done, config, progress)
        faults += check_settings(done, config)
        faults += check_tables(run, done, failures, config)
    faults += check_report(run, done, failures)
    faults += find_unfinished_files(run)
    blamed = {fault.slide_id for fault in damaged}
    return Verification(
        slides=len(wanted),
        finished=len(done),
        failed=len(failed - done.keys()),
        files=sum(len(record.files) for record in done.values()) + len(sums or {}),
        faults=faults,
        missing=sorted(wanted - done.keys() - failed - blamed),
        notes=list(say_unchecked(run, done, sealed=sums is not None)),
    )


def _read(reader: Callable[[], T], path: Path, faults: list[Fault]) -> T | None:
    """What a reader returns; None, and one more fault, if the file is damaged."""
    try:
        return reader()
    except DAMAGED as e:
        faults.append(_of_run(path.name, f"cannot be read: {e}"))
        return None


def _of_run(name: str, what: str) -> Fault:
    """A fault of a file at the top of the run."""
    fix: Fix = "restore" if name in GIVEN else "again"
    return Fault(where=name, what=what, fix=fix)


def read_records(run: RunDirectory) -> tuple[dict[str, DoneRecord], list[Fault]]:
    """The records of the finished slides, and a fault for each that is damaged."""
    done, faults = {}, []
    for slide_id in run.finished_ids():
        try:
            done[slide_id] = run.read_record(slide_id)
        except DAMAGED as e:
            name = f"done/{slide_id}.json"
            faults.append(_of_slide(slide_id, name, f"cannot be read: {e}"))
    return done, faults


def _of_slide(slide_id: str, name: str, what: str, *kinds: str) -> Fault:
    return Fault(
        where=name, what=what, fix="discard", slide_id=slide_id, kinds=tuple(kinds)
    )


def check_accounts(
    wanted: set[str], done: Records, failures: Sequence[Failure]
) -> Iterator[Fault]:
    """Yield slides that are there more than once, or that nobody asked for."""
    failed = Counter(failure.slide_id for failure in failures)
    for slide_id in sorted(i for i, times in failed.items() if times > 1):
        yield _of_run("failures.parquet", f"{slide_id} twice")
    both = {f.slide_id for f in failures if f.step != "measure"} & done.keys()
    for slide_id in sorted(both):  # one that cannot be measured again keeps its heatmap
        what = f"{slide_id} is finished, and failed"
        yield _of_run("failures.parquet", what)
    for slide_id in sorted((done.keys() | failed.keys()) - wanted):
        what = f"{slide_id} has a result, and is not in the manifest"
        yield _of_run("manifest.csv", what)


def check_sums(
    run: RunDirectory, sums: Mapping[str, str], done: Records
) -> Iterator[Fault]:
    """Yield files at the top and records that are not as they were written.

    The digests of slides' other files are those of their records, which are held
    against the files.
    """
    of_slides: dict[str, str] = {}
    wrong = False
    for name, digest in sums.items():
        top, _, file = name.rpartition("/")
        if top not in ("", "done"):
            of_slides[name] = digest
            continue
        what = _changed(run, name, digest)
        if what is None:
            continue
        wrong = True
        if top:
            yield _of_slide(file.removesuffix(".json"), name, what)
        else:
            yield _of_run(name, what)
    recorded: dict[str, str] = {}
    for record in done.values():
        recorded |= sums_of(run, record)
    if sums and not wrong and of_slides != recorded:
        differing = sorted(n for n, _ in of_slides.items() ^ recorded.items())
        yield _of_run(SUMS, f"does not fit the record of {differing[0]}")


def _changed(run: RunDirectory, name: str, digest: str) -> str | None:
    """How a file differs from a digest; None if it does not."""
    try:
        now = file_digest(run.root / name)
    except FileNotFoundError:
        return "is gone"
    except OSError as e:
        return f"cannot be read: {e}"
    return None if now == digest else "is not as it was written"


def check_slides(
    run: RunDirectory,
    done: Records,
    config: RunConfig,
    progress: Progress,
) -> Iterator[Fault]:
    """Yield files of finished slides that are damaged, or do not fit each other."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        looks = pool.map(lambda r: list(check_slide(run, r, config)), done.values())
        for number, faults in enumerate(looks, 1):
            yield from faults
            progress(number, len(done))


def check_slide(
    run: RunDirectory, record: DoneRecord, config: RunConfig
) -> Iterator[Fault]:
    """Yield what is wrong with a finished slide's files."""
    slide_id, paths = record.slide.slide_id, run.slide_files(record.slide.slide_id)
    wrong = False
    known = {kind: None for kind in ALWAYS if record.made_with is not None}
    if record.slide.artifacts:
        known |= {"artifacts": None, "artifact_outlines": None}
    if config.ensemble.keep_classes:
        known |= {"class_outlines": None}
    for kind, digest in {**known, **record.files}.items():
        name = paths[kind].relative_to(run.root).as_posix()
        what = (
            "has no digest in its record"
            if digest is None
            else _changed(run, name, digest)
        )
        if what is not None:
            wrong = True
            kinds = (kind,) if kind in (*DRAWN, *MEASURED) else ()
            yield _of_slide(slide_id, name, what, *kinds)
    if wrong:
        return
    name = paths["heatmap"].relative_to(run.root).as_posix()
    try:
        for what in check_heatmap(run, record, config):
            yield _of_slide(slide_id, name, what)
    except DAMAGED as e:
        yield _of_slide(slide_id, name, f"cannot be read: {e}")


def check_settings(done: Records, config: RunConfig) -> Iterator[Fault]:
    """Yield settings that slides were not predicted with."""
    if config.ensemble.out_of_fold:
        return  # each slide has its own members
    now = settings_digest(config)
    other = [
        slide_id
        for slide_id, record in done.items()
        if record.made_with is not None and record.made_with["settings"] != now
    ]
    if other:
        what = f"not what slides were predicted with: {name_some(other)}"
        yield _of_run("run.toml", what)


def check_tables(
    run: RunDirectory, done: Records, failures: Sequence[Failure], config: RunConfig
) -> Iterator[Fault]:
    """Yield tables that do not say what the records say."""
    try:
        over = {*done, *(failure.slide_id for failure in failures)}
        waiting = read_waiting(run, over) if done else ()
        tables = make_tables(done, failures, config, waiting=waiting)
    except DAMAGED as e:
        yield _of_run("slides.parquet", f"cannot be read: {e}")
        return
    patients = [asdict(patient) for patient in tables.patients]
    for path, rows, schema in (
        (run.outcomes, tables.outcomes, OUTCOMES),
        (run.features, tables.features, FEATURES_SCHEMA),
        (run.patients, patients, PATIENTS),
    ):
        try:
            there = read_table(path).to_pylist() if path.exists() else []
        except DAMAGED as e:
            yield _of_run(path.name, f"cannot be read: {e}")
            continue
        should = pa.Table.from_pylist(list(rows), schema=schema).to_pylist()
        # As text: NaN, where it was not estimated, is not equal to itself.
        if sorted(map(repr, there)) != sorted(map(repr, should)):
            what = "does not say what the slides' records say"
            yield _of_run(path.name, what)


def check_report(
    run: RunDirectory, done: Records, failures: Sequence[Failure]
) -> Iterator[Fault]:
    """Yield a report that was written of another state of the run."""
    if not run.report.exists():
        return
    try:
        text = read_text(run.report)
    except DAMAGED as e:
        yield _of_run("report.html", f"cannot be read: {e}")
        return
    found = re.search(f'name="{STATE}" content="([0-9a-f]{{64}})"', text)
    if found and found[1] != state_digest(done, failures):
        what = "was written before the newest results"
        yield _of_run("report.html", what)


def find_unfinished_files(run: RunDirectory) -> Iterator[Fault]:
    """Yield files that a killed process was writing."""
    for path in sorted(run.root.rglob(f"{TEMPORARY}*")):
        name = path.relative_to(run.root).as_posix()
        yield Fault(where=name, what="was left half-written", fix="again")


def say_unchecked(run: RunDirectory, done: Records, *, sealed: bool) -> Iterator[str]:
    """Yield what could not be looked at."""
    old = [slide_id for slide_id, record in done.items() if record.made_with is None]
    if old:
        yield (
            f"{count(len(old), 'slide')} finished by a version that kept the heatmap's "
            f"digest alone, e.g. {old[0]}: damage of other files may go unseen"
        )
    if not sealed:
        yield (
            f"no {SUMS}: the run has not ended, or is of an older version; files at "
            "its top are only read"
        )
    dropped = run.dropped_ids()
    if dropped:
        yield f"{count(len(dropped), 'slide')} dropped: not looked at"
