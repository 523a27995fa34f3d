"""Listing a bucket of which some keys cannot be listed.

A key with an empty, "." or ".." segment (``slides//a.svs``) is legal in S3 and no path
to obstore, which then gives up the whole page it stands on. Here it costs that key:
folders are listed one by one, and in its own folder the listing goes on behind it.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any

import obstore
from obstore.exceptions import InvalidPathError
from obstore.store import ObjectStore

log = logging.getLogger(__name__)

_BAD_PATH = re.compile(r'Path "(.*?)"(?:: | contained)')
MAX_BAD_KEYS = 10
"""Kinds of bad keys of one folder that are stepped over."""

Found = Any
"""obstore's ObjectMeta."""


def list_found(store: ObjectStore, prefix: str | None, name: str) -> Iterator[Found]:
    """Yield the objects below a prefix; keys that cannot be listed are warned of.

    Args:
        store: the bucket.
        prefix: folder in it; None for all.
        name: URL of the bucket, for the warning.

    Raises:
        obstore.exceptions.BaseError: the bucket cannot be accessed.
        InvalidPathError: there are so many such keys that it cannot be stepped over.
    """
    seen: set[str] = set()
    try:
        for page in obstore.list(store, prefix):
            for found in page:
                seen.add(found["path"])
                yield found
    except InvalidPathError:
        for found in _list_around(store, prefix or "", name):
            if found["path"] not in seen:
                yield found


def _list_around(store: ObjectStore, folder: str, name: str) -> Iterator[Found]:
    """Yield what is below a folder, folder by folder."""
    try:
        here = obstore.list_with_delimiter(store, folder or None)
    except InvalidPathError as e:
        yield from _list_behind(store, folder, bad_path(e), name)
        return
    yield from here["objects"]
    for below in here["common_prefixes"]:
        try:
            yield from [f for page in obstore.list(store, below) for f in page]
        except InvalidPathError:
            yield from _list_around(store, below, name)


def _list_behind(
    store: ObjectStore, folder: str, bad: str, name: str
) -> Iterator[Found]:
    """Yield what follows a bad key of this folder, in the order of keys."""
    for _ in range(MAX_BAD_KEYS):
        log.warning(
            "%s/%s: passed over, as a key with an empty or '.' segment cannot be read. "
            "Nor can names of that folder be listed that come before it, those that "
            "begin with one of !\"#$%%&'()*+,-. Rename or delete the key",
            name,
            bad,
        )
        _, start = step_over(bad)
        try:
            exact = obstore.head(store, start)
        except FileNotFoundError:
            exact = None
        if exact is not None:
            yield exact
        try:
            pages = obstore.list(store, folder or None, offset=start)
            yield from [found for page in pages for found in page]
        except InvalidPathError as e:
            bad = bad_path(e)
            if step_over(bad)[0] != folder:
                raise  # in a folder below: stepping over it would skip this one's
            continue
        return


def bad_path(error: InvalidPathError) -> str:
    """The key, or its beginning, that obstore could not read."""
    found = _BAD_PATH.search(str(error))
    if found is None:
        raise error
    return found[1]


def step_over(bad: str) -> tuple[str, str]:
    """The folder of a bad segment, and the first readable key behind it.

    ``a//b`` and all of ``a//`` come before ``a/0``, as 0 follows the slash in ASCII.
    """
    parts = bad.split("/")
    worst = next(i for i, part in enumerate(parts) if part in ("", ".", ".."))
    behind = "0" if worst < len(parts) - 1 else "!"  # of "a/." itself
    return "/".join(parts[:worst]), "/".join(parts[: worst + 1]) + behind
