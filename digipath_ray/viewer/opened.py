"""What is opened as it stands at one moment: runs, slides, patients; never changed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from digipath_ray.manifest import SlideRow
from digipath_ray.report.findings import Row
from digipath_ray.rundir import RunDirectory
from digipath_ray.storage import is_url
from digipath_ray.viewer.entries import Json

FIRST, SECOND = "a", "b"
"""Names of the opened run and of the one to compare it with."""

Stamps = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenRun:
    """A run that is opened.

    Attributes:
        name: FIRST or SECOND.
        directory: where it lies.
        stamps: slide_id -> what tells a finished slide's files from others.
    """

    name: str
    directory: RunDirectory
    stamps: Stamps

    def version(self, slide_id: str) -> str:
        """Changes when what the run says of a slide does."""
        said = f"{self.directory.root} {slide_id} {self.stamps.get(slide_id)}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A slide of a collection.

    Attributes:
        key: its name in addresses.
        row: as the manifest, or the run, had it.
        says: what the page shows of it.
        told: its row of SLIDES; empty if no run has prepared it.
        runs: those that hold it, by name.
        outcomes: by run, its row of OUTCOMES.
        lesions: of the first run, as its record lists them.
        facts: of the first run, names and numbers in words.
        notes: what else to know of it.
        threshold: probability at which the first run outlined lesions.
    """

    key: str
    row: SlideRow
    says: Json
    told: Row = field(default_factory=dict)
    runs: Mapping[str, OpenRun] = field(default_factory=dict)
    outcomes: Mapping[str, Row] = field(default_factory=dict)
    lesions: Sequence[Row] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    threshold: float = 0.5

    @property
    def slide_id(self) -> str:
        """Its name."""
        return self.row.slide_id

    @property
    def l0_size(self) -> tuple[int, int] | None:
        """Width and height, level-0 px, where a run says so."""
        return (self.told["width"], self.told["height"]) if self.told else None

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Um per level-0 px in x and y, where a run says so."""
        return (self.told["mpp_x"], self.told["mpp_y"]) if self.told else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """A collection as it stands.

    Attributes:
        title: what is opened.
        kind: "run" or "folder".
        ending: what a run's slides end in: "stage", "burden" or "none".
        notes: why its findings are no prediction, or no test.
        runs: the opened ones, by name.
        status: how far the first run is, as JSON; None of one that does not say.
        entries: by key, the most pressing first.
        patients: as JSON, in the order of their names.
    """

    title: str
    kind: str
    ending: str
    notes: tuple[str, ...] = ()
    runs: Mapping[str, OpenRun] = field(default_factory=dict)
    status: Json | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    patients: Sequence[Json] = ()

    @property
    def slides(self) -> dict[str, Json]:
        """Key -> what is said of the slide."""
        return {key: entry.says for key, entry in self.entries.items()}


def inside(run: RunDirectory, path: Path) -> Path | None:
    """A file of a run; None if it is not there, or a link leads out of the run."""
    if is_url(path):
        return path if str(path).startswith(f"{run.root}/") else None
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # absent; a NUL; links in a circle
        return None
    root = run.root.resolve()
    return real if real.is_file() and real.is_relative_to(root) else None
