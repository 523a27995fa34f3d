"""Targets with a fault each, so that the harness is seen to find it.

``python -m tests.fuzz.faults`` prints the outcome of each as JSON.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tests.fuzz.campaign import run_kind
from tests.fuzz.child import (
    CRASHED,
    HUNG,
    MEMORY,
    OUTSIDE,
    PLAUSIBLE,
    READ,
    REFUSED,
    WRONG,
    Kind,
)
from tests.fuzz.mutations import SECRET, Mutant, Seed, flip_checked
from tests.fuzz.targets import Step, Target


def hang(path: Path) -> None:
    time.sleep(60)


def eat_memory(path: Path) -> None:
    held = [np.zeros(1 << 28, np.uint8) for _ in range(64)]
    raise AssertionError(f"{len(held)} blocks")


def touch_memory(path: Path) -> None:
    """Below the limit, but far beyond what a small file is worth."""
    bytearray(os.urandom(1)) * (1100 << 20)


def crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(path: Path) -> None:
    os._exit(3)


def lack_a_key(path: Path) -> None:
    _ = {}["key"]


def hand_on(path: Path) -> None:
    """A library's own error."""
    json.loads(path.read_bytes())


def say_nothing(path: Path) -> None:
    raise ValueError("bad value")


def refuse(path: Path) -> None:
    raise ValueError(f"{path}: damaged: copy it again")


def write_outside(path: Path) -> None:
    (path.parents[2] / "outside").write_text("x")


def read_secret(path: Path) -> None:
    Path(path.read_text()).read_text()


def call_out(path: Path) -> None:
    with socket.socket() as caller:
        caller.settimeout(0.1)
        caller.connect_ex(("127.0.0.1", 9))


def read(path: Path) -> bytes:
    """Whatever is there, as if it were right."""
    return path.read_bytes()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "hang": (hang, HUNG),
    "eat memory": (eat_memory, MEMORY),
    "touch memory": (touch_memory, MEMORY),
    "crash": (crash, CRASHED),
    "leave": (leave, CRASHED),
    "lack a key": (lack_a_key, WRONG),
    "hand on": (hand_on, WRONG),
    "say nothing": (say_nothing, WRONG),
    "refuse": (refuse, REFUSED),
    "write outside": (write_outside, OUTSIDE),
    "read the secret": (read_secret, OUTSIDE),
    "call out": (call_out, OUTSIDE),
    "read": (read, READ),
    "read what a checksum contradicts": (read, PLAUSIBLE),
}
"""Name -> what a target does, and the outcome that it must have."""


class Faulty(Target):
    """A target that does one thing."""

    def __init__(self, folder: Path, *, do: Callable[[Path], object]) -> None:
        super().__init__(folder)
        self.do = do

    def steps(self, path: Path) -> Iterator[Step]:
        yield "only", lambda: self.do(path)


def name_secret(seed: Seed, others: object, rng: object) -> Mutant:
    return Mutant(data=SECRET.encode(), what="names the secret")


def kind_of(name: str) -> Kind:
    checked = ((0, 4),) if name.startswith("read what") else ()
    return Kind(
        name=name,
        seeds=lambda folder: [Seed(name="a.txt", data=b"text", checked=checked)],
        mutators=(flip_checked if checked else name_secret,),
        target=partial(Faulty, do=FAULTS[name][0]),
    )


def outcomes() -> dict[str, list[str]]:
    """The outcomes of two mutants of each: after the first, the second is read too."""
    return {
        name: [
            result.ending.outcome
            for result in run_kind(
                kind_of(name), range(2), seed=1, time_s=2.0 if end == HUNG else 60.0
            )
        ]
        for name, (_, end) in FAULTS.items()
    }


if __name__ == "__main__":
    print(json.dumps(outcomes()))
