"""What is wrong with a run, and what mends it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from digipath_ray.run.directory import RunDirectory
from digipath_ray.verify.repeat import Repeated

Fix = Literal["discard", "again", "restore"]
"""What mends a fault: the slide's results are discarded and made again; the same run
once more, which writes its tables anew; or a copy of the file from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it should be.

    Attributes:
        where: the file, relative to the run directory.
        what: is wrong with it.
        fix: what mends it.
        slide_id: the slide whose result is damaged, if ``fix`` is discard.
        kinds: of that slide's files (:meth:`RunDirectory.slide_files`), if they alone
            are damaged and not its record.
    """

    where: str
    what: str
    fix: Fix
    slide_id: str | None = None
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was looked at in a run, and what was found.

    Attributes:
        slides: of the manifest.
        finished: of those.
        failed: of those, with the reason in failures.parquet.
        files: whose digests were compared.
        faults: what is wrong.
        missing: slides that neither finished nor failed.
        notes: what could not be looked at, and why.
        repeated: chunks that were predicted again.
    """

    slides: int
    finished: int
    failed: int
    files: int
    faults: Sequence[Fault] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    repeated: Sequence[Repeated] = ()

    @property
    def is_right(self) -> bool:
        """Whether every slide is accounted for and nothing is damaged."""
        return not self.faults and not self.missing


def commands(run: RunDirectory, fix: Fix) -> list[str]:
    """The commands that mend a fault, in order; none if no command does."""
    root = shlex.quote(str(run.root))
    again = f"digipath run {root}/manifest.csv --config {root}/run.toml --out {root}"
    match fix:
        case "discard":
            return [f"digipath verify {root} --discard", again]
        case "again":
            return [again]
        case "restore":
            return []
