"""A thread of the driver that writes ``status.json`` and sets the Prometheus gauges.

The driver only notes its progress; the thread writes, which may take long in a bucket,
and a write that fails does not end the run.
"""

import dataclasses
import logging
import math
import os
import platform
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from digipath_ray.distributed import prometheus
from digipath_ray.distributed.throughput import current_bottleneck
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import Failure
from digipath_ray.run.listeners import RunListener, Tally
from digipath_ray.run.status import WRITE_S, Phase, Status, timestamp

log = logging.getLogger(__name__)

BEAT_S = 5.0
"""Seconds between two looks at the run; Ray forgets gauges after 20."""
RATE_S = 60.0
"""Seconds over which the rate is taken."""
FAILURES_LISTED = 100
END_S = 60.0
"""Seconds that a run's end waits at most for the last write."""


@dataclass
class Pace:
    """Patches per second of the last RATE_S."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, now: float, patches: int) -> float | None:
        """The rate, ``patches`` being predicted by now; None while none came."""
        self.seen.append((now, patches))
        # The last look before the window is where it starts.
        while len(self.seen) > 1 and self.seen[1][0] <= now - RATE_S:
            self.seen.popleft()
        then, before = self.seen[0]
        if now <= then or patches <= before:
            return None
        return (patches - before) / (now - then)


class Heartbeat(RunListener):
    """Writes ``status.json`` and sets the gauges for as long as the context lasts."""

    def __init__(
        self,
        run: RunDirectory,
        *,
        slides: int,
        skipped: int,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """A heartbeat of a run.

        Args:
            run: whose status is written.
            slides: of the cohort.
            skipped: finished by an earlier start.
            clock: seconds since 1970, which may jump.
            ticks: seconds since anything, which never do.
        """
        self._run = run
        self._failures: list[Failure] = []
        self._clock, self._ticks = clock, ticks
        self._skipped = skipped
        self._tally: Tally | None = None
        self._pace = Pace()
        self._reported: Counter[str] = Counter()
        self._written = -math.inf
        self._wake = threading.Event()
        self._ended = False
        now = timestamp(clock())
        self._status = Status(
            phase="prepare",
            host=platform.node(),
            pid=os.getpid(),
            started=now,
            updated=now,
            slides=slides,
            skipped=skipped,
        )
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        if error is None:
            self._note(phase="done")
        elif isinstance(error, KeyboardInterrupt):
            self._note(phase="stopped", why="interrupted")
        elif isinstance(error, SystemExit):  # Ray makes that of a SIGTERM
            self._note(phase="stopped", why="terminated")
        else:
            reason = str(error) or type(error).__name__
            self._note(phase="stopped", why=reason.splitlines()[0])
        self._thread.join(timeout=END_S)

    def prepared(self, done: int, total: int) -> None:
        """Slides have their patches placed, or have failed to."""
        self._note(phase="prepare", prepared=self._skipped + done)

    def planned(self, slides: int, patches: int) -> None:
        """Prediction begins."""
        everyone = self._status.slides
        self._note(phase="segment", prepared=everyone, patches=patches)

    def tallied(self, tally: Tally) -> None:
        """Patches have been predicted; this is called for every chunk."""
        self._tally = tally

    def measured(self, done: int, total: int) -> None:
        """Finished slides were measured again."""
        self._note(phase="measure", measured=done)

    def failed(self, failure: Failure) -> None:
        """A slide has failed."""
        self._failures.append(failure)

    def _note(self, *, phase: Phase, **changes: int | str) -> None:
        turned = phase != self._status.phase
        self._status = dataclasses.replace(
            self._status,
            phase=phase,
            **changes,  # type: ignore[arg-type]
        )
        if turned:
            self._wake.set()

    def _live(self) -> None:
        """Look at the run until it has ended, and once more then."""
        while not self._ended:
            turned = self._wake.is_set()
            self._wake.clear()
            self.beat(write=turned)
            self._wake.wait(BEAT_S)
        self.beat(write=True)

    def beat(self, *, write: bool) -> None:
        """Set the gauges, and write the status if that is due or ``write``."""
        now = self._ticks()
        status = self._look(now)
        prometheus.show_driver(status)
        self._count(status)
        if write or now - self._written >= WRITE_S:
            self._written = now
            try:
                self._run.write_json(self._run.status, dataclasses.asdict(status))
            except (OSError, ValueError) as e:
                log.warning("%s cannot be written: %s", self._run.status, e)

    def _look(self, now: float) -> Status:
        """The run's status now."""
        failures = list(self._failures)
        listed = [
            {"slide_id": f.slide_id, "step": f.step, "error": f.error, "hint": f.hint}
            for f in failures[-FAILURES_LISTED:]
        ]
        status = dataclasses.replace(
            self._status,
            updated=timestamp(self._clock()),
            failed=len(failures),
            failures=listed,
        )
        tally = self._tally
        if tally is None:
            return status
        rate = self._pace.note(now, tally.patches)
        left = max(0, status.patches - tally.patches)
        return dataclasses.replace(
            status,
            done=tally.slides,
            open_slides=tally.open_slides,
            finishing=tally.finishing,
            progress=tally.progress,
            patches_done=tally.patches,
            patches_per_s=rate,
            eta_s=None if rate is None else left / rate,
            bottleneck=current_bottleneck(tally, now=now),
        )

    def _count(self, status: Status) -> None:
        """Add what is new since the last look to the counters."""
        failed = Counter(f.step for f in self._failures)
        for step, number in (failed - self._reported).items():
            prometheus.count("digipath_slides_failed", number, step=step)
        prometheus.count("digipath_slides_done", status.done - self._reported["done"])
        self._reported = failed + Counter(done=status.done)
