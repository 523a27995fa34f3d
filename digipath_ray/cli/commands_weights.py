"""Declares ``weights inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from digipath_ray.cli.arguments import OverwriteOption
from digipath_ray.cli.console import console

weights = typer.Typer(
    no_args_is_help=True,
    help="Networks from files: ONNX (.onnx) and torch.export (.pt2).",
)


@weights.callback()
def choose() -> None:
    """Keep ``inspect`` a command of its own while there is no other."""


@weights.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="an .onnx or .pt2 file of a network")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            help="which output is the answer, if the model has several",
            show_default=False,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> int:
    """Say what a network's file takes and answers, and write a card to complete.

    It is tried on pictures. What nobody but its maker knows (the scale of pixels, the
    classes, um per px) is asked in the card, which is refused until it is answered.
    """
    from digipath_ray.cli.inspect_weights import inspect_weights

    return inspect_weights(console(), file, output=output, overwrite=overwrite)
