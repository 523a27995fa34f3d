"""The faults of a campaign: what strikes a run, and how it is mended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil

from tests.buckets import Bucket
from tests.buckets import Fault as BucketFault
from tests.chaos.network import ORDERS
from tests.chaos.work import Work

WORKERS = {
    "reader": "ray::MapBatches(read_shard",
    "member": "ray::MapWorker(MapBatches(PredictStage)",
    "finish": "ray::try_finish",
    "prepare": "ray::try_prepare",
    "ledger": "ray::Ledger",
    "fit-worker": "ray::RayTrainWorker",
    "fit-controller": "ray::TrainController",
    "fit-task": "ray::fit_member",
    "fit-reader": "ray::MapBatches(read_batch",
    "raylet": "raylet",
    "gcs": "gcs_server",
}
"""Process -> how its command line begins, or what its program is called."""
BUSY = 0.7
"""Share of the faults that wait until networks are at work."""
WAIT_S = 4.0
"""How long a fault waits for the process that it is meant for."""
ASKED_S = 20.0
"""How long a bucket's fault waits until something is read from it."""
HOG = Path(__file__).parent / "hog.py"
MEMORY_SHARE = "RAY_memory_usage_threshold"
FIRST = ("bucket-503", "bucket-half")
"""Slides in a bucket are read when a run begins; of these the first alone is kept, as
later ones meet nothing."""


