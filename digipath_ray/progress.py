"""A run's progress: live bars on a terminal, a log line now and then elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 10.0


class RunProgress:
    """Bars for slides and patches. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._totals = (0, 0)
        self._started = time.monotonic()
        self._last_line = 0.0
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>9}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
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

    def prepared(self, done: int, total: int) -> None:
        """A slide's patches have been placed."""
        self._show("prepare", done, total, "slides")
        self._line(f"prepare: {done}/{total} slides", last=done == total)

    def planned(self, slides: int, patches: int) -> None:
        """Prediction begins."""
        self._totals = (slides, patches)
        self._started = time.monotonic()
        self._show("segment", 0, patches, "patches")
        self._show("finish", 0, slides, "slides")
        self._line(f"segment: {slides} slides, {patches} patches", last=True)

    def tallied(self, tally: Any) -> None:
        """Patches have been predicted or a slide has been finished."""
        slides, patches = self._totals
        seconds = max(time.time() - (tally.first_patch or time.time()), 1e-9)
        rate = tally.patches / seconds if seconds > 1 else 0.0
        ended = tally.slides + tally.failed
        failed = f", {tally.failed} failed" if tally.failed else ""
        self._show("segment", tally.patches, patches, f"{rate:.1f} patches/s")
        self._show("finish", ended, slides, f"slides{failed}")
        left = f"{(patches - tally.patches) / rate:.0f} s" if rate else "unknown"
        self._line(
            f"segment: {tally.patches}/{patches} patches, {rate:.1f}/s, "
            f"{ended}/{slides} slides{failed}, ETA {left}",
            last=ended == slides,
        )

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _line(self, text: str, *, last: bool) -> None:
        now = time.monotonic()
        if self._bars is None and (last or now - self._last_line >= LINE_EVERY_S):
            self._last_line = now
            self._console.print(text, highlight=False)
