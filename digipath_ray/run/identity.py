"""Whether a run's slides are still the files that it was made from.

A slide is its bytes (:mod:`digipath_ray.storage.digest`). Its path is only where they
are now: a job's scratch folder, a mount that has moved, another bucket.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.cohort.pseudonyms import shown_path
from digipath_ray.run.directory import READERS, RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.record import DoneRecord, SlideRecord
from digipath_ray.slide.open import SlideError, open_slide
from digipath_ray.storage.cache import local_copy, object_version
from digipath_ray.storage.digest import ANSWER_S, describe_change, slide_digest
from digipath_ray.storage.files import file_digest, is_url, place
from digipath_ray.storage.stalled import within
from digipath_ray.words import name_some

log = logging.getLogger(__name__)

MISSING = "missing"
"""In place of the digest of a mask that is not there, or whose disk is silent."""

Verdict = Literal[
    "same", "moved", "replaced", "missing", "unreadable", "undigested", "refused"
]
NOTES: dict[Verdict, str] = {
    "replaced": "made anew, as the file was replaced after the slide was finished",
    "moved": "the same slide under another path: its result stays",
    "missing": "the file cannot be read now: its result stays, as it was made before",
    "unreadable": "the file has changed and cannot be opened now: the result of before "
    "stays",
    "undigested": "finished by a version that kept no digest, so told by path and size "
    "in px alone: its result stays",
}
"""What is said of slides that are not simply the same."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A slide's files as they are now.

    Attributes:
        digest: of the files; None if they cannot be read.
        version: of the object, if the slide is in a bucket.
    """

    digest: str | None
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a finished slide is held to be, and why."""

    verdict: Verdict
    why: str = ""
    version: str | None = None


def look_at(path: str, before: SlideRecord) -> Look:
    """The digest of a slide's files now.

    Of an object that is still the version of ``before`` it is the digest of then, and
    nothing of it is read.

    Raises:
        OSError: the bucket cannot be accessed.
    """
    if not is_url(path):
        try:
            return Look(digest=slide_digest(path))
        except OSError:
            return Look(digest=None)
    try:
        version = object_version(path)
        if before.version == version and is_same_place(path, before.path):
            return Look(digest=before.digest, version=version)
        return Look(digest=slide_digest(path), version=version)
    except FileNotFoundError:
        return Look(digest=None)


def is_same_place(path: str, other: str) -> bool:
    """Whether two paths, or URLs, name the same file."""
    if is_url(path) or is_url(other):
        return str(place(path)) == str(place(other))
    return os.path.realpath(path) == os.path.realpath(other)


def digest_mask(row: SlideRow) -> str | None:
    """SHA-256 of the tissue mask given for a slide; None without one."""
    path = row.mask
    if path is None:
        return None

    def digest() -> str:
        with local_copy(path) as copy:
            return file_digest(copy.path)

    try:
        return digest() if is_url(path) else within(ANSWER_S, digest, path)
    except (FileNotFoundError, TimeoutError):
        return MISSING


def check_same(path: str, digest: str, *, since: str) -> None:
    """Refuse a slide on a disk that is not the one of a digest; it may be missing.

    Args:
        path: file of the slide.
        digest: of its files then.
        since: when that was, for the message.

    Raises:
        SlideError: its files have other content now.
    """
    try:
        now = slide_digest(path)
    except OSError:  # opening it says why
        return
    if now != digest:
        raise SlideError(
            f"{path}: was replaced after {since} ({describe_change(digest, now)})",
            "run again, and it is made anew; do not write to the inputs of a run "
            "while it runs",
        )


