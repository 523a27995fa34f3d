"""The commands of ``digipath``; each ends in an exit code.

0: all done. 1: a slide failed, all others are done. 2: it cannot be done as asked.
130: interrupted.
"""

import logging
import sys
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from digipath_ray import __version__
from digipath_ray.cli.options import (
    ForceOption,
    OutOption,
    OverwriteOption,
    SlidesArgument,
    WeightsOption,
    with_config,
    with_recipe,
)
from digipath_ray.rundir import RunStopped, explain_os_error
from digipath_ray.settings import Tree

log = logging.getLogger(__name__)

FILE_WIDTH = 200
"""Columns of what is printed to a file or a pipe, where nothing says how many."""
INTERRUPTED = 130
RESUMABLE = ("run", "prepare", "segment", "train")
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


def console() -> Console:
    """Where commands print."""
    wide = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(soft_wrap=True, width=wide, highlight=False)


class _Stderr(logging.StreamHandler[IO[str]]):
    """Log lines to the stderr of the moment: live bars put their own in its place."""

    @property
    def stream(self) -> IO[str]:
        return sys.stderr

    @stream.setter
    def stream(self, value: IO[str]) -> None:
        pass


def _print_version(wanted: bool) -> None:
    if wanted:
        console().print(f"digipath_ray {__version__}")
        raise typer.Exit


@app.callback()
def digipath(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="print it"
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="log more")] = False,
) -> None:
    """Whole cohorts of slides into tumor heatmaps and uncertainty maps."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[_Stderr()],
    )


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
    run_directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="what 'prepare' has made")
    ],
) -> int:
    """Predict and stitch a prepared run, by the config it was prepared with."""
    from digipath_ray.cli.run import segment_prepared

    return segment_prepared(console(), run_directory)


@app.command()
def cohort(
    dataset: Annotated[
        Literal["camelyon16", "camelyon17", "paip2019", "digestpath2019"],
        typer.Argument(metavar="DATASET", help="a public dataset's name"),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="where it was unpacked")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the table (.csv, .tsv, .parquet)")
    ] = Path("cohort.csv"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the table")
    ] = False,
) -> int:
    """Write the table of a public dataset: slides, annotations, labels, splits."""
    from digipath_ray.cli.cohort import write_cohort

    return write_cohort(console(), dataset, folder, out, overwrite=overwrite)


@app.command(name="import-weights")
def import_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="a .pth state_dict, or a Keras .h5 of the authors"
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the .safetensors file to write")
    ],
    architecture: Annotated[
        str,
        typer.Option(
            help="Unet, DeepLabV3Plus, ... or of the authors: OriginalUnetDenseNet121, "
            "OriginalUnetInceptionResNetV2, OriginalDeepLabV3Plus"
        ),
    ],
    mpp: Annotated[float, typer.Option(help="um per px it was trained at")],
    name: Annotated[
        str | None, typer.Option(help="the member's name; default: the file's")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="of the architecture, if it has a choice")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="of the architecture; repeatable"),
    ] = None,
    patch_px: Annotated[
        int, typer.Option(help="side of the patches to predict on, px")
    ] = 1024,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="per RGB channel, 0..1; default: the encoder's own"),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None, typer.Option(help="as --mean")
    ] = None,
    license: Annotated[str, typer.Option(help="of the weights")] = "unknown",
    notes: Annotated[str, typer.Option(help="anything else worth knowing")] = "",
    new_classifier: Annotated[
        bool,
        typer.Option(
            "--new-classifier",
            help="leave the last layer random: weights of other classes, to fit from",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> int:
    """Turn somebody else's weights into a .safetensors file with a model card."""
    from digipath_ray.cli.weights import ImportedMember
    from digipath_ray.cli.weights import import_weights as write_imported

    member = ImportedMember(
        architecture=architecture,
        mpp=mpp,
        name=name,
        encoder=encoder,
        options=tuple(option or ()),
        patch_px=patch_px,
        mean=mean,
        std=std,
        license=license,
        notes=notes,
    )
    return write_imported(
        console(),
        source,
        out,
        member,
        new_classifier=new_classifier,
        overwrite=overwrite,
    )


@app.command()
@with_recipe
def train(
    *,
    slides: Annotated[
        list[str],
        typer.Argument(
            metavar="COHORT",
            help="a cohort table with the columns path, annotation and label (CSV, "
            "TSV, Parquet)",
            show_default=False,
        ),
    ],
    out: OutOption,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="what members start from: imagenet (default), random, a .safetensors "
            "file, or a folder of them named as the members",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="begin anew in this directory")
    ] = False,
    tree: Tree,
) -> int:
    """Fit the ensemble: annotated slides in, weights with model cards out.

    Run again after a crash, it goes on from the last checkpoint.
    """
    from digipath_ray.cli.train import train_cohort

    return train_cohort(console(), slides, out, tree, init=init, overwrite=overwrite)


