"""Queue of runs started from the page: one at a time, in order, cancelable.

Each is a separate ``digipath run`` process, equal to what a user would type, so that
the same command resumes it if the viewer ends.
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
"""Maximum characters of a title in a run name."""
LAST_WORDS_S = 2.0
"""Seconds to wait for the last output of an ended run."""
ENDS_S = 30.0
"""Seconds that a canceled run may take to end by itself."""


class Starts:
    """Queue of runs; one at a time, as each takes all GPUs."""

    def __init__(
        self,
        base: str | Path,
        *,
        command: Sequence[str] = COMMAND,
        begun: Callable[[RunDirectory], None] = lambda _: None,
    ) -> None:
        """Create a queue.

        Args:
            base: parent folder of the run directories.
            command: command that runs ``digipath``.
            begun: called with each run that starts.
        """
        self.base = place(base)
        self._command = tuple(command)
        self._begun = begun
        self._jobs: dict[str, Job] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="digipath-view-")

    @property
    def payloads(self) -> list[Json]:
        """Payloads of all runs, oldest first."""
        return [job.payload for job in self._jobs.values()]

    async def add(self, wanted: Wanted) -> Json:
        """Queue a run.

        Jobs are only accessed on the event loop; the path is reserved before awaiting
        the disk, so of two concurrent posts one is rejected.

        Raises:
            ValueError: the queue is full, or another run has the same path.
            OSError: the manifest cannot be written.
        """
        waiting = [j for j in self._jobs.values() if j.state in WAITING]
        if len(waiting) >= MOST_QUEUED:
            raise ValueError(f"the queue is full ({MOST_QUEUED} runs)")
        out = self.base / wanted.out
        if any(job.out == out for job in waiting):
            raise ValueError(f"out: {wanted.out} is already queued")
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
        """Suggest a free name for a run: title, date, and a number if needed.

        Args:
            title: title of the collection.
        """
        plain = PLAIN.sub("-", title)[:TITLE_LENGTH].strip("-") or "run"
        stem = f"{plain}-{datetime.now(UTC):%Y-%m-%d}"
        taken = {job.out for job in self._jobs.values() if job.state in WAITING}
        return await run_in_threadpool(find_free, self.base, stem, taken=taken)

    def cancel(self, identity: str) -> Json | None:
        """Cancel a running or queued run; None if not found."""
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
        """Run queued jobs until canceled."""
        while True:
            queued = [j for j in self._jobs.values() if j.state == "queued"]
            ready = [job for job in queued if job.listed]
            if ready:
                await self._run(ready[0])
            else:
                await asyncio.sleep(0.2)

    async def _run(self, job: Job) -> None:
        """Run one job; its errors do not affect the next one."""
        job.state, job.started = "running", _now()
        try:
            await self._spawn(job)
        except (OSError, ValueError, RuntimeError) as e:
            log.warning("%s: %s", job.out, e)
            job.lines.append(f"cannot start: {e}")
        finally:
            process, job.process = job.process, None
            job.exit_code = None if process is None else process.returncode
            # 1: a slide failed, all others are done.
            ended_well = job.exit_code in (0, 1)
            is_run = ended_well and await run_in_threadpool(_is_run, job.out)
            job.ended = _now()
            if job.state == "running":
                job.state = "done" if ended_well else "failed"
                job.finished = is_run

    async def _spawn(self, job: Job) -> None:
        job.process = await asyncio.create_subprocess_exec(
            *self._command,
            *job.arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        if job.state == "canceled":  # canceled before there was a process to signal
            _signal(job, signal.SIGINT)
        self._begun(RunDirectory(job.out))
        await self._listen(job, job.process)

    async def _listen(self, job: Job, process: asyncio.subprocess.Process) -> None:
        """Collect a run's output until it ends; end it if canceled."""
        assert process.stdout is not None
        reading = asyncio.create_task(_keep_lines(process.stdout, job.lines))
        while process.returncode is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 0.5)
            if job.state == "canceled" and process.returncode is None:
                await _end(job)
        # Its children may keep the pipe open after it has ended.
        await asyncio.wait({reading}, timeout=LAST_WORDS_S)
        reading.cancel()

    async def stop(self) -> None:
        """End the running job; called at server shutdown."""
        jobs = list(self._jobs.values())
        for job in jobs:  # cancel all first, so that none starts when another ends
            self.cancel(job.id)
        for job in jobs:
            await _end(job)
        self._folder.cleanup()


def _is_run(out: Path) -> bool:
    """Whether a directory contains a run."""
    try:
        return RunDirectory(out).settings.exists()
    except OSError as e:  # its bucket cannot be reached
        log.warning("%s: %s", out, e)
        return False


async def _keep_lines(stream: asyncio.StreamReader, lines: deque[str]) -> None:
    """Collect complete lines; a partial line waits for its end."""
    rest = ""
    while part := await stream.read(1 << 16):
        *whole, rest = LINE_END.split(rest + part.decode(errors="replace"))
        lines.extend(line[:LINE_LENGTH] for line in whole if line.strip())
        rest = rest[:LINE_LENGTH]
    if rest.strip():
        lines.append(rest)


async def _end(job: Job) -> None:
    """Wait for a terminated run, then kill it."""
    process = job.process
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if process is None or process.returncode is not None:
            return
        if number is not None:
            _signal(job, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), ENDS_S)


def _signal(job: Job, number: signal.Signals) -> None:
    """Send a signal to a run's process, which forwards it to its children."""
    if job.process is not None and job.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            job.process.send_signal(number)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