def hold_against_files(
    run: RunDirectory, rows: Sequence[SlideRow], done: Mapping[str, DoneRecord]
) -> tuple[dict[str, DoneRecord], list[str]]:
    """Finished slides that are still the slides of ``rows``; and what there is to say.

    A slide whose file was replaced under its name is forgotten, and is made anew. One
    that lies elsewhere now is the same: its record follows.

    Args:
        run: whose records are written.
        rows: of this start.
        done: slide_id -> record.

    Raises:
        RunError: a finished slide_id names another slide, mpp or mask now.
        OSError: a bucket cannot be accessed.
    """
    known = [row for row in rows if row.slide_id in done]
    with ThreadPoolExecutor(READERS) as pool:
        examined = pool.map(lambda row: examine(row, done[row.slide_id].slide), known)
        findings = dict(zip([row.slide_id for row in known], examined, strict=True))
    refused = {i: f.why for i, f in findings.items() if f.verdict == "refused"}
    if refused:
        lines = [
            f"{i} was finished from another slide, mpp or mask ({why})"
            for i, why in refused.items()
        ]
        raise RunError(
            f"{name_some(lines)}: choose another --out, mend the manifest, or "
            "--overwrite to make them again"
        )
    records = dict(done)
    for row in known:
        found = findings[row.slide_id]
        if found.verdict == "replaced":
            # Said now, too: a run that is killed prints no summary.
            log.warning("%s: %s (%s)", row.slide_id, NOTES["replaced"], found.why)
            run.forget(row.slide_id)
            del records[row.slide_id]
        elif found.verdict == "moved":
            record = records[row.slide_id]
            slide = replace(
                record.slide, path=row.path, mask=row.mask, version=found.version
            )
            records[row.slide_id] = replace(record, slide=slide)
            run.write_record(records[row.slide_id])
    return records, _sentences(findings)


def _sentences(findings: Mapping[str, Finding]) -> list[str]:
    """A sentence for each verdict that says something, naming some slides."""
    sentences = []
    for verdict, meaning in NOTES.items():
        named = [
            f"{i} ({f.why})" if f.why else i
            for i, f in findings.items()
            if f.verdict == verdict
        ]
        if named:
            sentences.append(f"{meaning}: {name_some(named)}")
    return sentences


def examine(row: SlideRow, before: SlideRecord) -> Finding:
    """What the row of a finished slide names now.

    Raises:
        OSError: a bucket cannot be accessed.
    """
    mask = digest_mask(row)
    changed = [] if before.mpp == row.mpp else [f"mpp: {before.mpp} -> {row.mpp}"]
    if mask not in (before.mask_digest, MISSING):
        masks = (shown_path(m, row.slide_id) for m in (before.mask, row.mask))
        changed.append(f"mask: {' -> '.join(masks)}, of other content")
    if changed:
        return Finding(verdict="refused", why=", ".join(changed))
    stays = is_same_place(row.path, before.path)
    moved = " -> ".join(shown_path(p, row.slide_id) for p in (before.path, row.path))
    path = f"path: {moved}"
    if before.digest is None:
        if not stays:
            why = f"{path}, and a version that kept no digest finished it"
            return Finding(verdict="refused", why=why)
        size = _size_now(row)
        if size is None or size == (before.width, before.height):
            return Finding(verdict="undigested")
        why = f"{size[0]}x{size[1]} px, {before.width}x{before.height} before"
        return Finding(verdict="replaced", why=why)
    now = look_at(row.path, before)
    if now.digest is None:
        if stays:
            return Finding(verdict="missing")
        return Finding(verdict="refused", why=f"{path}, which is not there")
    if now.digest == before.digest:
        if stays:
            return Finding(verdict="same")
        return Finding(verdict="moved", why=moved, version=now.version)
    why = describe_change(before.digest, now.digest)
    if not stays:
        return Finding(verdict="refused", why=f"{path}, {why}")
    if not is_url(row.path) and _size_now(row) is None:
        return Finding(verdict="unreadable", why=why)
    return Finding(verdict="replaced", why=why)


def _size_now(row: SlideRow) -> tuple[int, int] | None:
    """Width and height of a slide on a disk, level-0 px; None if it cannot be told."""
    if is_url(row.path):
        return None
    try:
        with open_slide(row.path, mpp=row.mpp) as slide:
            return slide.info.width, slide.info.height
    except (SlideError, OSError):
        return None