@app.command()
def mine(
    *,
    run_directory: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="a finished run over annotated slides, made with --out-of-fold",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="write hard patches here (.parquet), for 'train --hard-examples'",
            show_default=False,
        ),
    ] = None,
    fit_patch_px: Annotated[
        int, typer.Option(help="side of a patch, model px; as the fit will have it")
    ] = 256,
    dice: Annotated[
        float, typer.Option(help="a patch with tumor is hard with a Dice below this")
    ] = 0.9,
    dice_at: Annotated[
        float, typer.Option(help="probability from which a pixel counts for the Dice")
    ] = 0.45,
    alarm_at: Annotated[
        float,
        typer.Option(help="a normal pixel of this probability is a false alarm"),
    ] = 0.4,
    max_tumor: Annotated[
        float,
        typer.Option(
            help="a patch with a false alarm is hard if less of it is tumor (fraction)"
        ),
    ] = 0.05,
    per_slide: Annotated[
        int, typer.Option(help="hard patches of each kind kept of a slide, at most")
    ] = 500,
    uncertain: Annotated[
        Path | None,
        typer.Option(
            help="write each slide's most uncertain regions to this folder as QuPath "
            "GeoJSON, to be corrected for 'train --extra-annotations'",
            show_default=False,
        ),
    ] = None,
    map_: Annotated[
        Literal["epistemic", "aleatoric", "both"],
        typer.Option("--map", help="what says how uncertain; both: their sum"),
    ] = "epistemic",
    top: Annotated[int, typer.Option(help="regions of a slide, at most", min=1)] = 5,
    region_um: Annotated[
        float, typer.Option(help="side of a region, um", min=1.0)
    ] = 250.0,
    classes: Annotated[
        str | None,
        typer.Option(
            help="what classes of the annotations mean, as for 'train'",
            show_default=False,
        ),
    ] = None,
    mask_above: Annotated[
        float | None,
        typer.Option(
            help="mask images: tumor is above this value, as for 'train'",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Find what a run got wrong, and where it is least sure, to fit on it again."""
    from digipath_ray.cli.mine import RegionSpec, mine_run
    from digipath_ray.recipe import AnnotationSpec
    from digipath_ray.training.mining import MiningSpec

    named = [part.strip() for part in (classes or "").split(",") if part.strip()]
    return mine_run(
        console(),
        run_directory,
        out=out,
        uncertain=uncertain,
        mining=MiningSpec(
            fit_patch_px=fit_patch_px,
            dice=dice,
            dice_at=dice_at,
            alarm_at=alarm_at,
            max_tumor=max_tumor,
            per_slide=per_slide,
        ),
        regions=RegionSpec(which=map_, top=top, region_um=region_um),
        annotations=AnnotationSpec(classes=tuple(named), mask_above=mask_above),
    )


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
def info(
    *,
    slides: SlidesArgument,
    weights: WeightsOption = None,
    force: ForceOption = False,
    tree: Tree,
) -> int:
    """What a slide file is, and what a run would do with it."""
    from digipath_ray.cli.info import show_slides

    return show_slides(console(), slides, tree, weights=weights, force=force)


@app.command()
@with_config
def plan(
    *,
    slides: SlidesArgument,
    out: OutOption = Path(),
    weights: WeightsOption = None,
    force: ForceOption = False,
    rate: Annotated[
        float | None,
        typer.Option(
            help="patches/s of one GPU with the whole ensemble and all TTA", min=1e-6
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the night", min=1)] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure this machine's rate first")
    ] = False,
    tree: Tree,
) -> int:
    """Patches, GPU hours, disk and memory of a cohort before a night is spent.

    Nothing is written: --out only says on which disk the run would lie.
    """
    from digipath_ray.cli.plan import Pace, plan_cohort

    pace = Pace(rate=rate, gpus=gpus, measure=measure)
    return plan_cohort(
        console(), slides, out, tree, weights=weights, force=force, pace=pace
    )


@app.command()
def doctor(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="where runs would be written")
    ] = Path(),
) -> int:
    """Look over this machine: what will bite."""
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


def main() -> None:
    """Run ``digipath`` and exit."""
    sys.exit(run_app(sys.argv[1:]))


def run_app(arguments: list[str]) -> int:
    """Run a command line; its exit code. A user's mistake is one message, no trace."""
    try:
        app(arguments, prog_name="digipath")
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0
    except (ValueError, OSError) as e:
        log.info("raised here:", exc_info=e)  # shown by --verbose
        _print_error(e)
        return 1 if isinstance(e, RunStopped) else 2
    if code == INTERRUPTED:
        _print_interrupted(arguments)
    return code


def _stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _print_error(error: ValueError | OSError) -> None:
    hint = getattr(error, "hint", None)
    if isinstance(error, ConnectionError):
        hint = "start Ray where RAY_ADDRESS says, or unset it to start one here"
    elif isinstance(error, OSError):
        hint = explain_os_error(error)
    _stderr().print(
        f"[bold red]Error:[/] {escape(str(error))}"
        + (f"\n[bold]Fix:[/] {escape(hint)}" if hint else "")
    )


def _print_interrupted(arguments: list[str]) -> None:
    resumes = any(word in RESUMABLE for word in arguments[:2])
    more = ": the same command goes on from what is finished" if resumes else ""
    _stderr().print(f"Interrupted{more}")
