"""What a run remembers of its workers: tries that have not ended, failed slides.

Ray starts a task anew for ever when its worker dies and tells it no attempt number. So
a try is written down before it begins and struck out when it ends, by one small actor
beside the driver: no folder that all nodes share is needed for it.
"""

from collections import Counter
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digipath_ray.rundir import Failure


class Ledger:
    """The book itself."""

    def __init__(self) -> None:
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, Failure] = {}

    def begin(self, work: str, limit: int) -> int:
        """How many tries at a work have not ended; below ``limit`` one more is made."""
        earlier = self._tries[work]
        if earlier < limit:
            self._tries[work] += 1
        return earlier

    def end(self, work: str) -> None:
        """An answer came: all tries are forgotten."""
        del self._tries[work]

    def fail(self, failure: Failure) -> None:
        """Remember that a slide has failed."""
        self._failed[failure.slide_id] = failure

    def failure(self, slide_id: str) -> Failure | None:
        """Why a slide has failed, if it has."""
        return self._failed.get(slide_id)


class SharedLedger(Ledger):
    """The book that an actor keeps, to be written in from any node."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begin(self, work: str, limit: int) -> int:
        """As :meth:`Ledger.begin`."""
        return int(ray.get(self._actor.begin.remote(work, limit)))

    def end(self, work: str) -> None:
        """As :meth:`Ledger.end`; nobody waits for it."""
        self._actor.end.remote(work)

    def fail(self, failure: Failure) -> None:
        """As :meth:`Ledger.fail`."""
        ray.get(self._actor.fail.remote(failure))

    def failure(self, slide_id: str) -> Failure | None:
        """As :meth:`Ledger.failure`."""
        found: Failure | None = ray.get(self._actor.failure.remote(slide_id))
        return found


def share_ledger() -> SharedLedger:
    """An empty book, kept on this node for as long as somebody has it open."""
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger)
    return SharedLedger(actor.options(scheduling_strategy=here).remote())
