"""Whoever wants to see a run's progress, the run's own heartbeat among them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from digipath_ray.distributed.collector import Tally
from digipath_ray.distributed.heartbeat import Heartbeat


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Whoever wants to see a run's progress.

    Attributes:
        prepared: told how many slides are prepared, of how many.
        planned: told of how many slides and patches prediction begins.
        started: told in words what computes them.
        tallied: told what is done so far.
        measured: told how many finished slides are measured anew, of how many.
    """

    prepared: Callable[[int, int], None] = lambda done, total: None
    planned: Callable[[int, int], None] = lambda slides, patches: None
    started: Callable[[str], None] = lambda work: None
    tallied: Callable[[Tally], None] = lambda tally: None
    measured: Callable[[int, int], None] = lambda done, total: None


def both(watcher: Watcher, beat: Heartbeat) -> Watcher:
    """A watcher that tells a run's heartbeat, too, what it is told."""

    def prepared(done: int, total: int) -> None:
        beat.prepared(done, total)
        watcher.prepared(done, total)

    def planned(slides: int, patches: int) -> None:
        beat.planned(slides, patches)
        watcher.planned(slides, patches)

    def tallied(tally: Tally) -> None:
        beat.tallied(tally)
        watcher.tallied(tally)

    def measured(done: int, total: int) -> None:
        beat.measured(done, total)
        watcher.measured(done, total)

    return replace(
        watcher,
        prepared=prepared,
        planned=planned,
        tallied=tallied,
        measured=measured,
    )
