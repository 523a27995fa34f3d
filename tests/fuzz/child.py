"""One process that reads mutants one after the other, and says how each ended.

It is forked after everything is imported, may take so much memory and no more, and is
watched from outside (``campaign``) for time and crashes. What it writes outside of its
folder, reads of a planted file or asks of the network is noted by an audit hook.
"""

import contextlib
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import digipath_ray
from digipath_ray.slide.info import SlideError
from tests.fuzz.mutations import SECRET, Mutant, Mutator, Seed
from tests.fuzz.targets import AnsweredError, Target

READ, REFUSED, WRONG, CRASHED, HUNG, MEMORY, OUTSIDE, PLAUSIBLE = OUTCOMES = (
    "read", "refused", "wrong", "crashed", "hung", "memory", "outside", "plausible",
)  # fmt: skip
"""How a mutant ends: read, or refused in words; or another exception, a signal, no
answer in time, too much memory, a file or socket of elsewhere, or pixels that a
checksum in the file contradicts."""
GRAVITY = (READ, REFUSED, WRONG, PLAUSIBLE, MEMORY, OUTSIDE, CRASHED, HUNG)
"""Of several steps the gravest counts."""
MEMORY_BYTES = 1536 << 20
"""What a child may take beyond what it has when it is forked."""
MOST_BYTES = 1 << 30
"""Resident memory that no mutant of a few kilobytes is worth."""
PACKAGE = str(Path(digipath_ray.__file__).parent)
NETWORK = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link",
           "os.truncate", "os.chmod")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind: how they are made, damaged and read.

    Attributes:
        name: of the kind.
        seeds: folder -> valid files.
        mutators: ways to damage them.
        target: what reads them, made for a folder.
        says: words of which a refusal has one, instead of the file's name.
        share: of the mutants of a campaign, as much less as each takes longer.
    """

    name: str
    seeds: Callable[[Path], list[Seed]]
    mutators: tuple[Mutator, ...]
    target: Callable[[Path], Target]
    says: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a mutant, or a step on it, ended.

    Attributes:
        outcome: one of OUTCOMES.
        where: step, exception and place in the product; equal for equal findings.
        why: the message.
    """

    outcome: str
    where: str = ""
    why: str = ""


def make_mutant(
    kind: Kind, seeds: Sequence[Seed], number: int, seed: int
) -> tuple[Seed, Mutant]:
    """The mutant of a number, and the file that it was made of; always the same."""
    rng = Random(f"{seed} {kind.name} {number}")
    whole = rng.choice(seeds)
    return whole, rng.choice(kind.mutators)(whole, seeds, rng)


class Watch:
    """Notes what a process writes outside of a folder, and the secret that it reads."""

    def __init__(self, folder: Path, secret: Path) -> None:
        self.inside, self.secret = f"{folder.resolve()}{os.sep}", str(secret)
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            if isinstance(path, (str, bytes)):
                self._hold(event, path, bool(writes))
        elif event in NETWORK:
            self.seen.append(f"{event} {args!r:.200}")
        elif event in CHANGES and isinstance(args[0], (str, bytes)):
            self._hold(event, args[0], True)

    def _hold(self, event: str, path: str | bytes, writes: bool) -> None:
        found = os.path.abspath(os.fsdecode(path))
        allowed = found.startswith((self.inside, "/dev/", "/proc/"))
        if (writes and not allowed) or found == self.secret:
            self.seen.append(f"{event} {found}")


def limit_memory() -> None:
    """Let this process take MEMORY_BYTES more than it has."""
    with open("/proc/self/status", encoding="ascii") as file:
        data = next(line for line in file if line.startswith("VmData"))
    most = int(data.split()[1]) * 1024 + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resident_bytes(line: str) -> int:
    """Resident memory: now (VmRSS), or the most since it was reset (VmHWM)."""
    with open("/proc/self/status", encoding="ascii") as file:
        found = next(each for each in file if each.startswith(line))
    return int(found.split()[1]) * 1024


