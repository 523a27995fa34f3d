"""Runs started from the page: one at a time, in the order asked for, each cancelable.

Each is a process of its own, ``digipath run``, so that it is what a user would have
typed, and a viewer that ends never leaves half of one behind: the same line goes on.
"""

import asyncio
import contextlib
import logging
import re
import signal
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from digipath_ray.cohort.manifest import write_manifest
from digipath_ray.run.directory import RunDirectory
from digipath_ray.storage.files import place
from digipath_ray.viewer.collection.snapshot import Json
from digipath_ray.viewer.queue.jobs import Job, Wanted, find_free

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-c", "from digipath_ray.cli import main; main()")
MOST_QUEUED = 20
WAITING = ("queued", "running")
LINE_LENGTH = 500
LINE_END = re.compile(r"[\r\n]")
PLAIN = re.compile(r"[^A-Za-z0-9]+")
TITLE_LENGTH = 40
"""Of a title, so much is in the name of a run on its slides."""
LAST_WORDS_S = 2.0
"""How long the last lines a run has printed is waited for once it has ended."""
ENDS_S = 30.0
"""How long a canceled run may take to end by itself."""


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
    def payloads(self) -> list[Json]:
        """All runs as JSON, the first asked for first."""
        return [job.payload for job in self._jobs.values()]

    async def add(self, wanted: Wanted) -> Json:
        """Queue a run.

        Jobs are only ever touched on the event loop; and its place is taken before the
        disk is waited for, so that of two posts at once one is refused.

        Raises:
            ValueError: too many wait, or another one goes to the same place.
            OSError: the list of its slides cannot be written.
        """
        waiting = [j for j in self._jobs.values() if j.state in WAITING]
        if len(waiting) >= MOST_QUEUED:
            raise ValueError(f"{MOST_QUEUED} runs wait already")
        out = self.base / wanted.out
        if any(job.out == out for job in waiting):
            raise ValueError(f"out: a run that waits is called {wanted.out} already")
        identity = uuid.uuid4().hex[:12]
        manifest = Path(self._folder.name) / f"{identity}.csv"
        job = Job(id=identity, wanted=wanted, out=out, manifest=manifest, asked=_now())
        self._jobs[identity] = job
        try:
            await run_in_threadpool(write_manifest, wanted.slides, manifest)
        except OSError:
            del self._jobs[identity]
            raise
        job.listed = True
        return job.payload

    async def free_name(self, title: str) -> str:
        """A name that a new run can have: the title, the day, and a number if needed.

        Args:
            title: of what its slides are chosen from.
        """
        plain = PLAIN.sub("-", title)[:TITLE_LENGTH].strip("-") or "run"
        stem = f"{plain}-{datetime.now(UTC):%Y-%m-%d}"
        taken = {job.out for job in self._jobs.values() if job.state in WAITING}
        return await run_in_threadpool(find_free, self.base, stem, taken=taken)

    def cancel(self, identity: str) -> Json | None:
        """End a run, or take it out of the queue; None if there is none."""
        job = self._jobs.get(identity)
        if job is None:
            return None
        if job.state == "queued":
            job.state, job.ended = "canceled", _now()
        elif job.state == "running":
            job.state = "canceled"
            _signal(job, signal.SIGINT)
        return job.payload

    async def work(self) -> None:
        """Run what is queued, for as long as this task lives."""
        while True:
            queued = [j for j in self._jobs.values() if j.state == "queued"]
            ready = [job for job in queued if job.listed]
            if ready:
                await self._run(ready[0])
            else:
                await asyncio.sleep(0.2)

    async def _run(self, job: Job) -> None:
        """Run one to its end; what goes wrong is its own, and the next comes."""
        job.state, job.started = "running", _now()
        try:
            await self._spawn(job)
        except (OSError, ValueError, RuntimeError) as e:
            log.warning("%s: %s", job.out, e)
            job.lines.append(f"cannot be run: {e}")
        finally:
            process, job.process = job.process, None
            job.exit_code = None if process is None else process.returncode
            # 1: a slide failed, all others are done.
            ended_well = job.exit_code in (0, 1)
            stands = ended_well and await run_in_threadpool(_is_run, job.out)
            job.ended = _now()
            if job.state == "running":
                job.state = "done" if ended_well else "failed"
                job.finished = stands

    async def _spawn(self, job: Job) -> None:
        job.process = await asyncio.create_subprocess_exec(
            *self._command,
            *job.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        if job.state == "canceled":  # meanwhile, when there was nothing to signal
            _signal(job, signal.SIGINT)
        self._begun(RunDirectory(job.out))
        await self._listen(job, job.process)

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


def _is_run(out: Path) -> bool:
    """Whether a run directory holds a run."""
    try:
        return RunDirectory(out).settings.exists()
    except OSError as e:  # its bucket does not answer
        log.warning("%s: %s", out, e)
        return False


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
            _signal(job, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_S)


def _signal(job: Job, number: signal.Signals) -> None:
    """Signal a run's process, which passes it on to its own."""
    if job.process is not None and job.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            job.process.send_signal(number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
