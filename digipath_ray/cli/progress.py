"""A run's progress: live bars on a terminal, a log line now and then elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from digipath_ray.run.listeners import RunListener, Tally
from digipath_ray.words import format_duration, format_rate

LINE_EVERY_S = 10.0
"""Seconds between the lines of a run that no terminal shows."""
RATE_AFTER_S = 1.0
"""Seconds of prediction before which a rate would be a guess."""


class RunProgress(RunListener):
    """Bars for slides and patches, or lines. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._slides = self._patches = 0
        self._next_line = 0.0
        if console.is_terminal and not console.is_dumb_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars:
            self._bars.stop()

    def placed(self, place: str) -> None:
        """The first line."""
        self._console.print(place, highlight=False, markup=False)

    def started(self, work: str) -> None:
        """A line that stays, above the bars if there are any."""
        self._console.print(work, highlight=False, markup=False)

    def prepared(self, done: int, total: int) -> None:
        """Slides have their patches placed, or have failed to."""
        self._bar("prepare", done, total, "slides")
        self._line(f"prepare: {done}/{total} slides", always=done == total)

    def planned(self, slides: int, patches: int) -> None:
        """Prediction begins."""
        self._slides, self._patches = slides, patches
        self._bar("segment", 0, patches, "patches")
        self._bar("finish", 0, slides, "slides")
        self._line(f"segment: 0/{patches} patches, 0/{slides} slides", always=True)

    def tallied(self, tally: Tally) -> None:
        """Patches have been predicted, or a slide has been finished or has failed."""
        rate = patches_per_second(tally, now=time.monotonic())
        speed = "" if rate is None else self._format_speed(tally.patches, rate)
        failed = f", {tally.failed} failed" if tally.failed else ""
        ended = tally.slides + tally.failed
        self._bar("segment", tally.patches, self._patches, f"patches{speed}")
        self._bar("finish", ended, self._slides, f"slides{failed}")
        self._line(
            f"segment: {tally.patches}/{self._patches} patches, "
            f"{ended}/{self._slides} slides{failed}{speed}",
            always=ended == self._slides,
        )

    def measured(self, done: int, total: int) -> None:
        """Finished slides were measured again."""
        self._bar("measure", done, total, "slides")
        self._line(f"measure: {done}/{total} slides", always=done == total)

    def _format_speed(self, done: int, rate: float) -> str:
        left = self._patches - done
        eta = f", {format_duration(left / rate)} left" if left > 0 else ""
        return f", {format_rate(rate)}{eta}"

    def _bar(self, name: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _line(self, text: str, *, always: bool) -> None:
        """Print a line if it is time for one."""
        now = time.monotonic()
        if self._bars is None and (always or now >= self._next_line):
            self._next_line = now + LINE_EVERY_S
            self._console.print(text, highlight=False)


def patches_per_second(tally: Tally, *, now: float) -> float | None:
    """Patches per second since the first one; None while that would be a guess."""
    if tally.first_patch is None or now - tally.first_patch < RATE_AFTER_S:
        return None
    return tally.patches / (now - tally.first_patch)
