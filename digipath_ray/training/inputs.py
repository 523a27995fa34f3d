"""The files that a fit is made from: told by their content, wherever they lie.

A slide counts by :func:`~digipath_ray.storage.digest.slide_digest`, every other file by
all of its bytes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.toml import Tree
from digipath_ray.run.directory import READERS
from digipath_ray.run.failure import Failure
from digipath_ray.slide.info import SlideError
from digipath_ray.storage.digest import content_digest, slide_digest

Digests = dict[str, str]
"""Name of a file -> its digest: ``slide ID``, ``annotation ID``, ``mask ID``, ``hard
examples``, ``extra annotations NAME``."""
OF_A_SLIDE = {"path": "slide", "annotation": "annotation", "mask": "mask"}
"""Column of a manifest -> what it names."""
REPLACED = "was replaced after the fit was started"
ADDED = ("hard_examples", "extra_annotations")
"""Fields of [sampling] that name files."""


def cohort_digests(rows: Sequence[SlideRow]) -> Digests:
    """Digests of all files that a cohort names, of those that can be read."""
    digests: Digests = {}
    with ThreadPoolExecutor(READERS) as pool:
        for row, found in zip(rows, pool.map(row_digests, rows), strict=True):
            digests |= {f"{kind} {row.slide_id}": d for kind, d in found.items()}
    return digests


def row_digests(row: SlideRow) -> dict[str, str]:
    """Digests of a row's slide, annotation and mask, of those that can be read."""
    given: dict[str, tuple[str | None, Callable[[str], str | None]]] = {
        "slide": (row.path, slide_digest),
        "annotation": (row.annotation, content_digest),
        "mask": (row.mask, content_digest),
    }
    found: dict[str, str] = {}
    for kind, (path, digest_of) in given.items():
        try:
            digest = None if path is None else digest_of(path)
        except OSError:  # said when it is opened
            continue
        if digest is not None:
            found[kind] = digest
    return found


def may_be_mended(failures: Iterable[Failure]) -> frozenset[str]:
    """Names of the files that a person may have replaced since, as they were asked to.

    No patch was fitted on a slide that could not be prepared; one that could not be
    read in places may be a better copy now, but what was drawn on it may not differ.
    """
    names = set()
    for failure in failures:
        if REPLACED in failure.error:
            continue
        kinds = OF_A_SLIDE.values() if failure.step == "prepare" else ("slide",)
        names |= {f"{kind} {failure.slide_id}" for kind in kinds}
    return frozenset(names)


def check_inputs(row: SlideRow, digests: Mapping[str, str]) -> None:
    """Refuse a slide of which a file was replaced after the fit was started.

    Args:
        row: the slide.
        digests: of the files of the fit; those that it does not hold are not looked at.

    Raises:
        SlideError: a file has other content now.
    """
    for kind, now in row_digests(row).items():
        if digests.get(f"{kind} {row.slide_id}", now) != now:
            raise SlideError(
                f"its {kind} {REPLACED}",
                "put it back, or give --overwrite to start the fit over",
            )


def changed_slides(
    old: Sequence[Mapping[str, object]],
    new: Sequence[Mapping[str, object]],
    before: Mapping[str, str],
    now: Mapping[str, str],
    mended: frozenset[str],
) -> tuple[list[str], list[str]]:
    """How the slides of a fit differ from those it was started with.

    Args:
        old: rows of then.
        new: rows of now.
        before: digests of then; empty if a version that kept none started the fit.
        now: digests of now.
        mended: names of files that could not be used then: they may differ.

    Returns:
        A line per slide that was added, removed or changed; and the files that are the
        same under another path.
    """
    then = {str(row["slide_id"]): row for row in old}
    today = {str(row["slide_id"]): row for row in new}
    changed, moved = [], []
    for slide_id in sorted(then.keys() | today.keys()):
        if slide_id not in then or slide_id not in today:
            what = "removed" if slide_id in then else "added"
            changed.append(f"slide {slide_id}: {what}")
            continue
        one, two = then[slide_id], today[slide_id]
        for column in sorted(one.keys() | two.keys()):
            kind = OF_A_SLIDE.get(column)
            name = f"{kind} {slide_id}"
            same_text = one.get(column) == two.get(column)
            if kind is not None and name in before and name in now:
                if before[name] != now[name] and name not in mended:
                    where = two.get(column)
                    changed.append(f"slide {slide_id}: other content of {kind} {where}")
                elif not same_text:
                    moved.append(name)
            elif not same_text:
                values = f"{one.get(column)} -> {two.get(column)}"
                changed.append(f"slide {slide_id}: {column}: {values}")
    return changed, moved


def changed_added(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of hard examples and corrections that have changed."""
    kinds = tuple(f"{kind} " for kind in OF_A_SLIDE.values())
    names = sorted(n for n in before.keys() | now.keys() if not n.startswith(kinds))
    return [name for name in names if before.get(name) != now.get(name)]


def with_moved(old: Tree, new: Tree) -> Tree:
    """The tree of then with the paths of now, of files that are told by their content.

    A path that only one of them has stays.
    """
    then, now = old.get("sampling", {}), new.get("sampling", {})
    paths = {name: now[name] for name in ADDED if name in then and name in now}
    return {**old, "sampling": {**then, **paths}} if paths else old
