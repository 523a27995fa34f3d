"""Many who want one directory at the same moment."""

import threading
from pathlib import Path

from digipath_ray.storage.lease import HeldByOther, hold


def race_for(folder: Path, runners: int = 8) -> tuple[int, int]:
    """How many threads that begin at once hold a folder, and how many are refused."""
    got, refused = [], []
    go = threading.Barrier(runners)

    def take() -> None:
        go.wait()
        try:
            with hold(folder):
                got.append(1)
                go.wait()
        except HeldByOther:
            refused.append(1)
            go.wait()

    threads = [threading.Thread(target=take) for _ in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(got), len(refused)
