"""``digipath status``: how far a run is, from its directory alone, without Ray."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import RunError
from digipath_ray.run.status import (
    Phase,
    State,
    Status,
    liveness,
    read_status,
    silent_s,
)
from digipath_ray.words import count, format_duration, format_rate

WATCH_S = 5.0
FAILURES_SHOWN = 5
PHASES: dict[Phase, str] = {
    "prepare": "finds tissue and places patches",
    "measure": "measures finished slides again",
    "segment": "predicts",
}


@dataclass(frozen=True, kw_only=True)
class View:
    """What is known of a run.

    Attributes:
        root: its directory.
        state: None if the run never wrote its status.
        status: what it says.
        finished: slides that have a ``done`` record.
        failed: how many slides failed.
        failures: the last ones: slide_id, step, error, hint.
        now: when this was looked up.
    """

    root: str
    state: State | None
    status: Status | None
    finished: int
    failed: int
    failures: list[tuple[str, str, str, str]]
    now: datetime

    @property
    def exit_code(self) -> int:
        """1 if a slide failed or the run ended before its end, else 0."""
        return 1 if self.failed or self.state in ("stopped", "dead") else 0


def show_status(
    console: Console,
    folder: Path,
    *,
    watch: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Print how far a run is; with ``watch`` again and again until it has ended.

    Raises:
        RunError: no run's directory.
    """
    view = look(folder)
    if not watch:
        console.print(draw(view))
        return view.exit_code
    with Live(draw(view), console=console, auto_refresh=False) as live:
        while view.state == "running":
            sleep(WATCH_S)
            view = look(folder)
            live.update(draw(view), refresh=True)
    return view.exit_code


def look(folder: Path) -> View:
    """What a run's directory says now: status.json, done/ and failures.parquet.

    Raises:
        RunError: no run's directory.
    """
    run = RunDirectory(folder)
    now = datetime.now(UTC)
    status = read_status(run)
    if status is None and not run.settings.exists():
        raise RunError(
            f"{run.root}: no run has started there: name the directory given to "
            "digipath run --out"
        )
    state = None if status is None else liveness(status, now=now)
    if status is not None and state in ("running", "dead"):  # no table of it yet
        failed = status.failed
        recent = [
            (f["slide_id"], f["step"], f["error"], f["hint"]) for f in status.failures
        ]
    else:
        failures = run.read_failures()
        failed = len(failures)
        recent = [(f.slide_id, f.step, f.error, f.hint) for f in failures]
    return View(
        root=str(run.root),
        state=state,
        status=status,
        finished=sum(1 for _ in (run.root / "done").glob("*.json")),
        failed=failed,
        failures=recent[-FAILURES_SHOWN:],
        now=now,
    )


def draw(view: View) -> Table:
    """The view as a table of two columns for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", escape(view.root))
    table.add_row("state", format_state(view))
    table.add_row("slides", format_slides(view))
    status = view.status
    if status is not None:
        if status.patches:
            table.add_row("patches", format_patches(status, view.state))
        if status.bottleneck and view.state == "running":
            table.add_row("bottleneck", escape(status.bottleneck))
        table.add_row("started", f"{status.started} on {escape(status.host)}")
    for slide_id, step, error, hint in view.failures:
        text = f"{escape(slide_id)} at {step}: {escape(error)}\nfix: {escape(hint)}"
        table.add_row("[red]failed[/]", text)
    return table


def format_state(view: View) -> str:
    """What a run is doing, or how it ended."""
    status = view.status
    if status is None:
        return "unknown: made by a version that says nothing of itself, or not begun"
    silent = format_duration(max(0.0, silent_s(status, now=view.now)))
    if view.state == "running":
        return f"running: {PHASES[status.phase]} (status of {silent} ago)"
    if view.state == "done":
        took = _seconds_between(status.started, status.updated)
        return f"[green]done[/] {silent} ago, in {format_duration(took)}"
    again = "the same command goes on from what is finished"
    if view.state == "stopped":
        return f"[red]stopped[/] {silent} ago: {escape(status.why or '')}; {again}"
    return (
        f"[red]seems dead[/]: process {status.pid} on {escape(status.host)} wrote "
        f"no status for {silent}; {again}"
    )


def _seconds_between(first: str, last: str) -> float:
    apart = datetime.fromisoformat(last) - datetime.fromisoformat(first)
    return apart.total_seconds()


def format_slides(view: View) -> str:
    """Slides finished, failed, and in what stage the others are."""
    status = view.status
    failed = f", [red]{view.failed} failed[/]" if view.failed else ", 0 failed"
    if status is None:
        return f"{count(view.finished, 'slide')} finished{failed}"
    parts = f"{view.finished:,} of {status.slides:,} finished{failed}"
    if view.state != "running":
        return parts
    if status.phase == "prepare":
        return f"{parts}, {status.prepared:,} prepared"
    if status.phase == "measure":
        return f"{parts}, {status.measured:,} measured again"
    return f"{parts}, {status.open_slides} open, {status.finishing} being written"


def format_patches(status: Status, state: State | None) -> str:
    """Patches predicted in this start, how fast, and how long that will take."""
    done = f"{status.patches_done:,} of {status.patches:,}"
    if state != "running" or status.patches_per_s is None or status.eta_s is None:
        return done
    rate, left = format_rate(status.patches_per_s), format_duration(status.eta_s)
    return f"{done}, {rate}, {left} left"
