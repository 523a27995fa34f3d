"""The file ``SHA256SUMS`` of a run that has ended: a digest of every file of it.

``sha256sum -c SHA256SUMS`` checks a run without this package. It is removed when a
command begins to write to the run and written when that has ended, so that a run whose
process was killed has none. Files of slides are not read again for it: their ``done``
records know their digests.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath

from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.record import DoneRecord
from digipath_ray.storage.files import (
    file_digest,
    json_digest,
    publish,
    read_text,
    text_digest,
)

SUMS = "SHA256SUMS"


def sums_file(run: RunDirectory) -> Path:
    """Where the checksums of a run are."""
    return run.root / SUMS


def unseal(run: RunDirectory) -> None:
    """Remove the checksums: from now on the run is written to."""
    sums_file(run).unlink(missing_ok=True)


def seal(run: RunDirectory) -> None:
    """Write the checksums of a run that is as it should be; nobody else writes to it.

    A task that was killed may have left half a file, though its slide is finished.
    """
    run.remove_unfinished()
    sums = {name: file_digest(run.root / name) for name in tables_of(run)}
    with ThreadPoolExecutor(READERS) as pool:
        for of_slide in pool.map(partial(_sums_of_slide, run), run.finished_ids()):
            sums |= of_slide
    _write(sums, run)


def _sums_of_slide(run: RunDirectory, slide_id: str) -> dict[str, str]:
    """Name -> digest of a slide's record and files; the record is read once."""
    text = read_text(run.done(slide_id))
    own = {f"done/{slide_id}.json": text_digest(text)}
    try:
        return {**own, **sums_of(run, DoneRecord.from_text(text))}
    except ValueError:  # which verify says
        return own


def reseal(run: RunDirectory, path: Path) -> None:
    """Note that a file at the top of a sealed run was written anew."""
    sums = read_sums(run)
    if sums is not None:
        _write({**sums, path.name: file_digest(path)}, run)


def _write(sums: Mapping[str, str], run: RunDirectory) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    with publish(sums_file(run)) as path:
        path.write_text("".join(lines), encoding="utf-8")


def sums_of(run: RunDirectory, record: DoneRecord) -> dict[str, str]:
    """Name in the run directory -> digest, of the files of a finished slide."""
    paths = run.slide_files(record.slide.slide_id)
    return {
        paths[kind].relative_to(run.root).as_posix(): digest
        for kind, digest in record.files.items()
        if kind in paths
    }


def tables_of(run: RunDirectory) -> list[str]:
    """Names of the files that lie at the top of a run directory and are there."""
    paths = (
        *(run.settings, run.manifest, run.slides, run.outcomes, run.features),
        *(run.patients, run.failures, run.metrics, run.status, run.report),
        run.pseudonyms,
    )
    return [path.name for path in paths if path.exists()]


def read_sums(run: RunDirectory) -> dict[str, str] | None:
    """Name in the run directory -> digest; None if the run has not ended.

    Raises:
        ValueError: the file is damaged.
    """
    path = sums_file(run)
    if not path.exists():
        return None
    sums = {}
    for line in read_text(path).splitlines():
        digest, separator, name = line.partition("  ")
        parts = PurePosixPath(name).parts
        is_inside = parts and parts[0] != "/" and ".." not in parts
        if len(digest) != 64 or not separator or not is_inside:
            raise ValueError(
                f"{path}: not lines of a SHA-256 and a name: {line[:99]!r}"
            )
        sums[name] = digest
    return sums


def state_digest(done: Mapping[str, DoneRecord], failures: Sequence[Failure]) -> str:
    """SHA-256 of what a run has come to: its records and failures, in any order."""
    records = [json_digest(record.to_json()) for record in done.values()]
    return json_digest(
        [sorted(records), sorted(json_digest(vars(f)) for f in failures)]
    )
