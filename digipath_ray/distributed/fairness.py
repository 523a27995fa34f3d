"""Runs that share a cluster: who holds more than a fair part of its GPUs gives way.

An actor keeps its GPU until its run ends, and Ray takes none away: a run of three
slides would wait for one of five hundred. So each driver looks every few seconds who
else is there and, while another run waits, has its surplus actors leave. Nothing
predicted is lost: an actor leaves between two chunks.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import ray
from ray.util import list_named_actors

from digipath_ray.distributed.ledger import (
    LEDGER,
    NAMESPACE,
    SharedLedger,
    Standing,
)

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds between two looks at the other runs."""


def fair_parts(wants: Sequence[float], total: float) -> list[float]:
    """How much each gets of ``total``: the same, and what one does not want the others.

    Max-min fairness; the order of ``wants`` is kept.
    """
    parts = [0.0] * len(wants)
    left = total
    for n, i in enumerate(sorted(range(len(wants)), key=lambda i: wants[i])):
        parts[i] = min(wants[i], left / (len(wants) - n))
        left -= parts[i]
    return parts


def surplus(
    mine: Standing, others: Sequence[Standing], *, total: float, free: float
) -> float:
    """GPUs that a run is to give up: no more than it has too many or others lack.

    Args:
        mine: the run's own standing.
        others: those of the other runs.
        total: GPUs of the cluster.
        free: those that no run holds.
    """
    everyone = [mine, *others]
    parts = fair_parts([s.wants for s in everyone], total)
    lacking = sum(
        max(0.0, part - s.holds) for part, s in zip(parts[1:], others, strict=True)
    )
    return max(0.0, min(mine.holds - parts[0], lacking - free))


def other_runs(ledger: SharedLedger) -> list[Standing]:
    """The other runs on the cluster; one that is ending is left out."""
    found = []
    for entry in list_named_actors(all_namespaces=True):
        name = entry["name"]
        if entry["namespace"] != NAMESPACE or not name.startswith(LEDGER):
            continue
        if name == ledger.name:
            continue
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            actor = ray.get_actor(name, namespace=NAMESPACE)
            found.append(SharedLedger(actor, name).standing())
    return found


def give_way(ledger: SharedLedger) -> Standing:
    """Have as many actors leave as this run has too many; how it stood before."""
    mine, others = ledger.standing(), other_runs(ledger)
    gpus = 0.0
    if others:
        total = ray.cluster_resources().get("GPU", 0.0)
        free = ray.available_resources().get("GPU", 0.0)
        gpus = surplus(mine, others, total=total, free=free)
    ledger.give_way(gpus)
    if gpus > 0:
        log.info("giving %g GPUs to another run", gpus)
    return mine


@contextlib.contextmanager
def fair(
    ledger: SharedLedger, report: Callable[[Standing], None] = lambda mine: None
) -> Iterator[None]:
    """Give way to other runs; ``report`` is called with this run's standing."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            try:
                report(give_way(ledger))
            except ray.exceptions.RayError as e:
                log.warning("other runs on the cluster are not seen: %s", e)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            ledger.retire()
