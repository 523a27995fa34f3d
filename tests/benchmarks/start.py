"""What an actor does before its first patch is predicted, step by step.

    python -m tests.benchmarks.start [--rounds 3]

CPU seconds of a fresh process with the demo's members, each round a process of its own;
the median of the rounds and their range. Ray's own processes are not in it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TypeVar

T = TypeVar("T")

STEPS = (
    ("import torch", "torch"),
    ("import torch._dynamo (torchvision does, for timm)", "torch._dynamo"),
    (
        "import segmentation_models_pytorch, timm, torchvision",
        "segmentation_models_pytorch",
    ),
    ("import ray and ray.data", "ray.data"),
    ("import the stage and what it calls", "digipath_ray.distributed.predict"),
    ("import the networks' modules", "digipath_ray.networks.predict"),
)


def spent() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one_process() -> dict[str, float]:
    """CPU seconds of each step, in this process."""
    found = {"Python": spent()}

    def step(name: str, call: Callable[[], T]) -> T:
        before = spent()
        answer = call()
        found[name] = spent() - before
        return answer

    for name, module in STEPS:
        step(name, partial(import_module, module))
    import numpy as np

    from digipath_ray.config.toml import load_config
    from digipath_ray.networks.predict import EnsemblePredictor
    from digipath_ray.networks.resolve import resolve

    config = resolve(load_config(preset="demo"))
    ensemble = step(
        "build three members, load, fold",
        lambda: EnsemblePredictor(config.members, config, threads=1),
    )
    side = config.grid.stride_px
    blocks = np.full((4, side, side, 3), 200, np.uint8)
    index = np.arange(4).reshape(1, 2, 2)
    for name in ("first patch", "second patch"):
        step(name, lambda: ensemble.predict(blocks, index))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_process()))
        return
    command = [sys.executable, "-m", "tests.benchmarks.start", "--one"]
    rounds = []
    for _ in range(arguments.rounds):
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        rounds.append(json.loads(answer.stdout.splitlines()[-1]))
    print("| step | CPU s | least-most |\n|---|---|---|")
    for name in rounds[0]:
        values = [found[name] for found in rounds]
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {min(values):.2f}-{max(values):.2f} |")
    totals = [sum(found.values()) for found in rounds]
    middle = statistics.median(totals)
    print(f"| all | {middle:.2f} | {min(totals):.2f}-{max(totals):.2f} |")


if __name__ == "__main__":
    main()
