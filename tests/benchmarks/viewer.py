"""How fast tiles come, and what memory they take, from a real server process.

    python -m tests.benchmarks.viewer SLIDE [--tiles 1000] [--clients 1 8] [--flood 200]

Asks ``digipath view SLIDE`` for so many random tiles of the four finest levels, by one
client and by eight, each a server of its own; then one more server for 200 at once,
again and again. No server is asked twice for a tile, so that its cache of tiles is of
no help. Times are the clients' own, and on a machine that runs the clients as well.
"""

import argparse
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil

FINEST = 4
REFILL_S = 6.0
"""Between rounds, so that the limit of requests an address may make is out of play."""


@contextlib.contextmanager
def serving(slide: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a viewer of a slide, and its process."""
    program = "from digipath_ray.cli import main; main()"
    command = [sys.executable, "-c", program, "view", str(slide), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://\S+/", line):
                yield found[0].rstrip("/"), psutil.Process(process.pid)
                return
        raise SystemExit("the viewer did not start")
    finally:
        process.terminate()
        process.wait(30)


def tile_urls(site: str) -> list[str]:
    """All tiles of the finest levels of the one slide that is served."""
    (slide,) = read_json(f"{site}/api/cohort")["slides"]
    base = f"{site}/api/slides/{slide['key']}"
    image = read_json(base)["image"]
    urls = []
    for back in range(FINEST):
        level = image["max_level"] - back
        if level < 0:
            break
        side = image["tile_size"] << back
        for col in range(-(-image["width"] // side)):
            for row in range(-(-image["height"] // side)):
                urls.append(f"{base}/tiles/{level}/{col}_{row}.jpg")
    return urls


def read_json(url: str) -> Any:
    with urlopen(url) as answer:
        return json.load(answer)


def fetch(urls: Sequence[str], clients: int) -> tuple[list[float], int]:
    """Seconds that each tile took, by so many clients, and how many were refused."""
    host = urlsplit(urls[0]).netloc
    start = threading.Barrier(clients)

    def ask(mine: Sequence[str]) -> tuple[list[float], int]:
        took, refused = [], 0
        with contextlib.closing(HTTPConnection(host, timeout=60)) as server:
            start.wait()
            for url in mine:
                started = time.perf_counter()
                server.request("GET", urlsplit(url).path)
                answer = server.getresponse()
                answer.read()
                took.append(time.perf_counter() - started)
                refused += answer.status != 200
        return took, refused

    with ThreadPoolExecutor(clients) as threads:
        parts = list(threads.map(ask, [urls[i::clients] for i in range(clients)]))
    return [s for took, _ in parts for s in took], sum(n for _, n in parts)


def say(name: str, took: Sequence[float], wall_s: float, refused: int) -> str:
    cuts = statistics.quantiles(took, n=100)
    return (
        f"| {name} | {len(took)} | {1e3 * statistics.median(took):.1f} | "
        f"{1e3 * cuts[98]:.1f} | {len(took) / wall_s:.0f} | {refused} |"
    )


def mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--tiles", type=int, default=1000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--flood", type=int, default=200, help="requests at once")
    parser.add_argument("--floods", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print("| clients | tiles | median, ms | 99 %, ms | tiles/s | refused | MB |")
    print("|---|---|---|---|---|---|---|")
    for clients in arguments.clients:
        with serving(arguments.slide) as (site, process):
            urls = shuffled(tile_urls(site), rng)[: arguments.tiles]
            measure(f"{clients}", urls, clients, process)
    print(f"\n{arguments.flood} at once:\n")
    print("| round | tiles | median, ms | 99 %, ms | tiles/s | refused | MB |")
    print("|---|---|---|---|---|---|---|")
    with serving(arguments.slide) as (site, process):
        urls = shuffled(tile_urls(site), rng)
        for i in range(arguments.floods):
            mine = urls[arguments.flood * i : arguments.flood * (i + 1)]
            if len(mine) < arguments.flood:
                raise SystemExit(f"the slide has only {len(urls)} tiles")
            measure(f"{i + 1}", mine, arguments.flood, process)


def shuffled(urls: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(urls, len(urls))


def measure(
    name: str, urls: Sequence[str], clients: int, process: psutil.Process
) -> None:
    started = time.perf_counter()
    took, refused = fetch(urls, clients)
    line = say(name, took, time.perf_counter() - started, refused)
    print(f"{line} {mb(process):.0f} |", flush=True)
    time.sleep(REFILL_S)


if __name__ == "__main__":
    main()
