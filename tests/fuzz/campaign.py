"""Children, watched: each mutant has an ending, also where its process died."""

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.child import (
    CRASHED,
    HUNG,
    MEMORY,
    Ending,
    Kind,
    make,
    read_mutants,
)

TIME_S = 10.0
"""What a mutant may take."""
START_S = 60.0
"""What a child may take to write the seeds and read them."""
PER_CHILD = 400
"""Mutants of one child: what leaks is gone after them."""
NO_MEMORY = ("failed to allocate", "bad_alloc", "out of memory", "cannot allocate")
"""What libraries say before they abort for lack of memory."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How the mutant of a number ended, and what had been done to it."""

    kind: str
    number: int
    ending: Ending
    what: str


def run_kind(
    kind: Kind,
    numbers: Sequence[int],
    *,
    seed: int,
    time_s: float = TIME_S,
    start_s: float = START_S,
) -> Iterator[Result]:
    """The endings of a kind's mutants, in order."""
    left = list(numbers)
    while left:
        here, after = left[:PER_CHILD], left[PER_CHILD:]
        done = 0
        for result in _one_child(kind, here, seed=seed, limits=(start_s, time_s)):
            done += 1
            yield result
        if done == 0:
            raise RuntimeError(f"{kind.name}: a child ended before its first mutant")
        left = here[done:] + after


def _one_child(
    kind: Kind, numbers: Sequence[int], *, seed: int, limits: tuple[float, float]
) -> Iterator[Result]:
    """The endings of mutants until one ends the child."""
    with tempfile.TemporaryDirectory(prefix="digipath-fuzz-") as name:
        root = Path(name)
        (root / "secret.txt").write_text("nobody may read this")
        folder = make(root / "child")
        source, sink = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _be_child(kind, folder, numbers, seed, sink)
        os.close(sink)
        try:
            yield from _follow(kind, pid, source, root / "stderr", limits)
        finally:
            os.close(source)
            _end(pid)
            outside = {p.name for p in root.iterdir()} - {
                "secret.txt",
                "child",
                "stderr",
            }
            for left in outside:  # the audit hook has told whose it was
                shutil.rmtree(root / left, ignore_errors=True)


def _be_child(
    kind: Kind, folder: Path, numbers: Sequence[int], seed: int, sink: int
) -> None:
    """Read mutants, and end without a word to what the parent has open."""
    code = 1
    try:
        said = os.open(folder.parent / "stderr", os.O_WRONLY | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream, to in ((0, nothing), (1, said), (2, said)):
            os.dup2(to, stream)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        read_mutants(kind, folder, numbers, seed, sink)
        code = 0
    except BaseException as e:
        os.write(2, f"{type(e).__name__}: {e}\n".encode())
    finally:
        os._exit(code)


def _follow(
    kind: Kind, pid: int, source: int, said: Path, limits: tuple[float, float]
) -> Iterator[Result]:
    """What a child says; if it ends or hangs in a mutant, that mutant's ending."""
    open_number: int | None = None
    rest, until = b"", time.monotonic() + limits[0]
    while True:
        ready, _, _ = select.select(
            [source], [], [], max(0.0, until - time.monotonic())
        )
        data = os.read(source, 1 << 16) if ready else b""
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            told = json.loads(line)
            number, what = told.pop("number"), told.pop("what")
            until = time.monotonic() + limits[1]
            if not told:
                open_number = number
                continue
            open_number = None
            yield Result(
                kind=kind.name, number=number, ending=Ending(**told), what=what
            )
    if open_number is None:
        return
    if not ready:
        os.kill(pid, signal.SIGKILL)
        ending = Ending(outcome=HUNG, where=f"over {limits[1]:g} s")
    else:
        ending = _why_ended(_end(pid), said)
    yield Result(kind=kind.name, number=open_number, ending=ending, what="")


def _why_ended(status: int, said: Path) -> Ending:
    """What ended a child in a mutant: a signal, or a library without memory."""
    words = said.read_text("utf-8", "replace").strip().splitlines()[-3:]
    why = " ".join(words)[-300:]
    if any(text in why.lower() for text in NO_MEMORY):
        return Ending(outcome=MEMORY, where="aborted for lack of memory", why=why)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Ending(outcome=CRASHED, where=name, why=why)
    return Ending(outcome=CRASHED, where=f"exit {os.WEXITSTATUS(status)}", why=why)


_ended: dict[int, int] = {}


def _end(pid: int) -> int:
    """The wait status of a child, which is killed if it lives."""
    if pid not in _ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            time.sleep(0.05)
            found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        _ended[pid] = status
    return _ended[pid]
