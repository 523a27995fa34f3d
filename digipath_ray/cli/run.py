"""``digipath run``, ``prepare`` and ``segment``."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.cli.ids import read_given
from digipath_ray.cli.progress import RunProgress
from digipath_ray.cohort.pseudonyms import SlideIds
from digipath_ray.config.toml import Tree, read_toml
from digipath_ray.distributed.ending import Summary
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.resolve import resolve
from digipath_ray.outcome.staging import PatientStage
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.failure import OUTSIDE, STOPPED, Failure, RunError
from digipath_ray.run.record import SlideRecord
from digipath_ray.schema import SLIDES
from digipath_ray.storage.files import read_rows, read_table
from digipath_ray.words import count, format_rate

FLAGGED_SHOWN = 5
"""Slides named behind a flag."""


def run_slides(
    console: Console,
    slides: Sequence[str],
    out: Path,
    tree: Tree,
    *,
    weights: str | None,
    overwrite: bool,
    force: bool,
    allow_partial: bool = False,
    drop: bool = False,
    predict: bool = True,
    slide_ids: SlideIds = "name",
) -> int:
    """Run a cohort and print how it went; 1 if a slide failed."""
    rows = read_given(RunDirectory(out), slides, slide_ids)
    config = resolve(tree, weights=weights, force=force, allow_partial=allow_partial)
    with RunProgress(console) as progress:
        summary = run_cohort(
            RunDirectory(out),
            rows,
            config,
            overwrite=overwrite,
            predict=predict,
            drop=drop,
            listener=progress,
        )
    print_summary(console, summary, predicted=predict)
    return exit_status(summary.failures, summary.unwritten)


def exit_status(failures: Sequence[Failure], unwritten: Sequence[str] = ()) -> int:
    """0, 1 if a slide failed, 3 if anything is left through no slide's fault."""
    if unwritten or any(failure.cause in OUTSIDE for failure in failures):
        return STOPPED
    return 1 if failures else 0


def segment_prepared(console: Console, out: Path) -> int:
    """Segment what ``prepare`` has made in a run directory; 1 if a slide failed."""
    run = RunDirectory(out)
    if not (run.settings.exists() and run.slides.exists()):
        raise RunError(
            f"{run.root} holds no prepared run: digipath prepare SLIDES --out "
            f"{run.root}"
        )
    # Forced: what contradicts the cards was accepted when the run was prepared.
    config = resolve(read_toml(run.settings), force=True)
    rows = [SlideRecord.from_row(row) for row in read_rows(run.slides, SLIDES)]
    with RunProgress(console) as progress:
        summary = run_cohort(run, rows, config, listener=progress)
    # Slides that could not be prepared are no rows here, yet never drop out unseen.
    failures = run.read_failures()
    summary = replace(
        summary, failures=failures, slides=len(summary.outcomes) + len(failures)
    )
    print_summary(console, summary, predicted=True)
    return exit_status(summary.failures, summary.unwritten)


def print_summary(console: Console, summary: Summary, *, predicted: bool) -> None:
    """The slides, the failures with their fixes, the speed, and where to look."""
    if predicted and summary.outcomes:
        console.print(outcome_table(summary.outcomes))
    if summary.patients:
        console.print(patient_table(summary.patients))
    for failure in summary.failures:
        print_failure(console, failure)
    console.print(count_slides(summary, predicted=predicted))
    for note in [*summary.changes, *(summary.notes if predicted else [])]:
        console.print(f"[yellow]note[/]      {escape(note)}")
    for reason in summary.unwritten:
        console.print(f"[red]failed[/] {escape(reason)}")
    if not predicted:
        print_flags(console, read_rows(summary.run.slides, SLIDES))
    if summary.metrics:
        console.print(escape(format_metrics(summary.metrics)))
    for name, where in places(summary.run, predicted=predicted):
        console.print(f"{name:<10}{escape(where)}")


def print_failure(console: Console, failure: Failure) -> None:
    """A failure with its fix; further lines of its error are indented."""
    error = failure.error.replace("\n", "\n      ")
    console.print(
        f"[red]failed[/] {escape(failure.slide_id)} at {failure.step}: "
        f"{escape(error)}\n   fix: {escape(failure.hint)}"
    )


def print_flags(console: Console, slides: Sequence[dict[str, Any]]) -> None:
    """Each flag that a row of SLIDES or OUTCOMES raises, with the slides that do."""
    raised: dict[str, list[str]] = {}
    for slide in slides:
        for flag in slide["qc"]:
            raised.setdefault(flag, []).append(slide["slide_id"])
    for flag, names in raised.items():
        shown = ", ".join(names[:FLAGGED_SHOWN])
        more = ", ..." if len(names) > FLAGGED_SHOWN else ""
        text = f"{flag}: {count(len(names), 'slide')} ({shown}{more})"
        console.print(f"[yellow]flag[/]      {escape(text)}")