@contextlib.contextmanager
def peak_reset() -> Iterator[int]:
    """Resident memory before; from here on VmHWM is the most since."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    yield resident_bytes("VmRSS")


def try_steps(
    target: Target, path: Path, watch: Watch | None, kind: Kind
) -> tuple[Ending, bytes | None]:
    """How the gravest step on a file ended, and what the first one read."""
    worst, pixels = Ending(outcome=READ), None
    for number, (name, do) in enumerate(target.steps(path)):
        ending = Ending(outcome=READ)
        with peak_reset() as before:
            try:
                found = do()
                if number == 0 and isinstance(found, bytes):
                    pixels = found
                elif isinstance(found, bytes):
                    pixels = (pixels or b"") + found
            except MemoryError as e:
                ending = Ending(outcome=MEMORY, where=place_of(name, e), why="limit")
            except Exception as e:
                ending = judge(name, e, path, kind)
            grown = resident_bytes("VmHWM") - before
        if grown > MOST_BYTES:
            why = f"{grown >> 20} MB"
            ending = Ending(outcome=MEMORY, where=f"{name}: resident", why=why)
        if watch is not None and watch.seen:
            why = "; ".join(watch.seen[:3])
            ending = Ending(outcome=OUTSIDE, where=f"{name}: outside", why=why)
            watch.seen.clear()
        if GRAVITY.index(ending.outcome) > GRAVITY.index(worst.outcome):
            worst = ending
    return worst, pixels


def judge(step: str, error: Exception, path: Path, kind: Kind) -> Ending:
    """Whether an exception is a refusal that a user can act on.

    It is one if its type is one that the product declares, it was raised there (not in
    a library), and it names the file, or what in it is wrong.
    """
    text, where = str(error), place_of(step, error)
    names = (path.name, path.stem, *kind.says)
    says_what = isinstance(error, SlideError) or any(name in text for name in names)
    if isinstance(error, OSError) and error.filename is not None:
        return Ending(outcome=REFUSED, where=where, why=text)
    declared = type(error) in (ValueError, OSError, AnsweredError) or (
        isinstance(error, (ValueError, OSError))
        and type(error).__module__.startswith(("digipath_ray", "pyarrow"))
    )
    if declared and says_what:
        return Ending(outcome=REFUSED, where=where, why=text)
    return Ending(outcome=WRONG, where=where, why=text)


def place_of(step: str, error: BaseException) -> str:
    """Step, type of error, and the last line of the product that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(PACKAGE)]
    at = f"{ours[-1].filename[len(PACKAGE) + 1 :]}:{ours[-1].lineno}" if ours else "-"
    return f"{step}: {type(error).__name__} at {at}"


def read_mutants(
    kind: Kind, folder: Path, numbers: Sequence[int], seed: int, out: int
) -> None:
    """Read the mutants of these numbers; a line of JSON to ``out`` before and after."""
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True  # of what is imported late, beside its source
    secret = folder.parent / "secret.txt"
    seeds, target = kind.seeds(make(folder / "seeds")), kind.target(make(folder / "in"))
    os.environ["TMPDIR"] = str(make(folder / "tmp"))
    watch = Watch(folder, secret)
    whole = {s.name: _pixels(kind, target, s) for s in seeds if s.checked}
    watch.seen.clear()
    limit_memory()
    for number in numbers:
        _tell(out, number, None, "")
        try:
            found, mutant = make_mutant(kind, seeds, number, seed)
        except RecursionError:  # a value too deep to be written down
            _tell(out, number, Ending(outcome=READ), "not made")
            continue
        data = mutant.data.replace(SECRET.encode(), str(secret).encode())
        path = target.place(found.name, number, data)
        ending, pixels = try_steps(target, path, watch, kind)
        lies = mutant.is_checked and pixels not in (None, whole.get(found.name))
        if lies and ending.outcome in (READ, REFUSED):
            ending = Ending(outcome=PLAUSIBLE, where=f"levels of {found.name}")
        target.clear(path)
        _tell(out, number, ending, f"{found.name}: {mutant.what}")
        if ending.outcome == MEMORY:
            return  # a fresh process has its memory back


def _pixels(kind: Kind, target: Target, seed: Seed) -> bytes | None:
    path = target.place(seed.name, 0, seed.data)
    pixels = try_steps(target, path, None, kind)[1]
    target.clear(path)
    return pixels


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tell(out: int, number: int, ending: Ending | None, what: str) -> None:
    said = {"number": number, "what": what, **(vars(ending) if ending else {})}
    os.write(out, json.dumps(said).encode() + b"\n")
