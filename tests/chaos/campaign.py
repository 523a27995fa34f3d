"""One seed: a command is started, struck, started again, and looked at when it ends."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from tests.chaos.checks import check_processes
from tests.chaos.faults import (
    FAULTS,
    FIT_FAULTS,
    MEMORY_SHARE,
    Planned,
    Scene,
    small_disk,
)
from tests.chaos.network import ORDERS
from tests.chaos.work import Work

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
MAIN = "from digipath_ray.cli import main; main()"
DISK_MB = 64
SPILL_MB = 16
STORE_MB = 160
RUN_MEMORY = 6 << 30
"""What a run may take, bytes, before Ray ends workers of it."""
MOST_MEMORY = 0.92
"""Share of the machine's memory from which on Ray does so in any case."""
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
"""Exit statuses of what nobody struck so."""
STARTS = 25
"""Starts after which a seed has failed."""
SILENT_S = 240.0
"""How long a run may neither end nor finish a step once nothing strikes it."""


@dataclass
class Struck:
    """A fault that struck.

    Attributes:
        name: of the fault.
        met: what it met, in words; None if there was nothing to strike.
        at: seconds since the seed's beginning.
        next_slide_s: seconds until a slide was finished after it.
    """

    name: str
    met: str | None
    at: float
    next_slide_s: float | None = None


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    struck: list[Struck] = field(default_factory=list)
    starts: int = 0
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    @property
    def injections(self) -> int:
        """Faults that met something."""
        return sum(one.met is not None for one in self.struck)


class Watch:
    """Notes when slides, or epochs, are finished."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._ended = threading.Event()
        self.finished: list[float] = []
        self._seen: set[object] = set()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            new = self._work.steps() - self._seen
            self._seen |= new
            self.finished += [time.monotonic()] * len(new)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def after(self, moment: float) -> float | None:
        """Seconds from a moment until the next slide was finished."""
        later = [at for at in self.finished if at > moment]
        return later[0] - moment if later else None


class Seed:
    """A run or a fit under the faults of one seed."""

    def __init__(
        self,
        seed: int,
        work: Work,
        folder: Path,
        disk: Path | None,
        spill: Path | None,
    ) -> None:
        self.outcome = Outcome(seed)
        self._began = time.monotonic()
        orders = folder / "orders"
        orders.mkdir()
        log = folder / "log.txt"
        command = [sys.executable, "-c", MAIN, *work.arguments]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(SITE))),
            **(work.bucket.environment if work.bucket else {}),
            "DIGIPATH_CACHE": str(folder / "cache"),
            "CHAOS_READ_S": "0.1",
            ORDERS: str(orders),
            # A head that is gone is waited for; here no one brings it back.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            # A store that one other job can fill, and a disk for what is spilled.
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(STORE_MB << 20),
            **({"RAY_object_spilling_directory": str(spill)} if spill else {}),
        }
        self._families: list[psutil.Process] = []
        self._log = log
        self.scene = Scene(
            work=work,
            driver=self._start(command, environment),
            rng=np.random.default_rng([seed, 1]),
            command=command,
            environment=environment,
            log=log,
            disk=disk,
            bucket=work.bucket,
        )
        self._watch = Watch(work)

    def _start(
        self, command: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        self.outcome.starts += 1
        memory = psutil.virtual_memory()
        share = (memory.total - memory.available + RUN_MEMORY) / memory.total
        environment[MEMORY_SHARE] = f"{min(share, MOST_MEMORY):.3f}"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self, schedule: list[Planned]) -> Outcome:
        """Strike, start again, look."""
        try:
            for planned in schedule:
                if self._is_over():
                    break  # nothing is left to strike
                if planned.busy:
                    self._wait_for_work()
                self._pass(planned.after_s)
                self._strike(planned)
            self.scene.heal()
            self._finish()
        finally:
            self.scene.heal()
            self._watch.end()
            self._end_driver()
        self.outcome.seconds = time.monotonic() - self._began
        for one in self.outcome.struck:
            one.next_slide_s = self._watch.after(self._began + one.at)
        self.outcome.wrong += check_processes(self._families)
        self.outcome.wrong += self.scene.work.check()
        return self.outcome

    def _pass(self, seconds: float) -> None:
        """Let time pass, in which the run goes on or is started again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_over():
            self._note_family()
            if self.scene.driver.poll() is not None:
                self._start_again()
            time.sleep(0.1)

    def _wait_for_work(self) -> None:
        """Go on until networks are at work, or for a minute."""
        end = time.monotonic() + 60
        work = self.scene.work
        before = work.steps()
        while time.monotonic() < end and not self._is_over():
            if work.by_steps and work.steps() <= before:
                self._pass(0.1)
                continue
            if self.scene.find(self.scene.work.busy, seconds=0.3) is not None:
                return
            self._pass(0.1)

    def _note_family(self) -> None:
        known = {process.pid for process in self._families}
        self._families += [p for p in self.scene.family() if p.pid not in known]

    def _strike(self, planned: Planned) -> None:
        at = time.monotonic() - self._began
        met = (FAULTS | FIT_FAULTS)[planned.name][1](self.scene)
        self.outcome.struck.append(Struck(planned.name, met, at))

    def _start_again(self) -> None:
        code = self.scene.driver.returncode
        self.outcome.codes.append(code)
        if code in CRASHES:
            self.outcome.wrong.append(f"a start crashed with signal {-code}")
        if self.outcome.starts >= STARTS:
            raise AssertionError(f"not ended after {STARTS} starts")
        self.scene.driver = self._start(self.scene.command, self.scene.environment)

    def _finish(self) -> None:
        """Give the command again until it has nothing left to do."""
        while True:
            began = time.monotonic()
            while self.scene.driver.poll() is None:
                self._note_family()
                since = self._watch.after(began)
                if time.monotonic() - began > SILENT_S and since is None:
                    raise AssertionError(f"nothing was finished for {SILENT_S:.0f} s")
                time.sleep(0.1)
            if self._is_over():
                self.outcome.codes.append(self.scene.driver.returncode)
                return
            self._start_again()

    def _is_over(self) -> bool:
        """Whether it has ended by itself with nothing left to do."""
        return self.scene.work.is_over(self.scene.driver.poll())

    def _end_driver(self) -> None:
        if self.scene.driver.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.scene.driver.pid, 9)
            self.scene.driver.wait()


