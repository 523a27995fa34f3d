"""The files that a fit is made from: told by their content, wherever they lie.

A slide counts by :func:`~digipath_ray.storage.digest.slide_digest`, every other file by
all of its bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.config.toml import Tree
from digipath_ray.run.directory import READERS
from digipath_ray.storage.digest import content_digest, slide_digest
from digipath_ray.training.added import added_digests

Digests = dict[str, str]
"""Name of a file -> its digest: ``slide ID``, ``annotation ID``, ``mask ID``, ``hard
examples``, ``extra annotations NAME``."""
OF_A_SLIDE = {"path": "slide", "annotation": "annotation", "mask": "mask"}
"""Column of a manifest -> what it names."""
ADDED = ("hard_examples", "extra_annotations")
"""Fields of [sampling] that name files."""


def input_digests(recipe: Recipe, rows: Sequence[SlideRow]) -> Digests:
    """Digests of all files of a fit that are there.

    Raises:
        ValueError: a file of additional patches is missing or invalid.
        OSError: a bucket cannot be accessed.
    """
    digests = added_digests(recipe, [row.slide_id for row in rows])
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


def changed_slides(
    old: Sequence[Mapping[str, object]],
    new: Sequence[Mapping[str, object]],
    before: Mapping[str, str],
    now: Mapping[str, str],
    mended: frozenset[str] = frozenset(),
) -> tuple[list[str], list[str]]:
    """How the slides of a fit differ from those it was started with.

    Args:
        old: rows of then.
        new: rows of now.
        before: digests of then; empty if a version that kept none started the fit.
        now: digests of now.
        mended: ids of slides of which a file could not be read then: it may differ.

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
                if before[name] != now[name] and slide_id not in mended:
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
