"""Jobs: validated requests for runs, and their state."""

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
"""Valid names of a run's folder."""
MADE_WEIGHTS = ("random", "imagenet")
"""Weights that are not files."""
NAMES_TRIED = 1000
LINES = 40
"""Number of last output lines shown."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A validated request for a run."""

    slides: tuple[SlideRow, ...]
    preset: str
    weights: str | None
    out: str

    @classmethod
    def of(
        cls, body: Mapping[str, Any], entries: Mapping[str, Entry], *, base: Path
    ) -> "Wanted":
        """Validate a POST body.

        Args:
            body: JSON body.
            entries: available slides by key.
            base: parent folder of the run directory.

        Raises:
            ValueError: the request is invalid.
        """
        keys = body.get("slides")
        if not isinstance(keys, list) or not keys:
            raise ValueError("slides: choose at least one")
        if not all(isinstance(key, str) and key in entries for key in keys):
            raise ValueError("slides: one of them is not in this cohort")
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
            raise ValueError(f"out: {out} already exists: choose another name")
        rows = tuple(entries[key].row for key in dict.fromkeys(keys))
        return cls(slides=rows, preset=str(preset), weights=weights, out=out)


def _weights_of(body: Mapping[str, Any]) -> str | None:
    weights = body.get("weights") or None
    if weights is None or weights in MADE_WEIGHTS:
        return weights
    if not isinstance(weights, str) or not weights.isprintable():
        raise ValueError("weights: give a folder, a file or a bucket URL")
    if not is_url(weights) and not Path(weights).expanduser().exists():
        raise ValueError(f"weights: {weights}: not found")
    return weights


def is_free(out: Path) -> bool:
    """Whether a new run can be created: the path is missing or an empty folder."""
    if is_url(out):
        run = RunDirectory(out)
        return not (run.settings.exists() or run.status.exists())
    try:
        return not any(out.iterdir())
    except FileNotFoundError:
        return not out.is_symlink()
    except OSError:  # a file, or an unreadable folder
        return False


def find_free(base: Path, stem: str, *, taken: Collection[Path]) -> str:
    """Find a free run name: the stem, else the stem and the first free number.

    Args:
        base: parent folder of the run directory.
        stem: preferred name.
        taken: directories of queued runs.
    """
    names = (stem, *(f"{stem}-{number}" for number in range(2, NAMES_TRIED)))
    free = (n for n in names if base / n not in taken and is_free(base / n))
    return next(free, stem)


@dataclass(kw_only=True, eq=False)
class Job:
    """A requested run.

    Attributes:
        id: job id.
        wanted: validated request.
        out: run directory.
        manifest: manifest of its slides.
        state: state of the job.
        asked, started, ended: times, UTC, ISO 8601.
        exit_code: exit code of the ended process.
        lines: last output lines.
        listed: whether its manifest is written.
        finished: whether its results can be opened.
        process: running process.
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
        """Arguments of ``digipath``; --option=value, so that no value is an option."""
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
        """JSON payload."""
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