class Maker(Protocol):
    """Makes work of a kind (:class:`tests.chaos.work.Runs`, ``Fits``)."""

    def make(self, folder: Path, out: Path) -> Work:
        """Make work with files of its own in ``folder``."""

    def learn(self, work: Work) -> None:
        """Take what was made undisturbed for the truth."""


def run_seed(
    seed: int, maker: Maker, schedule: list[Planned], *, learn: bool = False
) -> Outcome:
    """Run work of its own through a schedule of faults.

    Args:
        seed: of what faults draw.
        maker: of the work.
        schedule: the faults.
        learn: nothing strikes, and what comes out is true.
    """
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as name,
        small_disk(Path(name, "disk"), DISK_MB) as disk,
        small_disk(Path(name, "spill"), SPILL_MB) as spill,
    ):
        folder = Path(name)
        work = maker.make(folder / "cohort", (disk or folder) / "out")
        night = Seed(seed, work, folder, disk, spill)
        try:
            outcome = night.run(schedule)
            if learn:
                maker.learn(work)
        except (AssertionError, subprocess.TimeoutExpired) as e:
            outcome = night.outcome
            outcome.wrong.append(str(e))
        if outcome.wrong:
            kept = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            outcome.wrong.append(f"all of it is kept in {kept}")
        return outcome


def undisturbed_seconds(maker: Maker) -> float:
    """How long the command takes when nothing strikes it; the maker learns from it."""
    outcome = run_seed(0, maker, [], learn=True)
    if outcome.wrong or outcome.starts != 1:
        raise AssertionError(f"undisturbed: {outcome.codes}, {outcome.wrong}")
    return outcome.seconds
