"""Runs started from the page: one at a time, in the order asked for, each cancelable.

Each is a process of its own, ``digipath run``, so that it is what a user would have
typed, and a viewer that ends never leaves half of one behind: the same line goes on.
"""

import asyncio
import contextlib
import re
import signal
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from digipath_ray.manifest import SlideRow, write_manifest
from digipath_ray.rundir import RunDirectory
from digipath_ray.settings import PRESETS
from digipath_ray.storage import place
from digipath_ray.viewer.entries import Json
from digipath_ray.viewer.opened import Entry

State = Literal["queued", "running", "done", "failed", "canceled"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What a run's folder may be called from the page."""
COMMAND = (sys.executable, "-c", "from digipath_ray.cli import main; main()")
MOST_QUEUED = 20
LINES = 40
"""Of what a run says, the last ones are shown."""
LINE_LENGTH = 500
LINE_END = re.compile(r"[\r\n]")
LAST_WORDS_S = 2.0
"""How long what a run has said last is waited for once it has ended."""
ENDS_S = 30.0
"""How long a canceled run may take to end by itself."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run as the page asks for it, checked."""

    slides: tuple[SlideRow, ...]
    preset: str
    weights: str | None
    out: str

    @classmethod
    def of(cls, said: Mapping[str, Any], entries: Mapping[str, Entry]) -> "Wanted":
        """What a post asks for.

        Raises:
            ValueError: what is wrong with it.
        """
        keys = said.get("slides")
        if not isinstance(keys, list) or not keys:
            raise ValueError("slides: choose at least one")
        if not all(isinstance(key, str) and key in entries for key in keys):
            raise ValueError("slides: one of them is not of this cohort")
        preset = said.get("preset")
        if preset not in PRESETS:
            raise ValueError(f"preset: choose from {', '.join(PRESETS)}")
        weights = said.get("weights") or None
        if weights is not None and not (
            isinstance(weights, str) and weights.isprintable()
        ):
            raise ValueError("weights: name a folder, a file or a bucket's URL")
        out = said.get("out")
        if not isinstance(out, str) or not NAME.fullmatch(out):
            raise ValueError(
                "out: name the run with letters, digits, dots, dashes and underscores"
            )
        rows = tuple(entries[key].row for key in dict.fromkeys(keys))
        return cls(slides=rows, preset=str(preset), weights=weights, out=out)


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
        lines: the last that it said.
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
    def said(self) -> Json:
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
            "said": list(self.lines),
        }


class Starts:
    """The queue of runs; one runs at a time, since each takes all GPUs."""

    def __init__(
        self,
        base: str | Path,
        *,
        command: Sequence[str] = COMMAND,
        begun: Callable[[RunDirectory], None] = lambda _: None,
    ) -> None:
        """A queue.

        Args:
            base: the folder in which their directories are made.
            command: what runs ``digipath``.
            begun: told of each run that begins.
        """
        self.base = place(base)
        self._command = tuple(command)
        self._begun = begun
        self._jobs: dict[str, Job] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="digipath-view-")

    @property
    def said(self) -> list[Json]:
        """All runs as JSON, the first asked for first."""
        return [job.said for job in self._jobs.values()]

    def add(self, wanted: Wanted) -> Json:
        """Queue a run.

        Raises:
            ValueError: too many wait, or another one goes to the same place.
            OSError: the list of its slides cannot be written.
        """
        waiting = [j for j in self._jobs.values() if j.state in ("queued", "running")]
        if len(waiting) >= MOST_QUEUED:
            raise ValueError(f"{MOST_QUEUED} runs wait already")
        out = self.base / wanted.out
        if any(job.out == out for job in waiting):
            raise ValueError(f"out: a run that waits is called {wanted.out} already")
        identity = uuid.uuid4().hex[:12]
        manifest = Path(self._folder.name) / f"{identity}.csv"
        write_manifest(wanted.slides, manifest)
        job = Job(id=identity, wanted=wanted, out=out, manifest=manifest, asked=_now())
        self._jobs[identity] = job
        return job.said

    def cancel(self, identity: str) -> Json | None:
        """End a run, or take it out of the queue; None if there is none."""
        job = self._jobs.get(identity)
        if job is None:
            return None
        if job.state == "queued":
            job.state, job.ended = "canceled", _now()
        elif job.state == "running":
            job.state = "canceled"
            _tell(job, signal.SIGINT)
        return job.said

    async def work(self) -> None:
        """Run what is queued, for as long as this task lives."""
        while True:
            queued = [job for job in self._jobs.values() if job.state == "queued"]
            if queued:
                await self._run(queued[0])
            else:
                await asyncio.sleep(0.2)

    async def _run(self, job: Job) -> None:
        job.state, job.started = "running", _now()
        try:
            job.process = await asyncio.create_subprocess_exec(
                *self._command,
                *job.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            job.state, job.ended = "failed", _now()
            job.lines.append(f"cannot be started: {e}")
            return
        self._begun(RunDirectory(job.out))
        try:
            await self._listen(job, job.process)
        finally:
            job.ended, job.exit_code = _now(), job.process.returncode
            if job.state == "running":
                # 1: a slide failed, all others are done.
                job.state = "done" if job.exit_code in (0, 1) else "failed"
            job.process = None

    async def _listen(self, job: Job, process: asyncio.subprocess.Process) -> None:
        """Keep what a run says, until it has ended; end it if it was canceled."""
        assert process.stdout is not None
        reading = asyncio.create_task(_keep_lines(process.stdout, job.lines))
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.5)
            if job.state == "canceled" and process.returncode is None:
                await _end(job)
        # Its own children may hold the pipe open for longer than it lives.
        await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        reading.cancel()

    async def stop(self) -> None:
        """End what runs; called when the server ends."""
        jobs = list(self._jobs.values())
        for job in jobs:  # all at first, so that none begins when another ends
            self.cancel(job.id)
        for job in jobs:
            await _end(job)
        self._folder.cleanup()


async def _keep_lines(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    """Keep whole lines as they come; a part of one waits for its end."""
    rest = ""
    while part := await stream.read(1 << 16):
        *whole, rest = LINE_END.split(rest + part.decode(errors="replace"))
        lines.extend(line[:LINE_LENGTH] for line in whole if line.strip())
        rest = rest[:LINE_LENGTH]
    if rest.strip():
        lines.append(rest)


async def _end(job: Job) -> None:
    """Wait for a run that was told to end; then make it."""
    process = job.process
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if process is None or process.returncode is not None:
            return
        if number is not None:
            _tell(job, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_S)


def _tell(job: Job, number: signal.Signals) -> None:
    """Signal a run's process, which passes it on to its own."""
    if job.process is not None and job.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            job.process.send_signal(number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
