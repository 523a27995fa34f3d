"""Events of a run (slide prepared, finished, failed) and who listens to them."""

import time
from dataclasses import dataclass, field

from digipath_ray.run.failure import Failure


@dataclass(kw_only=True)
class Tally:
    """What a run has done so far, for the progress line and metrics.json.

    Attributes:
        planned: patches in all.
        predicted: patches that the networks predicted, mean over the members; fewer
            than patches if overlap is adaptive.
        predictors: actors at work at once, at most.
        ninety: when 90 % of the patches were predicted.
        reduced_to: patches of a batch, where memory was too short for larger ones.
        progress: slides begun and not yet finished, with the share predicted.
    """

    started: float = field(default_factory=time.monotonic)
    planned: int = 0
    slides: int = 0
    failed: int = 0
    patches: int = 0
    predicted: float = 0.0
    batch_slots: int = 0
    read_seconds: float = 0.0
    read_px: int = 0
    predict_seconds: float = 0.0
    finish_seconds: float = 0.0
    finish_wait_seconds: float = 0.0
    open_slides: int = 0
    open_slides_max: int = 0
    finishing: int = 0
    readers: int = 0
    predictors: int = 0
    first_patch: float | None = None
    ninety: float | None = None
    reduced_to: int | None = None
    progress: dict[str, float] = field(default_factory=dict)
    first_slide: float | None = None
    patches_at_first_slide: int | None = None


class RunListener:
    """Called as a run goes on; a subclass overrides what it wants to know."""

    def placed(self, place: str) -> None:
        """The run goes on ``place``: cores and memory, or a cluster, as text."""

    def measured(self, done: int, total: int) -> None:
        """Finished slides were measured again with other settings."""

    def prepared(self, done: int, total: int) -> None:
        """Slides have their patches placed, or have failed to."""

    def planned(self, slides: int, patches: int) -> None:
        """Prediction begins."""

    def started(self, work: str) -> None:
        """Prediction runs on ``work``: networks and devices, as text."""

    def tallied(self, tally: Tally) -> None:
        """Patches were predicted, or a slide was finished or has failed."""

    def failed(self, failure: Failure) -> None:
        """A slide has failed."""


class Listeners(RunListener):
    """Several listeners as one, called in their order."""

    def __init__(self, *listeners: RunListener) -> None:
        self._listeners = listeners

    def placed(self, place: str) -> None:
        """Call ``placed`` of each."""
        for listener in self._listeners:
            listener.placed(place)

    def measured(self, done: int, total: int) -> None:
        """Call ``measured`` of each."""
        for listener in self._listeners:
            listener.measured(done, total)

    def prepared(self, done: int, total: int) -> None:
        """Call ``prepared`` of each."""
        for listener in self._listeners:
            listener.prepared(done, total)

    def planned(self, slides: int, patches: int) -> None:
        """Call ``planned`` of each."""
        for listener in self._listeners:
            listener.planned(slides, patches)

    def started(self, work: str) -> None:
        """Call ``started`` of each."""
        for listener in self._listeners:
            listener.started(work)

    def tallied(self, tally: Tally) -> None:
        """Call ``tallied`` of each."""
        for listener in self._listeners:
            listener.tallied(tally)

    def failed(self, failure: Failure) -> None:
        """Call ``failed`` of each."""
        for listener in self._listeners:
            listener.failed(failure)


class FailureLog(RunListener):
    """Keeps the failures of a run, in the order they came."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def failed(self, failure: Failure) -> None:
        """Keep it."""
        self.failures.append(failure)
