"""``digipath run``, ``prepare`` and ``segment``."""

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.cli.words import count
from digipath_ray.cohort import SlideRow, read_cohort
from digipath_ray.config import Tree
from digipath_ray.distributed.night import Summary, Watcher, run_cohort
from digipath_ray.members import resolve
from digipath_ray.progress import RunProgress
from digipath_ray.rundir import Failure, RunDirectory, RunError


def run_slides(
    console: Console,
    slides: Sequence[str],
    out: Path,
    tree: Tree,
    *,
    weights: str | None,
    overwrite: bool,
    force: bool,
    predict: bool = True,
) -> int:
    """Run a cohort and print how it went; 1 if a slide failed."""
    rows = read_cohort(slides)
    config = resolve(tree, weights=weights, force=force)
    with RunProgress(console) as progress:
        summary = run_cohort(
            RunDirectory(out),
            rows,
            config,
            overwrite=overwrite,
            predict=predict,
            watcher=watch(progress),
        )
    print_summary(console, summary, predicted=predict)
    return 1 if summary.failures else 0


def segment_prepared(console: Console, out: Path) -> int:
    """Segment what ``prepare`` has made in a run directory; 1 if a slide failed."""
    run = RunDirectory(out)
    if not (run.settings.exists() and run.slides.exists()):
        raise RunError(
            f"{out} holds no prepared run: digipath prepare SLIDES --out {out}"
        )
    # Forced: what the cards deny was accepted when the run was prepared.
    config = resolve(tomllib.loads(run.settings.read_text("utf-8")), force=True)
    rows = [row_of(slide) for slide in pq.read_table(run.slides).to_pylist()]
    unprepared = read_unprepared(run, {row.slide_id for row in rows})
    with RunProgress(console) as progress:
        summary = run_cohort(run, rows, config, watcher=watch(progress))
    summary = keep_unprepared(summary, rows, unprepared)
    print_summary(console, summary, predicted=True)
    return 1 if summary.failures else 0


def row_of(slide: dict[str, Any]) -> SlideRow:
    """A row of the SLIDES table as the row of the cohort it was made from."""
    names = ("slide_id", "path", "patient_id", "node", "label", "split")
    return SlideRow(
        mpp=slide["mpp_x"] if slide["mpp_source"] == "manifest" else None,
        annotation=slide["annotation"],
        exhaustive=slide["exhaustive"],
        **{name: slide[name] for name in names},
    )


def read_unprepared(run: RunDirectory, prepared: set[str]) -> list[Failure]:
    """The failures of slides of a run that could not be prepared."""
    if not run.failures.exists():
        return []
    failures = [Failure(**row) for row in pq.read_table(run.failures).to_pylist()]
    return [f for f in failures if f.slide_id not in prepared]


def keep_unprepared(
    summary: Summary, rows: Sequence[SlideRow], unprepared: Sequence[Failure]
) -> Summary:
    """The summary of a cohort of which some slides were not there to be segmented.

    Their failures stay in failures.parquet: a slide never drops out of a run unseen.
    """
    if not unprepared:
        return summary
    failures = [*unprepared, *summary.failures]
    with summary.run.lock():
        summary.run.compact([row.slide_id for row in rows], failures)
    return replace(summary, slides=summary.slides + len(unprepared), failures=failures)


def watch(progress: RunProgress) -> Watcher:
    """A run's watcher that feeds the progress bars."""
    return Watcher(
        prepared=progress.prepared, planned=progress.planned, tallied=progress.tallied
    )


def print_summary(console: Console, summary: Summary, *, predicted: bool) -> None:
    """The slides, the failures with their fixes, the speed, and where to look."""
    if predicted and summary.outcomes:
        console.print(outcome_table(summary.outcomes))
    for failure in summary.failures:
        print_failure(console, failure)
    console.print(count_slides(summary, predicted=predicted))
    if summary.metrics:
        console.print(escape(say_metrics(summary.metrics)))
    for name, where in places(summary.run, predicted=predicted):
        console.print(f"{name:<10}{escape(where)}")


def print_failure(console: Console, failure: Failure) -> None:
    """A failure with its fix."""
    console.print(
        f"[red]failed[/] {escape(failure.slide_id)}, {failure.step}: "
        f"{escape(failure.error)}\n   fix: {escape(failure.hint)}"
    )


def count_slides(summary: Summary, *, predicted: bool) -> str:
    """How many slides are done and how many are not, in words."""
    failed = f"; {len(summary.failures)} failed" if summary.failures else ""
    if not predicted:
        done = summary.slides - len(summary.failures)
        patches = sum(pq.read_table(summary.run.slides)["patches"].to_pylist())
        placed = f", {count(patches, 'patch')} placed" if done else ""
        return f"{done} of {count(summary.slides, 'slide')} prepared{placed}{failed}"
    skipped = f", {summary.skipped} of them earlier" if summary.skipped else ""
    done = len(summary.outcomes)
    return f"{done} of {count(summary.slides, 'slide')} finished{skipped}{failed}"


def say_metrics(metrics: dict[str, Any]) -> str:
    """How fast the run went, and what it waited for."""
    return (
        f"{count(metrics['patches'], 'patch')}, {metrics['patches_per_s']:.1f} a "
        f"second; batches {metrics['batch_fill']:.0%} full; busy: "
        f"readers {metrics['read']['busy']:.0%}, "
        f"networks {metrics['predict']['busy']:.0%}\nbottleneck: {metrics['bottleneck']}"
    )


def places(run: RunDirectory, *, predicted: bool) -> list[tuple[str, str]]:
    """What the run has made and where to look, of what is there."""
    root = run.root
    found = [
        ("masks", "masks", "*_overlay.jpg", ""),
        ("pictures", "overlays", "*.png", ""),
        ("heatmaps", "heatmaps", "*.ome.tiff", "  (open in QuPath)"),
    ]
    said = [
        (name, f"{root}/{folder}/{pattern}{more}")
        for name, folder, pattern, more in found
        if any((root / folder).glob(pattern))
    ]
    if not predicted:
        ready = any((root / "patches").glob("*.parquet"))
        return [*said, ("next", f"digipath segment {root}")] if ready else said
    return [*said, ("tables", f"{run.outcomes}, {run.failures.name}")]


def outcome_table(outcomes: Sequence[dict[str, Any]]) -> Table:
    """The slides' outcomes as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slide", overflow="fold")
    for name in ("patches", "tissue mm2", "tumor mm2", "aleatoric", "epistemic"):
        table.add_column(name, justify="right")
    table.add_column("flags")

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for row in outcomes:
        table.add_row(
            escape(row["slide_id"]),
            str(row["patches"]),
            number(row["tissue_mm2"], ".2f"),
            number(row["tumor_mm2"], ".3f"),
            number(row["aleatoric_mean"], ".1e"),
            number(row["epistemic_mean"], ".1e"),
            ", ".join(row["qc"]),
        )
    return table