@dataclass
class Scene:
    """A run that faults strike.

    Attributes:
        work: what it is.
        driver: the process of the command.
        rng: of the seed.
        command: of the run.
        environment: of its processes.
        log: to which commands write.
        disk: the small file system that its directory is on, if it is on one.
        bucket: where some slides are, if they are in one.
        undo: what mends faults that last.
    """

    work: Work
    driver: subprocess.Popen[bytes]
    rng: np.random.Generator
    command: list[str]
    environment: dict[str, str]
    log: Path
    disk: Path | None = None
    bucket: Bucket | None = None
    undo: list[Callable[[], None]] = field(default_factory=list)

    def family(self) -> list[psutil.Process]:
        """The driver and all processes that it started."""
        try:
            root = psutil.Process(self.driver.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def find(self, what: str, *, seconds: float = WAIT_S) -> psutil.Process | None:
        """A process of the run, waited for; None if there is none."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.driver.poll() is None:
            for process in self.family()[1:]:
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    wanted = WORKERS[what]
                    if line.startswith(wanted) or process.name() == wanted:
                        return process
            time.sleep(0.02)
        return None

    def heal(self) -> None:
        """Mend all faults that last."""
        while self.undo:
            self.undo.pop()()


Fault = Callable[[Scene], str | None]
"""Strikes; returns what it met in words, or None if there was nothing to strike."""


def kill(what: str) -> Fault:
    def strike(scene: Scene) -> str | None:
        process = scene.find(what)
        if process is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        return f"process {process.pid}"

    return strike


def freeze(what: str) -> Fault:
    """Stop a process for some seconds: it is not dead."""

    def strike(scene: Scene) -> str | None:
        process = (
            psutil.Process(scene.driver.pid) if what == "driver" else scene.find(what)
        )
        if process is None:
            return None
        seconds = float(scene.rng.uniform(1, 6))
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            time.sleep(seconds)
            process.resume()
        return f"{seconds:.1f} s"

    return strike


def signal_driver(number: signal.Signals) -> Fault:
    def strike(scene: Scene) -> str | None:
        if scene.driver.poll() is not None:
            return None
        scene.driver.send_signal(number)
        started = time.monotonic()
        if number == signal.SIGKILL:
            scene.driver.wait(10)
            return "at once"
        scene.driver.wait(60)
        return f"ended after {time.monotonic() - started:.1f} s"

    return strike


def order(name: str) -> Fault:
    """Have a network misbehave once."""

    def strike(scene: Scene) -> str | None:
        path = Path(scene.environment[ORDERS], name)
        path.touch()
        scene.undo.append(lambda: path.unlink(missing_ok=True))
        end = time.monotonic() + WAIT_S
        while path.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return "obeyed" if not path.exists() else None

    return strike


def slow_disk(scene: Scene) -> str:
    """Every read of slides takes a second, for a while."""
    path = Path(scene.environment[ORDERS], "slow-disk")
    path.write_text("1.0", "utf-8")
    scene.undo.append(lambda: path.unlink(missing_ok=True))
    seconds = float(scene.rng.uniform(2, 6))
    time.sleep(seconds)
    path.unlink()
    return f"{seconds:.1f} s"


def _some_slide(scene: Scene) -> Path:
    """A slide that is not finished, else any."""
    left = [
        path
        for name, path in scene.work.cohort.healthy.items()
        if not (scene.work.out / "done" / f"{name}.json").exists()
        and name not in scene.work.cohort.remote
    ]
    paths = left or [
        path
        for name, path in scene.work.cohort.healthy.items()
        if name not in scene.work.cohort.remote
    ]
    return paths[int(scene.rng.integers(len(paths)))]


def _for_a_while(scene: Scene, path: Path, content: bytes | None) -> str:
    """Put other bytes, or none, in a slide's place, and the right ones back."""
    right = path.read_bytes()
    stat = path.stat()

    def put(data: bytes) -> None:
        other = path.with_suffix(".new")
        other.write_bytes(data)
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        other.replace(path)

    def back() -> None:
        put(right)

    if content is None:
        path.unlink()
    else:
        put(content)
    seconds = float(scene.rng.uniform(0.5, 3))
    scene.undo.append(back)
    time.sleep(seconds)
    scene.undo.remove(back)
    back()
    return f"{path.name} for {seconds:.1f} s"


def delete_slide(scene: Scene) -> str:
    return _for_a_while(scene, _some_slide(scene), None)


def cut_slide(scene: Scene) -> str:
    path = _some_slide(scene)
    data = path.read_bytes()
    return _for_a_while(scene, path, data[: int(scene.rng.integers(1, len(data)))])


def replace_slide(scene: Scene) -> str:
    """Another slide under the same name, for good: then that one's heatmap is right."""
    path = _some_slide(scene)
    spare = scene.work.cohort.spare[
        int(scene.rng.integers(len(scene.work.cohort.spare)))
    ]
    other = path.with_suffix(".new")
    other.write_bytes(spare.read_bytes())
    other.replace(path)
    return path.name


def fill_disk(scene: Scene) -> str | None:
    """No space is left where the run is written, for a while."""
    if scene.disk is None:
        return None
    filler = scene.disk / "filler"

    def free() -> None:
        filler.unlink(missing_ok=True)

    scene.undo.append(free)
    seconds = float(scene.rng.uniform(1, 4))
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(seconds)
    free()
    return f"{seconds:.1f} s"


def forbid_writes(scene: Scene) -> str | None:
    """The file system becomes read-only for a while, if nothing is being written."""
    if scene.disk is None:
        return None
    remount = ["mount", "-o"]

    def allow() -> None:
        subprocess.run([*remount, "remount,rw", str(scene.disk)], check=True)

    seconds = float(scene.rng.uniform(1, 4))
    for _ in range(200):  # the kernel refuses it while a file is open for writing
        done = subprocess.run(
            [*remount, "remount,ro", str(scene.disk)], check=False, capture_output=True
        )
        if done.returncode == 0:
            scene.undo.append(allow)
            time.sleep(seconds)
            scene.undo.remove(allow)
            allow()
            return f"{seconds:.1f} s"
        time.sleep(0.01)
    return None


def bucket_fails(kind: str) -> Fault:
    """The bucket answers in this way for a while; see :class:`tests.buckets.Fault`."""

    def strike(scene: Scene) -> str | None:
        if scene.bucket is None:
            return None
        fault = BucketFault(method="GET", part="slides/", kind=kind, times=1 << 30)
        faults = scene.bucket.faults

        def back() -> None:
            fault.times = 0

        faults.append(fault)
        scene.undo.append(back)
        end = time.monotonic() + ASKED_S
        while not fault.met and time.monotonic() < end:
            time.sleep(0.05)
        seconds = float(scene.rng.uniform(2, 6))
        time.sleep(seconds)
        back()
        scene.undo.remove(back)
        return f"{fault.met} answers in {seconds:.1f} s" if fault.met else None

    return strike


def jump_clock(scene: Scene) -> str | None:
    """Files of the run are as a clock wrote them that is an hour ahead, or behind.

    Time of the whole machine is not ours to set: of the product's uses of it these
    are what another process reads. Lease, lock and status, and what is finished.
    """
    hours = int(scene.rng.choice([-1, 1]))
    changed = 0
    names = ("lease.json", ".lock", "status.json", "run.toml", "done/*.json")
    for path in [p for name in names for p in scene.work.out.glob(name)]:
        with contextlib.suppress(OSError):
            then = path.stat().st_mtime + 3600 * hours
            os.utime(path, (then, then))
            changed += 1
    return f"{hours:+d} h, {changed} files" if changed else None


def fill_memory(scene: Scene) -> str | None:
    """Another program takes memory until Ray ends workers of the run for it.

    From which share of the machine's memory on Ray does so, its start has been told.
    """
    share = scene.environment.get(MEMORY_SHARE)
    if share is None or scene.find("raylet") is None:
        return None
    memory = psutil.virtual_memory()
    used = memory.total - memory.available
    size = max(0, int(float(share) * memory.total) - used) + (768 << 20)
    if size > memory.available - (2 << 30):
        return None  # others on this machine have it
    before = {p.pid for p in scene.family()}
    seconds = float(scene.rng.uniform(2, 5))
    hog = [sys.executable, str(HOG), "memory", str(size), str(seconds)]
    subprocess.run(hog, check=True, stdout=subprocess.DEVNULL)
    gone = before - {p.pid for p in scene.family()}
    if not gone or scene.driver.poll() is not None:
        return None
    return f"{size / 1e9:.1f} GB for {seconds:.1f} s, {len(gone)} processes ended"


def fill_store(scene: Scene) -> str | None:
    """Another job of the same Ray fills the object store, and the disk it spills to."""
    raylet = scene.find("raylet")
    if raylet is None:
        return None
    try:
        words = (word.partition("=") for word in raylet.cmdline())
        address = {name: value for name, _, value in words}["--gcs-address"]
        names = raylet.environ()
    except (psutil.NoSuchProcess, KeyError):
        return None
    seconds = float(scene.rng.uniform(3, 8))
    try:
        done = subprocess.run(
            [sys.executable, str(HOG), "store", address, str(seconds)],
            env=scene.environment | {k: v for k, v in names.items() if "_AUTH_" in k},
            capture_output=True,
            text=True,
            timeout=60 + seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:  # the head has gone meanwhile
        return None
    said = [line for line in done.stdout.splitlines() if " bytes, " in line]
    return said[-1] if said else None


def start_second(scene: Scene) -> str | None:
    """The same command beside the first, which must be refused."""
    if scene.driver.poll() is not None or not scene.work.out.exists():
        return None
    with scene.log.open("ab") as log:
        second = subprocess.run(
            scene.command,
            env=scene.environment,
            stdout=log,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    if scene.driver.poll() is not None:
        return None  # the first had ended: the second took its place, rightly
    if second.returncode != 2 or b"in use" not in second.stderr:
        raise AssertionError(f"a second run was not refused: {second.stderr.decode()}")
    return "refused"


FAULTS: dict[str, tuple[float, Fault]] = {
    "kill-reader": (2, kill("reader")),
    "kill-member": (2, kill("member")),
    "kill-finish": (2, kill("finish")),
    "kill-prepare": (1, kill("prepare")),
    "kill-ledger": (1, kill("ledger")),
    "kill-raylet": (0.7, kill("raylet")),
    "kill-gcs": (0.7, kill("gcs")),
    "freeze-reader": (1, freeze("reader")),
    "freeze-member": (1, freeze("member")),
    "freeze-finish": (1, freeze("finish")),
    "freeze-ledger": (0.5, freeze("ledger")),
    "freeze-raylet": (0.5, freeze("raylet")),
    "freeze-driver": (1, freeze("driver")),
    "driver-killed": (1, signal_driver(signal.SIGKILL)),
    "driver-terminated": (0.7, signal_driver(signal.SIGTERM)),
    "driver-interrupted": (0.7, signal_driver(signal.SIGINT)),
    "gpu-memory": (1, order("gpu-memory")),
    "gpu-lost": (1, order("gpu-lost")),
    "network-nan": (1, order("nan")),
    "network-inf": (0.5, order("inf")),
    "network-slow": (0.5, order("slow-network")),
    "disk-slow": (0.7, slow_disk),
    "slide-deleted": (1, delete_slide),
    "slide-cut": (1, cut_slide),
    "slide-replaced": (0.7, replace_slide),
    "disk-full": (1, fill_disk),
    "disk-read-only": (0.7, forbid_writes),
    "second-driver": (0.5, start_second),
    "bucket-503": (0.7, bucket_fails("slow down")),
    "bucket-half": (0.7, bucket_fails("cut")),
    "clock-jump": (0.7, jump_clock),
    "memory-short": (0.7, fill_memory),
    "store-full": (0.7, fill_store),
}
"""Name -> how often it is drawn, and what it does to a run."""
FIT_FAULTS: dict[str, tuple[float, Fault]] = {
    "kill-fit-worker": (2, kill("fit-worker")),
    "kill-fit-controller": (1, kill("fit-controller")),
    "kill-fit-task": (1, kill("fit-task")),
    "kill-fit-reader": (1, kill("fit-reader")),
    "freeze-fit-worker": (1, freeze("fit-worker")),
    "freeze-fit-controller": (1, freeze("fit-controller")),
    **{
        name: FAULTS[name]
        for name in (
            *("kill-raylet", "kill-gcs", "freeze-raylet", "freeze-driver"),
            *("driver-killed", "driver-terminated", "driver-interrupted"),
            *("disk-full", "disk-read-only", "second-driver"),
        )
    },
}
"""The same for a fit."""


@dataclass(frozen=True)
class Planned:
    """A fault, and when it strikes.

    Attributes:
        name: of the fault.
        after_s: seconds after the one before it.
        busy: only then wait until networks are at work; else at any phase.
    """

    name: str
    after_s: float
    busy: bool

    def __str__(self) -> str:
        """As ``at work +1.5 kill-member``."""
        return f"{'at work ' if self.busy else ''}+{self.after_s} {self.name}"


def draw_schedule(
    seed: int,
    count: int,
    only: list[str] | None,
    faults: Mapping[str, tuple[float, Fault]] = FAULTS,
) -> list[Planned]:
    """The faults of a seed, in order."""
    rng = np.random.default_rng(seed)
    names = only or list(faults)
    weights = np.array([faults[name][0] for name in names])
    drawn = rng.choice(len(names), size=count, p=weights / weights.sum())
    gaps = rng.uniform(0.2, 4.0, size=count)
    busy = rng.random(count) < BUSY
    planned = [
        Planned(names[int(i)], round(float(gap), 2), bool(at_work))
        for i, gap, at_work in zip(drawn, gaps, busy, strict=True)
    ]
    first = [replace(p, busy=False) for p in planned if p.name in FIRST]
    return first[:1] + [p for p in planned if p.name not in FIRST]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path | None]:
    """A small file system of its own; None where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, check=False, capture_output=True)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
