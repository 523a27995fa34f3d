"""Declares ``plan``, ``calibrate`` and ``bench``: what a run would take.

What each does is in the module of its name; ``app`` registers them.
"""

from pathlib import Path
from typing import Annotated

import typer

from digipath_ray.cli.arguments import (
    ForceOption,
    OutOption,
    SlidesArgument,
    WeightsOption,
)
from digipath_ray.cli.console import console
from digipath_ray.cli.options import with_config
from digipath_ray.config.toml import Tree
from digipath_ray.planning.prices import DEADLINE_H

SlideOption = Annotated[
    str | None,
    typer.Option(
        help="read one of your slides, not a drawn one: formats differ",
        show_default=False,
    ),
]


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
    gpus: Annotated[int, typer.Option(help="GPUs of the run", min=1)] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="measure this machine's rate first")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="what 'digipath calibrate' or 'bench' measured, in place of --rate",
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            help="a table of node types with your prices (cluster/prices.toml)",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        float, typer.Option(help="hours in which a priced run is to end", min=0.01)
    ] = DEADLINE_H,
    tree: Tree,
) -> int:
    """Patches, GPU hours, disk, memory and price of a run of the cohort.

    Nothing is written: --out only says on which disk the run would lie.
    """
    from digipath_ray.cli.plan import plan_cohort
    from digipath_ray.planning.cost import Pace

    pace = Pace(
        rate=rate,
        gpus=gpus,
        measure=measure,
        calibration=calibration,
        prices=prices,
        by_hours=by,
    )
    return plan_cohort(
        console(), slides, out, tree, weights=weights, force=force, pace=pace
    )


@with_config
def calibrate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="the JSON file to write, for plan", show_default=False
        ),
    ],
    slide: SlideOption = None,
    weights: WeightsOption = None,
    force: ForceOption = False,
    tree: Tree,
) -> int:
    """Measure this machine, or each kind of node of the cluster, in two minutes."""
    from digipath_ray.cli.calibrate import calibrate as measure

    return measure(console(), out, tree, weights=weights, force=force, slide=slide)


@with_config
def bench(
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="where runs would be written; gets bench.json"
        ),
    ] = Path(),
    slide: SlideOption = None,
    weights: WeightsOption = None,
    force: ForceOption = False,
    tree: Tree,
) -> int:
    """Measure networks, a run, reading, disk and store of this machine; what to add."""
    from digipath_ray.cli.bench import bench as measure

    return measure(console(), out, tree, weights=weights, force=force, slide=slide)
