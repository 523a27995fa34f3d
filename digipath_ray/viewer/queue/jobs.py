"""Runs that the page asks for: what was asked, checked, and how far each is."""

import asyncio
import re
import shlex
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.toml import PRESETS
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import is_url
from digipath_ray.viewer.collection.snapshot import Entry, Json

State = Literal["queued", "running", "done", "failed", "canceled"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What a run's folder may be called from the page."""
MADE_WEIGHTS = ("random", "imagenet")
"""Weights that are no file's."""
NAMES_TRIED = 1000
LINES = 40
"""Of what a run says, the last ones are shown."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run as the page asks for it, checked."""

    slides: tuple[SlideRow, ...]
    preset: str
    weights: str | None
    out: str

    @classmethod
    def of(
        cls, body: Mapping[str, Any], entries: Mapping[str, Entry], *, base: Path
    ) -> "Wanted":
        """What a post asks for.

        Args:
            body: the post.
            entries: the slides to choose from, by key.
            base: the folder in which the run's directory is made.

        Raises:
            ValueError: what is wrong with it.
        """
        keys = body.get("slides")
        if not isinstance(keys, list) or not keys:
            raise ValueError("slides: choose at least one")
        if not all(isinstance(key, str) and key in entries for key in keys):
            raise ValueError("slides: one of them is not of this cohort")
        preset = body.get("preset")
        if preset not in PRESETS:
            raise ValueError(f"preset: choose from {', '.join(PRESETS)}")
        weights = _weights_of(body)
        out = body.get("out")
        if not isinstance(out, str) or not NAME.fullmatch(out):
            raise ValueError(
                "out: name the run with letters, digits, dots, dashes and underscores"
            )
        if not is_free(base / out):
            raise ValueError(
                f"out: {out} is there already, and a run mixes no two choices of "
                "slides: choose another name"
            )
        rows = tuple(entries[key].row for key in dict.fromkeys(keys))
        return cls(slides=rows, preset=str(preset), weights=weights, out=out)


def _weights_of(body: Mapping[str, Any]) -> str | None:
    weights = body.get("weights") or None
    if weights is None or weights in MADE_WEIGHTS:
        return weights
    if not isinstance(weights, str) or not weights.isprintable():
        raise ValueError("weights: name a folder, a file or a bucket's URL")
    if not is_url(weights) and not Path(weights).expanduser().exists():
        raise ValueError(f"weights: {weights}: not there")
    return weights


def is_free(out: Path) -> bool:
    """Whether a new run can be made there: nothing is there, or an empty folder."""
    if is_url(out):
        run = RunDirectory(out)
        return not (run.settings.exists() or run.status.exists())
    try:
        return not any(out.iterdir())
    except FileNotFoundError:
        return not out.is_symlink()
    except OSError:  # a file, or a folder of somebody else's
        return False


def find_free(base: Path, stem: str, *, taken: Collection[Path]) -> str:
    """A name for a new run: the stem, else the stem and the first number that is free.

    Args:
        base: the folder in which the run's directory is made.
        stem: what it is to be called.
        taken: directories that runs which wait will make.
    """
    names = (stem, *(f"{stem}-{number}" for number in range(2, NAMES_TRIED)))
    free = (n for n in names if base / n not in taken and is_free(base / n))
    return next(free, stem)


@dataclass(kw_only=True, eq=False)
class Job:
    """A run that was asked for.

    Attributes:
        id: its name.
        wanted: what was asked.
        out: its run directory.
        manifest: the file that lists its slides.
        state: how far it is.
        asked, started, ended: when, UTC, ISO 8601.
        exit_code: of its process, once that has ended.
        lines: the last that it printed.
        listed: its manifest is written.
        finished: its results can be opened.
        process: while it runs.
    """

    id: str
    wanted: Wanted
    out: Path
    manifest: Path
    state: State = "queued"
    asked: str
    started: str | None = None
    ended: str | None = None
    exit_code: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    listed: bool = False
    finished: bool = False
    process: asyncio.subprocess.Process | None = None

    @property
    def arguments(self) -> list[str]:
        """Of ``digipath``; values are bound to their options, so that none is one."""
        weights = self.wanted.weights
        return [
            "run",
            str(self.manifest),
            f"--preset={self.wanted.preset}",
            f"--out={self.out}",
            *([] if weights is None else [f"--weights={weights}"]),
        ]

    @property
    def payload(self) -> Json:
        """As JSON."""
        return {
            "id": self.id,
            "state": self.state,
            "slides": len(self.wanted.slides),
            "preset": self.wanted.preset,
            "weights": self.wanted.weights,
            "out": str(self.out),
            "asked": self.asked,
            "started": self.started,
            "ended": self.ended,
            "exit_code": self.exit_code,
            "output": list(self.lines),
            "finished": self.finished,
            "open": f"digipath view {shlex.quote(str(self.out))}"
            if self.finished
            else None,
        }
