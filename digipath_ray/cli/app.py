"""The commands of ``digipath``; each ends in an exit code.

0: all done. 1: a slide failed, all others are done. 2: wrong usage.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from digipath_ray import __version__
from digipath_ray.cli.options import (
    ForceOption,
    OutOption,
    OverwriteOption,
    SlidesArgument,
    WeightsOption,
    with_config,
)
from digipath_ray.config import Tree

SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda text: text.replace("_", "-"),
}
app = typer.Typer(
    name="digipath",
    help="Whole cohorts of slides into tumor heatmaps and uncertainty maps.",
    context_settings=SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def console() -> Console:
    """Where commands print."""
    return Console(soft_wrap=True)


@app.callback()
def digipath(
    version: Annotated[bool, typer.Option("--version", help="print it")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log more")] = False,
) -> None:
    """Whole cohorts of slides into tumor heatmaps and uncertainty maps."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    if version:
        console().print(f"digipath_ray {__version__}")
        raise typer.Exit


@app.command()
@with_config
def run(
    *,
    slides: SlidesArgument,
    out: OutOption,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
    force: ForceOption = False,
    tree: Tree,
) -> int:
    """Segment a cohort: slides in, heatmaps and uncertainty maps out.

    Run again after a crash or with more slides, it does only what is missing.
    """
    from digipath_ray.cli.run import run_slides

    return run_slides(
        console(), slides, out, tree, weights=weights, overwrite=overwrite, force=force
    )


@app.command()
@with_config
def prepare(
    *,
    slides: SlidesArgument,
    out: OutOption,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
    force: ForceOption = False,
    tree: Tree,
) -> int:
    """Only find tissue and place patches: masks to look at before a night is spent."""
    from digipath_ray.cli.run import run_slides

    return run_slides(
        console(),
        slides,
        out,
        tree,
        weights=weights,
        overwrite=overwrite,
        force=force,
        predict=False,
    )


@app.command()
def segment(
    run_directory: Annotated[Path, typer.Argument(help="what 'prepare' has made")],
) -> int:
    """Predict and stitch a prepared run, by the config it was prepared with."""
    from digipath_ray.cli.run import segment_prepared

    return segment_prepared(console(), run_directory)


@app.command()
def demo(
    out: OutOption = Path("demo-run"),
    seed: Annotated[int, typer.Option(help="of the synthetic cohort")] = 7,
) -> int:
    """Make a small synthetic cohort and run it: no data, GPU or network needed."""
    from digipath_ray.cli.demo import run_demo

    return run_demo(console(), out, seed=seed)


@app.command()
@with_config
def info(*, slides: SlidesArgument, weights: WeightsOption = None, tree: Tree) -> int:
    """What a slide file is, and what a run would do with it."""
    from digipath_ray.cli.info import show_slides

    return show_slides(console(), slides, tree, weights=weights)


@app.command()
@with_config
def plan(
    *,
    slides: SlidesArgument,
    weights: WeightsOption = None,
    rate: Annotated[
        float | None,
        typer.Option(help="patches/s of one GPU with the whole ensemble and all TTA"),
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the night")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure this machine's rate first")
    ] = False,
    tree: Tree,
) -> int:
    """Patches, GPU hours, disk and memory of a cohort before a night is spent."""
    from digipath_ray.cli.plan import plan_cohort

    return plan_cohort(
        console(), slides, tree, weights=weights, rate=rate, gpus=gpus, measure=measure
    )


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="where runs would be written")] = Path(),
) -> int:
    """Look over this machine: what will bite."""
    from digipath_ray.cli.doctor import examine

    return examine(console(), out)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a run directory")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="where the pictures go")
    ] = None,
    threshold: Annotated[float, typer.Option(help="for Dice and areas")] = 0.5,
) -> int:
    """Two runs side by side: maps and tables."""
    from digipath_ray.cli.compare import show_comparison

    return show_comparison(console(), first, second, out, threshold=threshold)


def main() -> None:
    """Run ``digipath`` and exit."""
    sys.exit(run_app(sys.argv[1:]))


def run_app(arguments: list[str]) -> int:
    """Run a command line; its exit code. A user's mistake is one message, no trace."""
    try:
        result = app(arguments, standalone_mode=False)
    except typer.Abort:
        return 130
    except ValueError as e:
        hint = getattr(e, "hint", None)
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]Error:[/] {_plain(e)}"
            + (f"\n[bold]Fix:[/] {hint}" if hint else ""),
            highlight=False,
        )
        return 2
    return int(result or 0)


def _plain(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))
