"""The commands of ``digipath``; each ends in an exit code.

0: all done. 1: a slide failed, all others are done. 2: it cannot be done as asked.
3: it ended early through no slide's fault, the same command goes on. 130: interrupted.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from digipath_ray import __version__
from digipath_ray.cli import (
    commands_fit,
    commands_outcome,
    commands_plan,
    commands_weights,
)
from digipath_ray.cli.arguments import (
    DropOption,
    ForceOption,
    OptionalSlides,
    OutOption,
    OverwriteOption,
    PartialOption,
    RepeatOption,
    SlideIdsOption,
    SlidesArgument,
    WeightsOption,
    refuse_beside,
)
from digipath_ray.cli.console import console, end_process, error_console, leave_quietly
from digipath_ray.cli.logs import LogFormat, set_up_logs
from digipath_ray.cli.options import with_config, with_specs
from digipath_ray.cli.view import view
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.toml import Tree
from digipath_ray.run.failure import (
    DISK_FULL,
    STOPPED,
    RunStopped,
    explain_os_error,
)
from digipath_ray.words import redacted

log = logging.getLogger(__name__)

INTERRUPTED = 130
RESUMABLE = ("run", "prepare", "segment", "stage", "burden", "train")
SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda text: text.replace("_", "-"),
}


def exit_with(code: int | None, **_: Any) -> NoReturn:
    """End the process with what the command returned."""
    raise typer.Exit(code or 0)


app = typer.Typer(
    name="digipath",
    help="Whole cohorts of slides into tumor heatmaps and uncertainty maps.",
    epilog="Start with 'digipath doctor' and 'digipath demo'; "
    "'digipath COMMAND --help' lists a command's options.",
    context_settings=SETTINGS,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    result_callback=exit_with,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console().print(f"digipath_ray {__version__}")
        raise typer.Exit


@app.callback()
def digipath(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="print the version",
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log more")] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            envvar="DIGIPATH_LOG", help="json: a JSON object a line, with slide_id"
        ),
    ] = "text",
) -> None:
    """Whole cohorts of slides into tumor heatmaps and uncertainty maps."""
    set_up_logs(verbose=verbose, log_format=log_format)


@app.command()
@with_config
def run(
    *,
    context: typer.Context,
    slides: OptionalSlides = None,
    out: OutOption,
    weights: WeightsOption = None,
    overwrite: OverwriteOption = False,
    force: ForceOption = False,
    allow_partial: PartialOption = False,
    drop: DropOption = False,
    repeat: RepeatOption = None,
    slide_ids: SlideIdsOption = "name",
    tree: Tree,
) -> int:
    """Run a cohort: slides to heatmaps, lesions, stages or burdens, and a report.

    Run the same command again after a crash or with more slides: it does only what is
    missing.
    """
    if repeat is not None:
        from digipath_ray.cli.repeat import repeat_run

        refuse_beside(
            "--repeat",
            {
                "--weights": weights,
                "--overwrite": overwrite,
                "--force": force,
                "--allow-partial": allow_partial,
                "--drop": drop,
                "--slide-ids": slide_ids != "name",
            },
        )
        return repeat_run(console(), repeat, out, tree, slides or ())
    if not slides:
        raise typer.BadParameter(
            "name files, folders or a manifest; or --repeat RUN",
            ctx=context,
            param_hint="'SLIDES'",
        )
    from digipath_ray.cli.run import run_slides

    return run_slides(
        console(),
        slides,
        out,
        tree,
        weights=weights,
        overwrite=overwrite,
        force=force,
        allow_partial=allow_partial,
        drop=drop,
        slide_ids=slide_ids,
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
    allow_partial: PartialOption = False,
    slide_ids: SlideIdsOption = "name",
    tree: Tree,
) -> int:
    """Only find tissue and place patches, to check the masks before predicting."""
    from digipath_ray.cli.run import run_slides

    return run_slides(
        console(),
        slides,
        out,
        tree,
        weights=weights,
        overwrite=overwrite,
        force=force,
        allow_partial=allow_partial,
        predict=False,
        slide_ids=slide_ids,
    )


@app.command()
def segment(
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="what 'prepare' has made")
    ],
) -> int:
    """Predict a prepared run with the settings it was prepared with."""
    from digipath_ray.cli.run import segment_prepared

    return segment_prepared(console(), run_directory)


@app.command()
def status(
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="the directory of a run, or s3://...")
    ],
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="again every few seconds")
    ] = False,
) -> int:
    """Progress of a run: slides, patches, time left, failures. Needs no Ray.

    Exit status 0: goes on, or done; 1: a slide failed, or it stopped; 2: no run.
    """
    from digipath_ray.cli.status import show_status

    return show_status(console(), run_directory, watch=watch)


# Between the commands of a run, where the help lists them.
app.add_typer(commands_outcome.stage, name="stage")
app.command()(commands_outcome.burden)
app.command()(commands_outcome.report)
app.command()(commands_outcome.evaluate)
app.command()(commands_outcome.export)
app.command()(commands_outcome.verify)
app.command()(view)
app.command()(commands_fit.cohort)
app.command(name="import-weights")(commands_fit.import_weights)
app.add_typer(commands_weights.weights, name="weights")
app.command()(commands_fit.train)
app.command()(commands_fit.mine)


@app.command()
def demo(
    out: OutOption = Path("demo-run"),
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="show how a network is fitted instead, in a minute"
        ),
    ] = False,
) -> int:
    """Make a small synthetic cohort and run it: no data, GPU or network needed."""
    from digipath_ray.cli.demo import run_demo, show_training

    return (show_training if train else run_demo)(console(), out)


@app.command()
@with_config
@with_specs
def info(
    *,
    slides: SlidesArgument,
    weights: WeightsOption = None,
    force: ForceOption = False,
    annotation: Annotated[
        str | None,
        typer.Option(
            help="show what this annotation of the slide would count as, and draw it",
            show_default=False,
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="where to draw it (.png); default: SLIDE_annotation.png here",
            show_default=False,
        ),
    ] = None,
    annotations: AnnotationSpec,
    tree: Tree,
) -> int:
    """A slide's format, size, mpp and levels, and the grid a run would use."""
    from digipath_ray.cli.info import show_slides

    return show_slides(
        console(),
        slides,
        tree,
        weights=weights,
        force=force,
        annotation=annotation,
        picture=picture,
        annotations=annotations,
    )


