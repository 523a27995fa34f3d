"""``digipath demo``: a synthetic cohort, run and held against its truth."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.artifacts.kinds import KINDS
from digipath_ray.cli.progress import RunProgress
from digipath_ray.cli.run import exit_status, print_summary
from digipath_ray.cli.train import member_table, narrate
from digipath_ray.cohort.inputs import read_cohort
from digipath_ray.config.toml import load_config
from digipath_ray.demo.cohort import MANIFEST, building, demo_slides
from digipath_ray.demo.drawing import DemoSlide
from digipath_ray.demo.fit_cohort import brief_recipe, brief_slides
from digipath_ray.demo.score import SlideScore, dice_of, score_run
from digipath_ray.distributed.connect import connected
from digipath_ray.distributed.ending import Summary
from digipath_ray.distributed.fit import fit_cohort
from digipath_ray.distributed.run import run_cohort
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.networks.resolve import resolve
from digipath_ray.run.directory import RunDirectory
from digipath_ray.training.directory import FitDirectory
from digipath_ray.words import listed

LEAST_SHARE = 0.001
"""Part of the tissue from which an artifact is worth a line."""


def run_demo(console: Console, out: Path) -> int:
    """Build the cohort, run it and print what was made; 0 if all went as planned.

    One slide is damaged on purpose, to show what a failure looks like.
    """
    folder = out / "cohort"
    with contextlib.ExitStack() as stack:
        draw = None
        if not (folder / MANIFEST).exists():
            say_drawing(console, folder, demo_slides())
            draw = stack.enter_context(building(folder, demo_slides()))
        config = resolve(load_config(preset="demo"))
        if draw is not None:  # Ray starts meanwhile
            stack.enter_context(connected(config.compute.cpus))
        manifest = draw() if draw is not None else folder / MANIFEST
        with RunProgress(console) as progress:
            summary = run_cohort(
                RunDirectory(out / "run"),
                read_cohort([manifest]),
                config,
                listener=progress,
            )
    console.rule("the run")
    print_summary(console, summary, predicted=True)
    console.rule("against the truth that was drawn")
    threshold = config.outcome.threshold
    scores = score_run(summary.run, manifest, threshold=threshold)
    console.print(truth_table(scores, summary))
    for line in artifact_lines(summary):
        console.print(escape(line))
    console.print(
        "One slide was damaged on purpose: a failure is a row in failures.parquet, "
        "never the end of a run.\n"
        f"Look first at {escape(str(summary.run.report))}"
    )
    damaged = {f.slide_id for f in summary.failures}
    return 0 if len(damaged) == 1 and summary.slides == 5 else 1


def show_training(console: Console, out: Path) -> int:
    """Fit one small network for about a minute and print how it went; 0 if it did."""
    manifest = draw_cohort(console, out / "fit-cohort", brief_slides())
    summary = fit_cohort(
        FitDirectory(out / "fit"),
        read_cohort([manifest]),
        resolve_recipe(brief_recipe()),
        listener=narrate(console),
    )
    console.rule("what came out")
    console.print(member_table(summary.cards))
    (card,) = summary.cards
    root = escape(str(summary.directory.root))
    for name, where in (
        ("weights", f"{root}/{card.name}.safetensors, with its card (.json)"),
        ("curves", f"{root}/curves/{card.name}.png"),
        ("patches", f"{root}/masks/*_overlay.jpg"),
    ):
        console.print(f"{name:<10}{where}")
    console.print(
        "Nothing uses these weights. The three that the demo does use come from the "
        "same command with more slides, members and epochs: jobs/demo.toml"
    )
    return exit_status(summary.failures)


def draw_cohort(console: Console, folder: Path, slides: Sequence[DemoSlide]) -> Path:
    """Draw slides unless they are there; their manifest."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        say_drawing(console, folder, slides)
        with building(folder, slides) as draw:
            draw()
    return manifest


def say_drawing(console: Console, folder: Path, slides: Sequence[DemoSlide]) -> None:
    """Say what takes the next seconds."""
    where = escape(str(folder))
    console.print(f"drawing {len(slides)} synthetic slides into {where} ...")


def artifact_lines(summary: Summary) -> Iterator[str]:
    """Where artifacts were found: of the drawn slides, one is folded."""
    for row in summary.outcomes:
        found = [k for k in KINDS if (row[f"artifact_{k.name}"] or 0) >= LEAST_SHARE]
        parts = [f"{row[f'artifact_{k.name}']:.1%} of it is {k.said}" for k in found]
        if parts:
            slide_id = row["slide_id"]
            yield (
                f"Tissue of {slide_id} that cannot be trusted: {listed(parts)} "
                f"({summary.run.artifacts(slide_id)})"
            )


def truth_table(scores: Sequence[SlideScore], summary: Summary) -> Table:
    """Each slide's overlap with the tumor that was drawn."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slide")
    table.add_column("planted")
    table.add_column("found")
    for name in ("tumor mm2", "found mm2", "Dice", "false area"):
        table.add_column(name, justify="right")
    for score in scores:
        table.add_row(
            score.slide_id,
            score.label,
            score.metastasis,
            f"{score.tumor_mm2:.3f}",
            f"{score.found_mm2:.3f}",
            f"{dice_of([score]):.2f}" if score.tumor_mm2 else "-",
            f"{score.false_share:.2%} of tissue",
        )
    for failure in summary.failures:
        table.add_row(failure.slide_id, "", "failed", "", "", "", "")
    table.add_row("all", "", "", "", "", f"{dice_of(scores):.2f}", "")
    return table
