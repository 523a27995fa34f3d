"""The option ``--slide-ids``: the cohort of a command under the ids that it is to show.

With ``hash`` nothing that is printed or logged names a slide's files from here on.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.cohort.pseudonyms import (
    HIDDEN,
    SECRET,
    Pseudonym,
    SlideIds,
    hash_ids,
    is_hashed,
    names_of,
    read_pseudonyms,
    read_secret,
    replace_names,
    write_pseudonyms,
)
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.storage.files import publish


def read_given(
    run: RunDirectory, inputs: Sequence[str | Path], slide_ids: SlideIds
) -> list[SlideRow]:
    """The cohort that the inputs name; its ids are those of the directory.

    With ``hash``, ``ids.csv`` of the directory says whom they stand for.

    Args:
        run: the directory of a run or a fit, whether it exists or not.
        inputs: what the user named.
        slide_ids: name or hash.

    Raises:
        ValueError: what :func:`read_cohort` and :func:`read_secret` refuse.
        RunError: the directory was made with other ids, or with another secret.
        OSError: a file cannot be read or written.
    """
    if slide_ids == "name":
        rows = read_cohort(inputs)
        if run.pseudonyms.exists() and not all(is_hashed(r.slide_id) for r in rows):
            raise RunError(
                f"{run.root} was made with --slide-ids hash: give it again, or choose "
                "another --out"
            )
        return rows
    secret = read_secret()
    hiding = HideNames({})
    hiding.install()
    given = read_cohort(inputs)
    rows, found = hash_ids(given, secret)
    for before, after in zip(given, rows, strict=True):
        hiding.names |= names_of(after)
        if before.slide_id != after.slide_id:
            hiding.names[before.slide_id] = after.slide_id
    _check_agrees(run, found)
    if found:
        known = read_pseudonyms(run.pseudonyms) if run.pseudonyms.exists() else {}
        with publish(run.pseudonyms) as path:
            write_pseudonyms((known | {p.id: p for p in found}).values(), path)
    return rows


def _check_agrees(run: RunDirectory, found: Sequence[Pseudonym]) -> None:
    """Refuse a directory whose slides have names, or ids of another secret."""
    if not run.settings.exists():
        return
    named = [i for i in run.finished_ids() if not is_hashed(i)]
    if named or (found and not run.pseudonyms.exists()):
        raise RunError(
            f"{run.root} was made with --slide-ids name, and shows names: choose "
            "another --out"
        )
    if not found:
        return
    before = {(p.kind, p.name): p.id for p in read_pseudonyms(run.pseudonyms).values()}
    if any(before.get((p.kind, p.name), p.id) != p.id for p in found):
        raise RunError(
            f"{run.root} was made with another secret: set {SECRET} to that one (unset "
            "it for your own), or choose another --out"
        )


class HideNames(logging.Filter):
    """Writes ids for names, and HIDDEN for other paths, in all that is logged.

    Attributes:
        names: what to look for -> what to write.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = dict(names)

    def install(self) -> None:
        """Hide names in what the root logger writes from now on, once."""
        for handler in logging.getLogger().handlers:
            for old in [f for f in handler.filters if isinstance(f, HideNames)]:
                handler.removeFilter(old)
            handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(self._shown, record.args))
        text = record.getMessage()
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            text, record.exc_info, record.exc_text = f"{text}\n{trace}", None, None
        record.msg, record.args = replace_names(text, self.names), ()
        return True

    def _shown(self, value: object) -> object:
        if isinstance(value, Path):
            return self.names.get(str(value), HIDDEN)
        return value
