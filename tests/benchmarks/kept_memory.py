"""CPU time of the demo's networks with and without freed memory kept by the process.

    python -m tests.benchmarks.kept_memory [--rounds 5]

Each round is two fresh processes, one of each kind, as malloc's options hold for the
life of a process; the ratio is of the medians.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import digipath_ray.demo
from digipath_ray.machine import keep_freed_memory
from digipath_ray.networks.card import read_card
from digipath_ray.networks.weights import card_spec, load_member

BATCHES, BATCH = 6, (8, 3, 256, 256)
WEIGHTS = Path(digipath_ray.demo.__file__).parent / "weights"


def predict_batches() -> float:
    """CPU seconds of all members for a few batches, on one thread."""
    torch.set_num_threads(1)
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    members = [load_member(card_spec(read_card(path), path)) for path in paths]
    pixels = torch.randint(0, 256, BATCH, dtype=torch.uint8)
    started = time.process_time()
    with torch.inference_mode():
        for _ in range(BATCHES):
            for member in members:
                member(pixels)
    return time.process_time() - started


def measure(kind: str) -> float:
    """CPU seconds of a process of one kind."""
    command = [sys.executable, "-m", __spec__.name, "--only", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("kept", "returned"), help="one process")
    options = parser.parse_args()
    if options.only:
        if options.only == "kept":
            keep_freed_memory()
        print(predict_batches())
        return
    seconds: dict[str, list[float]] = {"returned": [], "kept": []}
    for _ in range(options.rounds):
        for kind, found in seconds.items():
            found.append(measure(kind))
    returned, kept = (statistics.median(found) for found in seconds.values())
    print(
        f"returned {returned:.2f} CPU s, kept {kept:.2f} CPU s: x{returned / kept:.2f}"
    )


if __name__ == "__main__":
    main()
