"""Takes memory, or space of Ray's object store, for some seconds.

    python tests/chaos/hog.py memory BYTES SECONDS
    python tests/chaos/hog.py store ADDRESS SECONDS

Of the store it takes what there is, by objects that nobody can spill once the disk for
spilled objects is full; it prints how many bytes it got and what ended it.
"""

import sys
import time

import numpy as np
import ray
from ray.exceptions import RayError

PIECE = 8 << 20


def hold_memory(size: int, seconds: float) -> None:
    """Hold so many bytes, each page written."""
    held = np.ones(size, np.uint8)
    print(f"{held.nbytes} bytes", flush=True)
    time.sleep(seconds)


def hold_store(address: str, seconds: float) -> None:
    """Put objects until there is no room left, and hold them."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    held = []
    why = "enough"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            held.append(ray.put(np.ones(PIECE, np.uint8)))
        except RayError as e:
            why = type(e).__name__
            time.sleep(0.5)
    print(f"{len(held) * PIECE} bytes, {why}", flush=True)


if __name__ == "__main__":
    what, argument, seconds = sys.argv[1:]
    if what == "memory":
        hold_memory(int(argument), float(seconds))
    else:
        hold_store(argument, float(seconds))