app.command()(commands_plan.plan)
app.command()(commands_plan.calibrate)
app.command()(commands_plan.bench)


@app.command()
def doctor(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="where runs would be written")
    ] = Path(),
) -> int:
    """Check this machine: OpenSlide, torch, Ray, memory, disks."""
    from digipath_ray.cli.doctor import examine

    return examine(console(), out)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="a run directory")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="where pictures and the table go"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="probability from which a pixel counts for the Dice; default: the "
            "runs' own",
            min=0,
            max=1,
        ),
    ] = None,
) -> int:
    """Two runs side by side: maps and tables."""
    from digipath_ray.cli.compare import show_comparison

    return show_comparison(console(), first, second, out, threshold=threshold)


def main(command: str | None = None) -> NoReturn:
    """Run ``digipath``, or one command of it, and exit."""
    code = run_app([*([command] if command else []), *sys.argv[1:]])
    leave_quietly()
    end_process(code)


def run_app(arguments: list[str]) -> int:
    """Run a command line; its exit code. A user's mistake is one message, no trace."""
    try:
        app(arguments, prog_name="digipath")
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    except (ValueError, OSError) as e:
        log.info("raised here:", exc_info=e)  # shown by --verbose
        _print_error(e)
        full = getattr(e, "errno", None) in DISK_FULL
        return STOPPED if full or isinstance(e, RunStopped) else 2
    if code == INTERRUPTED:
        _print_interrupted(arguments)
    return code


def _print_error(error: ValueError | OSError) -> None:
    hint = getattr(error, "hint", None)
    if isinstance(error, ConnectionError):
        hint = "start Ray where RAY_ADDRESS says, or unset it to start one here"
    elif isinstance(error, OSError):
        hint = explain_os_error(error)
    error_console().print(
        f"[bold red]Error:[/] {escape(redacted(str(error)))}"
        + (f"\n[bold]Fix:[/] {escape(hint)}" if hint else "")
    )


def _print_interrupted(arguments: list[str]) -> None:
    resumes = any(word in RESUMABLE for word in arguments[:2])
    more = ": the same command goes on from what is finished" if resumes else ""
    error_console().print(f"Interrupted{more}")
