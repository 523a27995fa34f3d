"""One Ray task per slide, tried again when its process dies."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import ray

from digipath_ray.cohort.inputs import SlideRow
from digipath_ray.distributed.attempts import TooManyAttempts, explain
from digipath_ray.distributed.fault import Patience, cause_of_error, fresh_process
from digipath_ray.distributed.nodes import has_several_nodes
from digipath_ray.machine import oom_kills
from digipath_ray.run.failure import OUTSIDE, SLIDE, SUSPECT, Failure

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def for_each_slide(
    work: Callable[..., Result | Failure],
    rows: Sequence[SlideRow],
    root: str,
    settings: Any,
    *,
    attempts: int,
    step: str = "prepare",
    report: Callable[[int], None] = lambda n: None,
    patience: Patience | None = None,
) -> dict[str, Result | Failure]:
    """Run ``work(root, row, settings)`` for every slide: slide_id -> result or failure.

    Args:
        work: a function that turns a slide's errors into its failure.
        rows: the slides.
        root: directory that ``work`` writes to.
        settings: sent to the cluster once.
        attempts: after so many crashes or hangs of its process a slide has failed; the
            last try is alone, in a fresh process.
        step: name of the work in a failure.
        report: called with the number of results so far.
        patience: waits for what is no slide's fault.
    """
    turns: Turns[Result] = Turns(rows, attempts, step, patience or Patience())
    task = ray.remote(num_cpus=1, max_retries=0)(work)
    stored = ray.put(settings)
    at_once = max(2, int(2 * ray.cluster_resources().get("CPU", 1)))
    active: dict[ray.ObjectRef, Turn] = {}
    while turns.left(active.values()):
        for turn in turns.next(active.values(), at_once):
            options = fresh_process() if turn.alone else {}
            active[task.options(**options).remote(root, turn.row, stored)] = turn
        if not active:
            continue
        (ref,), _ = ray.wait(list(active), num_returns=1)
        turn = active.pop(ref)
        try:
            turns.take(turn, ray.get(ref))
        except ray.exceptions.RayError as e:  # its worker crashed, hung or was lost
            turns.take_end(turn, e)
        report(len(turns.results))
    return turns.results


@dataclass(frozen=True)
class Turn:
    """A slide's turn: how many of its processes have ended, and whether it is alone."""

    row: SlideRow
    ends: int = 0
    alone: bool = False


def lost_nodes() -> int:
    """How many nodes the cluster has lost."""
    return sum(not node["Alive"] for node in ray.nodes())


class Turns(Generic[Result]):
    """Whose turn it is: all at once first, then one at a time who needs to be alone."""

    def __init__(
        self, rows: Sequence[SlideRow], attempts: int, step: str, patience: Patience
    ) -> None:
        """All rows are in the crowd."""
        self.results: dict[str, Result | Failure] = {}
        self._crowd = deque(Turn(row) for row in rows)
        self._alone: deque[Turn] = deque()
        self._held: list[tuple[Turn, Failure]] = []
        self._attempts, self._step, self._patience = attempts, step, patience
        self._kills, self._dead = oom_kills(), lost_nodes()

    def left(self, active: Sequence[Turn] | Any) -> bool:
        """Whether any slide has no result yet."""
        return bool(self._crowd or self._alone or self._held or active)

    def next(self, active: Any, at_once: int) -> list[Turn]:
        """Turns to begin now, beside those that are active."""
        if not active and self._held:
            self._release()
        if any(turn.alone for turn in active):
            return []
        room = at_once - len(active)
        turns = [self._crowd.popleft() for _ in range(min(room, len(self._crowd)))]
        if turns or active or not self._alone:
            return turns
        return [replace(self._alone.popleft(), alone=True)]

    def _release(self) -> None:
        """Pause, then let go on what was held up; or give all up."""
        held, self._held = self._held, []
        turns, failures = zip(*held, strict=True)
        first = failures[0]
        if self._patience.wait(first.cause or SLIDE, first.error):
            self._alone.extend(turns)
            return
        for turn in (*turns, *self._crowd, *self._alone):
            self.results[turn.row.slide_id] = replace(
                first,
                slide_id=turn.row.slide_id,
                path=turn.row.path,
                patient_id=turn.row.patient_id,
            )
        self._crowd.clear()
        self._alone.clear()

    def take(self, turn: Turn, result: Result | Failure) -> None:
        """Take note of what a slide's work has answered."""
        if isinstance(result, Failure):
            self._take_failure(turn, result)
            return
        self._patience.settle()
        self.results[turn.row.slide_id] = result

    def take_end(self, turn: Turn, error: BaseException) -> None:
        """Take note of a process that has ended without an answer."""
        about = {"slide_id": turn.row.slide_id, "step": self._step}
        turn = replace(turn, ends=turn.ends + 1)
        failure = explain(error, turn.row, self._step)
        what = "%s: %s, try %d: %s"
        log.info(
            what, turn.row.slide_id, self._step, turn.ends, failure.error, extra=about
        )
        cause = self._cause_of(error)
        if cause in OUTSIDE:
            turn = replace(turn, ends=turn.ends - 1)
            self._take_failure(turn, replace(failure, cause=cause))
        elif turn.alone and turn.ends >= self._attempts:
            lost = TooManyAttempts(turn.ends, alone=True)
            self._take_failure(turn, explain(lost, turn.row, self._step))
        elif turn.ends + 1 < self._attempts:
            self._crowd.append(turn)
        else:
            self._alone.append(turn)

    def _cause_of(self, error: BaseException) -> str:
        """As cause_of_error says, unless a node or the kernel is seen to have ended it.

        The kernel's own kills are seen on this node alone.
        """
        cause, kills, dead = cause_of_error(error), self._kills, self._dead
        self._kills, self._dead = oom_kills(), lost_nodes()
        if cause == SUSPECT and self._dead > dead:
            return "node"
        if cause == SUSPECT and self._kills > kills:
            return cause if has_several_nodes(ray.cluster_resources()) else "memory"
        return cause

    def _take_failure(self, turn: Turn, failure: Failure) -> None:
        if failure.cause in OUTSIDE:
            self._held.append((turn, failure))
        elif failure.cause == SUSPECT and not turn.alone:
            self._alone.append(turn)
        else:
            self._patience.settle()
            self.results[turn.row.slide_id] = replace(failure, cause=SLIDE)
