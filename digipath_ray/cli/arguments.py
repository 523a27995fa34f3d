"""Arguments and options that several commands declare alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from digipath_ray.cohort.pseudonyms import SlideIds

_SLIDES = typer.Argument(
    metavar="SLIDES",
    help="slide files, folders, globs, or a manifest (CSV, TSV, Parquet)",
    show_default=False,
)
SlidesArgument = Annotated[list[str], _SLIDES]
OptionalSlides = Annotated[list[str] | None, _SLIDES]
RepeatOption = Annotated[
    Path | None,
    typer.Option(
        "--repeat",
        metavar="RUN",
        help="in place of SLIDES: this run once more, with its slides and settings, "
        "and hold the two together",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="the run directory", show_default=False)
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="process again what is already finished")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="a .safetensors, .onnx or .pt2 file, a folder of them with their cards, "
        "'imagenet' or "
        "'random' (untrained, to test an installation)",
        show_default=False,
    ),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force", help="accept an mpp, mean or std that contradicts the weights' cards"
    ),
]
DropOption = Annotated[
    bool,
    typer.Option(
        "--drop",
        help="take slides that the cohort no longer names out of tables, stages and "
        "report; their heatmaps stay",
    ),
]
SlideIdsOption = Annotated[
    SlideIds,
    typer.Option(
        "--slide-ids",
        help="hash: slides and patients are called by keyed digests of their names, "
        "which ids.csv in the output directory resolves (docs/privacy.md)",
    ),
]
PartialOption = Annotated[
    bool,
    typer.Option("--allow-partial", help="accept a fit with members not yet fitted"),
]


def refuse_beside(option: str, others: Mapping[str, object]) -> None:
    """Refuse options that cannot be given with another one.

    Raises:
        ValueError: one of ``others`` (option -> value) is given.
    """
    for name, value in others.items():
        if value:
            raise ValueError(f"{option} and {name} cannot be given together")
