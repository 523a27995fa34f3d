"""``digipath run``, ``prepare`` and ``segment``."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from digipath_ray.cohort import SlideRow, read_cohort
from digipath_ray.config import Tree, from_tree
from digipath_ray.distributed.night import Summary, Watcher, run_cohort
from digipath_ray.networks import resolve
from digipath_ray.progress import RunProgress
from digipath_ray.rundir import RunDirectory, RunError


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
    """Run a cohort and print how it went; the exit code."""
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
    """Segment what ``prepare`` has made in a run directory; the exit code."""
    run = RunDirectory(out)
    if not (run.settings.exists() and run.slides.exists()):
        raise RunError(
            f"{out} holds no prepared run: digipath prepare SLIDES --out {out}"
        )
    config = from_tree(tomllib.loads(run.settings.read_text(encoding="utf-8")))
    rows = [
        SlideRow(
            slide_id=slide["slide_id"],
            path=slide["path"],
            mpp=slide["mpp_x"] if slide["mpp_source"] == "manifest" else None,
            **{k: slide[k] for k in ("patient_id", "node", "label", "split")},
        )
        for slide in pq.read_table(run.slides).to_pylist()
    ]
    with RunProgress(console) as progress:
        summary = run_cohort(run, rows, config, watcher=watch(progress))
    print_summary(console, summary, predicted=True)
    return 1 if summary.failures else 0


def watch(progress: RunProgress) -> Watcher:
    """A run's watcher that feeds the progress bars."""
    return Watcher(
        prepared=progress.prepared, planned=progress.planned, tallied=progress.tallied
    )


def print_summary(console: Console, summary: Summary, *, predicted: bool) -> None:
    """The slides, the failures with their fixes, the speed, and where to look."""
    if predicted and summary.outcomes:
        console.print(outcome_table(summary))
    for failure in summary.failures:
        console.print(
            f"[red]failed[/] {failure.slide_id} at {failure.step}: {failure.error}\n"
            f"       fix: {failure.hint}",
            highlight=False,
        )
    done = len(summary.outcomes)
    skipped = f" ({summary.skipped} were already)" if summary.skipped else ""
    if predicted:
        console.print(
            f"{done} of {summary.slides} slides finished{skipped}, "
            f"{len(summary.failures)} failed"
        )
    if summary.metrics:
        m = summary.metrics
        console.print(
            f"{m['patches']} patches, {m['patches_per_s']:.1f} patches/s; "
            f"batches {m['batch_fill']:.0%} full; busy: "
            f"readers {m['read']['busy']:.0%}, "
            f"networks {m['predict']['busy']:.0%}\nbottleneck: {m['bottleneck']}"
        )
    root = summary.run.root
    console.print(f"masks     {root}/masks/*_overlay.jpg")
    if predicted:
        console.print(f"pictures  {root}/overlays/*.png")
        console.print(f"heatmaps  {root}/heatmaps/*.ome.tiff  (open in QuPath)")
        console.print(f"tables    {root}/outcomes.parquet, failures.parquet")


def outcome_table(summary: Summary) -> Table:
    """The slides' outcomes as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slide")
    for name in ("patches", "tissue mm2", "tumor mm2", "aleatoric", "epistemic"):
        table.add_column(name, justify="right")
    table.add_column("flags")

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for row in summary.outcomes:
        table.add_row(
            row["slide_id"],
            str(row["patches"]),
            number(row["tissue_mm2"], ".2f"),
            number(row["tumor_mm2"], ".3f"),
            number(row["aleatoric_mean"], ".1e"),
            number(row["epistemic_mean"], ".1e"),
            ", ".join(row["qc"]),
        )
    return table