def count_slides(summary: Summary, *, predicted: bool) -> str:
    """How many slides are done and how many are not, in words."""
    slides, failed = count(summary.slides, "slide"), len(summary.failures)
    if predicted:
        were = "was" if summary.skipped == 1 else "were"
        earlier = f" ({summary.skipped} {were} already)" if summary.skipped else ""
        done = len(summary.outcomes)
        return f"{done} of {slides} finished{earlier}, {failed} failed"
    done = summary.slides - failed
    patches = sum(read_table(summary.run.slides)["patches"].to_pylist())
    return f"{done} of {slides} prepared, {failed} failed; {count(patches, 'patch')}"


def format_metrics(metrics: dict[str, Any]) -> str:
    """How fast the run went, and what it waited for."""
    return (
        f"{count(metrics['patches'], 'patch')}, "
        f"{format_rate(metrics['patches_per_s'])}; "
        f"batches {metrics['batch_fill']:.0%} full; busy: "
        f"readers {metrics['read']['busy']:.0%}, "
        f"networks {metrics['predict']['busy']:.0%}\n"
        f"bottleneck: {metrics['bottleneck']}"
    )


def places(run: RunDirectory, *, predicted: bool) -> list[tuple[str, str]]:
    """What the run has made and where to look, of what is there."""
    root = run.root
    found = [
        ("masks", "masks", "*_overlay.jpg", ""),
        ("pictures", "overlays", "*.png", ""),
        ("heatmaps", "heatmaps", "*.ome.tiff", "  (pyramids of values)"),
        ("lesions", "lesions", "*.geojson", "  (for QuPath)"),
        ("classes", "classes", "*.geojson", "  (for QuPath)"),
    ]
    lines = [
        (name, f"{root}/{folder}/{pattern}{more}")
        for name, folder, pattern, more in found
        if any((root / folder).glob(pattern))
    ]
    if not predicted:
        ready = any((root / "patches").glob("*.parquet"))
        return [*lines, ("next", f"digipath segment {root}")] if ready else lines
    tables = [p.name for p in (run.features, run.patients, run.failures) if p.exists()]
    lines.append(("tables", ", ".join([str(run.outcomes), *tables])))
    return [*lines, ("report", str(run.report))] if run.report.exists() else lines


def outcome_table(outcomes: Sequence[dict[str, Any]]) -> Table:
    """The slides' outcomes as a table for the terminal; empty columns are left out."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slide", overflow="fold")
    columns = [
        c for c in COLUMNS if any(row.get(c.field) is not None for row in outcomes)
    ]
    for column in columns:
        table.add_column(column.heading, justify=column.justify)
    table.add_column("flags")
    for row in outcomes:
        cells = [column.show(row.get(column.field)) for column in columns]
        table.add_row(escape(row["slide_id"]), *cells, ", ".join(row["qc"]))
    return table


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the terminal's table of outcomes."""

    field: str
    heading: str
    form: str = ""
    justify: Literal["left", "right"] = "right"

    def show(self, value: float | str | None) -> str:
        """A value as it is printed."""
        return "-" if value is None else escape(format(value, self.form))


COLUMNS = (
    Column(field="patches", heading="patches"),
    Column(field="tissue_mm2", heading="tissue mm2", form=".2f"),
    Column(field="tumor_mm2", heading="tumor mm2", form=".3f"),
    Column(field="largest_um", heading="largest um", form=".0f"),
    Column(field="metastasis", heading="type", justify="left"),
    Column(field="burden", heading="burden", form=".1%"),
    Column(field="aleatoric_mean", heading="aleatoric", form=".1e"),
    Column(field="epistemic_mean", heading="epistemic", form=".1e"),
)


def patient_table(patients: Sequence[PatientStage]) -> Table:
    """The patients' stages as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("patient", overflow="fold")
    table.add_column("stage")
    for name in ("nodes", "missing", "itc", "micro", "macro"):
        table.add_column(name, justify="right")
    for p in patients:
        counts = (p.nodes, p.missing, p.n_itc, p.n_micro, p.n_macro)
        table.add_row(escape(p.patient_id), format_stage(p), *map(str, counts))
    return table


def format_stage(patient: PatientStage) -> str:
    """A patient's stage in words."""
    if patient.pn_stage is None:
        return "unknown"
    return patient.pn_stage if patient.complete else f"at least {patient.pn_stage}"
