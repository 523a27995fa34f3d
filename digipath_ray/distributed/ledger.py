"""What a run remembers of its workers: tries not ended, failed slides, places on GPUs.

Ray retries a task for ever when its worker dies, without an attempt number. So
a try is written down before it begins and struck out when it ends, by one small actor
beside the driver: no folder that all nodes share is needed for it. The other runs on
the cluster find it by its name (:mod:`digipath_ray.distributed.fairness`).
"""

import contextlib
import os
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from digipath_ray.distributed.fault import cause_of_end
from digipath_ray.machine import oom_kills
from digipath_ray.run.failure import OUTSIDE, SUSPECT, Failure

NAMESPACE = "digipath_ray"
LEDGER = "ledger"
"""How the names of ledgers begin."""
RESPONSE_S = 10.0
"""Seconds that another run's ledger has to answer in."""


@dataclass(frozen=True)
class Standing:
    """How many GPUs a run could use, how many its actors hold, what held it up."""

    wants: float
    holds: float
    met: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Try:
    """Who tries: a worker process and its node, by their ids.

    ``oom_kills`` is how often that node's kernel had ended processes for memory.
    """

    worker: str
    node: str
    oom_kills: int = 0


@dataclass(frozen=True)
class Earlier:
    """Tries at a work that have not ended well: its own, and what others ended."""

    crashes: int
    outside: tuple[str, ...] = ()


def this_try() -> Try | None:
    """This process of Ray; None outside of one."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return Try(context.get_worker_id(), context.get_node_id(), oom_kills())


class Ledger:
    """The book itself."""

    def __init__(self, wants: float = 0.0) -> None:
        """An empty book of a run that could use so many GPUs."""
        self._tries: dict[str, list[Try | None]] = {}
        self._outside: dict[str, list[str]] = {}
        self._met: Counter[str] = Counter()
        self._failed: dict[str, Failure] = {}
        self._wants = wants
        self._places: dict[str, float] = {}
        self._to_leave = 0.0

    def begin(self, work: str, limit: int, who: Try | None = None) -> Earlier:
        """Tries at a work that have not ended; below ``limit`` one more is made."""
        tries = self._tries.setdefault(work, [])
        outside = self._outside.setdefault(work, [])
        for one in tries[-1:]:
            cause = SUSPECT if one is None else self.cause_of_end(one, who)
            if cause in OUTSIDE:
                tries.pop()
                outside.append(cause)
                self._met[cause] += 1
        earlier = Earlier(len(tries), tuple(outside))
        if len(tries) < limit:
            tries.append(who)
        return earlier

    def cause_of_end(self, one: Try, now: Try | None) -> str:
        """What a try has ended of, as it is now."""
        if now is not None and now.node == one.node and now.oom_kills > one.oom_kills:
            return "memory"
        return cause_of_end(one.worker, one.node)

    def end(self, work: str) -> None:
        """An answer came: all tries are forgotten."""
        self._tries.pop(work, None)
        self._outside.pop(work, None)

    def fail(self, failure: Failure) -> None:
        """Remember that a slide has failed."""
        self._failed[failure.slide_id] = failure

    def failure(self, slide_id: str) -> Failure | None:
        """Why a slide has failed, if it has."""
        return self._failed.get(slide_id)

    def take_place(self, actor: str, gpus: float) -> None:
        """An actor is there, and holds so much of a GPU."""
        self._places[actor] = gpus

    def keeps_place(self, actor: str) -> bool:
        """Whether an actor may stay; one that may not is struck out."""
        gpus = self._places.get(actor, 0.0)
        if not 0 < gpus <= self._to_leave + 1e-9:
            return True
        del self._places[actor]
        self._to_leave -= gpus
        return False

    def give_way(self, gpus: float) -> None:
        """Actors that hold so many GPUs together are to leave, in place of others."""
        self._to_leave = gpus

    def retire(self) -> None:
        """The run has ended, and claims nothing; who has the book may still ask."""
        self._wants, self._to_leave = 0.0, 0.0
        self._places.clear()

    def standing(self) -> Standing:
        """What the run holds, and could use."""
        holds = sum(self._places.values(), 0.0)
        return Standing(self._wants, holds, tuple(self._met.items()))


class SharedLedger(Ledger):
    """The book that an actor keeps, to be written in from any node."""

    def __init__(self, actor: Any, name: str) -> None:
        """The actor, and the name that other runs know it by."""
        self._actor = actor
        self.name = name

    def begin(self, work: str, limit: int, who: Try | None = None) -> Earlier:
        """As :meth:`Ledger.begin`."""
        found: Earlier = ray.get(self._actor.begin.remote(work, limit, who))
        return found

    def end(self, work: str) -> None:
        """A try has ended; does not wait for the actor to note it."""
        self._actor.end.remote(work)

    def fail(self, failure: Failure) -> None:
        """As :meth:`Ledger.fail`."""
        ray.get(self._actor.fail.remote(failure))

    def failure(self, slide_id: str) -> Failure | None:
        """As :meth:`Ledger.failure`."""
        found: Failure | None = ray.get(self._actor.failure.remote(slide_id))
        return found

    def take_place(self, actor: str, gpus: float) -> None:
        """As :meth:`Ledger.take_place`."""
        ray.get(self._actor.take_place.remote(actor, gpus))

    def keeps_place(self, actor: str) -> bool:
        """As :meth:`Ledger.keeps_place`."""
        return bool(ray.get(self._actor.keeps_place.remote(actor)))

    def give_way(self, gpus: float) -> None:
        """As :meth:`Ledger.give_way`."""
        ray.get(self._actor.give_way.remote(gpus))

    def retire(self) -> None:
        """As :meth:`Ledger.retire`."""
        ray.get(self._actor.retire.remote(), timeout=RESPONSE_S)

    def met(self) -> dict[str, int]:
        """What held tries up, and how often; empty if the actor is lost."""
        with contextlib.suppress(ray.exceptions.RayError):
            return dict(self.standing().met)
        return {}

    def standing(self) -> Standing:
        """As :meth:`Ledger.standing`."""
        found: Standing = ray.get(self._actor.standing.remote(), timeout=RESPONSE_S)
        return found


class Place:
    """An actor's place on a GPU, left between two chunks if another run needs it.

    Ray restarts an actor that has ended, and gives it the chunks it was to do: it
    comes back when a GPU is free, behind those who have waited longer.
    """

    def __init__(self, ledger: Ledger, gpus: float) -> None:
        """Take it."""
        self._ledger = ledger
        self._gpus = gpus
        self._actor = ray.get_runtime_context().get_actor_id() or ""
        if gpus > 0:
            ledger.take_place(self._actor, gpus)

    def keep(self) -> None:
        """Go on, or end this process."""
        if self._gpus > 0 and not self._ledger.keeps_place(self._actor):
            os._exit(1)


def share_ledger(wants: float = 0.0) -> SharedLedger:
    """An empty book, kept on this node for as long as a run has it open."""
    here = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger)
    name = f"{LEDGER} {uuid.uuid4().hex}"
    options = {"name": name, "namespace": NAMESPACE, "scheduling_strategy": here}
    return SharedLedger(actor.options(**options).remote(wants), name)
