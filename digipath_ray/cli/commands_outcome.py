"""Declares ``stage``, ``burden``, ``report``, ``evaluate``, ``export``, ``verify``.

``stage`` and ``burden`` measure again in ``remeasure``, ``stage fit`` is in
``stage_fit``, the others in the module of their name; ``app`` registers them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from digipath_ray.cli.arguments import DropOption, OverwriteOption
from digipath_ray.cli.console import console
from digipath_ray.cli.options import with_outcome, with_specs
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.run import REFINING

Challenge = Literal["camelyon16", "camelyon17", "digestpath2019", "paip2019", "masks"]
RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="the directory of a run", show_default=False),
]
ManifestOption = Annotated[
    str | None,
    typer.Option(
        help="a corrected manifest: patients, nodes, labels, splits and annotations "
        "are taken from it",
        show_default=False,
    ),
]
BY_DEFAULT = "measure"
"""What ``digipath stage`` does with something that is none of its commands."""


class StageGroup(TyperGroup):
    """``digipath stage RUN`` is ``digipath stage measure RUN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before what names none."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [BY_DEFAULT, *args]
        return super().parse_args(ctx, args)


stage = typer.Typer(
    cls=StageGroup,
    no_args_is_help=True,
    help="Metastasis types of slides and pN stages of patients, from heatmaps. "
    "'digipath stage RUN' is 'digipath stage measure RUN'.",
)


@stage.command(name=BY_DEFAULT)
@with_outcome(
    "threshold", *REFINING, "nodes", "min_lesion_um", "min_lesion_p", "merge_um"
)
def stage_run(
    *,
    run_directory: RunArgument,
    model: Annotated[
        str | None,
        typer.Option(
            help="what 'stage fit' has made (.skops), or 'none'; default: the run's "
            "own, at first the size rule",
            show_default=False,
        ),
    ] = None,
    manifest: ManifestOption = None,
    drop: DropOption = False,
    overrides: dict[str, Any],
) -> int:
    """Recompute lesions, features, types and stages from heatmaps. No GPU."""
    from digipath_ray.cli.remeasure import conclude

    if model is not None:
        overrides = {**overrides, "stage_model": None if model == "none" else model}
    return conclude(
        console(), run_directory, "stage", overrides, manifest=manifest, drop=drop
    )


@with_outcome(
    "threshold",
    *REFINING,
    "viable_close_um",
    "viable_open_um",
    "min_viable_mm2",
    "refine_hull",
)
def burden(
    *,
    run_directory: RunArgument,
    manifest: ManifestOption = None,
    drop: DropOption = False,
    overrides: dict[str, Any],
) -> int:
    """Recompute tumor burden from heatmaps: viable by whole tumor. No GPU."""
    from digipath_ray.cli.remeasure import conclude

    return conclude(
        console(), run_directory, "burden", overrides, manifest=manifest, drop=drop
    )


def report(run_directory: RunArgument) -> int:
    """Write a run's report.html again, one file that needs no network."""
    from digipath_ray.cli.report import report_run

    return report_run(console(), run_directory)


@stage.command()
def fit(
    run_directory: RunArgument,
    labels: Annotated[
        Path,
        typer.Option(
            "--labels",
            help="types of the slides: CAMELYON17's stage_labels.csv, or a table with "
            "the columns slide_id and label",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="the model to write (.skops)", show_default=False
        ),
    ],
    trees: Annotated[
        int, typer.Option(help="trees of each of the four forests")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="from which all chance is drawn")] = 0,
    partial: Annotated[
        Literal["empty", "unsure", "none"],
        typer.Option(
            help="positive slides that the two partial forests are not fitted on: with "
            "no lesion at 0.5 (empty), none at 0.9 (unsure), or none left out"
        ),
    ] = "empty",
    folds: Annotated[
        int, typer.Option(help="groups of patients held out in turn, to score it")
    ] = 5,
    jobs: Annotated[int, typer.Option(help="threads")] = 1,
    overwrite: OverwriteOption = False,
) -> int:
    """Fit four random forests and the size rule on a run's slides with known types."""
    from digipath_ray.cli.stage_fit import fit_stage_model
    from digipath_ray.outcome.metastasis.fit_forests import Training

    return fit_stage_model(
        console(),
        run_directory,
        labels,
        out,
        training=Training(trees=trees, seed=seed, partial=partial, jobs=jobs),
        folds=folds,
        overwrite=overwrite,
    )


@stage.command()
def labels(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="types of slides, as for 'stage fit'",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="the stages, as CAMELYON17 takes them in (.csv)",
            show_default=False,
        ),
    ],
    nodes: Annotated[
        int | None,
        typer.Option(help="slides that every patient should have", show_default=False),
    ] = None,
) -> int:
    """Stage the patients of a label file alone."""
    from digipath_ray.cli.stage_fit import stage_labels

    return stage_labels(console(), file, out, nodes=nodes)


@with_specs
def evaluate(
    *,
    challenge: Annotated[
        Challenge, typer.Argument(metavar="CHALLENGE", help="whose definitions to use")
    ],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            help="what is true: the challenge's label file, a folder of masks, or a "
            "table with the columns slide_id, path and annotation",
            show_default=False,
        ),
    ],
    prediction: Annotated[
        Path,
        typer.Option(
            "--prediction",
            help="a run directory, or files as the challenge takes them in",
            show_default=False,
        ),
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="write the scores by name", show_default=False),
    ] = None,
    fp: Annotated[
        Literal["all-slides", "normal-slides"],
        typer.Option(help="camelyon16: whose false positives count"),
    ] = "all-slides",
    burdens: Annotated[
        Path | None,
        typer.Option(
            help="paip2019: table of the reference burdens, percent", show_default=False
        ),
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="camelyon16: write the run's detections to this folder, a CSV a slide",
            show_default=False,
        ),
    ] = None,
    mask_mpp: Annotated[
        float,
        typer.Option(help="camelyon16: um/px of masks whose slide is not at hand"),
    ] = 0.243,
    resamples: Annotated[int, typer.Option(help="of the bootstrap", min=1)] = 2000,
    annotations: AnnotationSpec,
) -> int:
    """Score a prediction as a challenge's organizers do, with 95 % intervals."""
    from digipath_ray.cli.evaluate import evaluate as score

    return score(
        console(),
        challenge,
        reference,
        prediction,
        json_out=json_file,
        fp=fp,
        burdens=burdens,
        detections=detections,
        mask_mpp=mask_mpp,
        annotations=annotations,
        resamples=resamples,
    )


def export(
    run_directory: RunArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="the folder to write to", show_default=False),
    ],
    kind: Annotated[
        Literal["csv", "geojson", "dicom-seg"],
        typer.Option(
            "--format",
            help="csv: the tables; geojson: lesions for QuPath; dicom-seg: heatmaps "
            "for a PACS (pip install 'digipath_ray\\[dicom]')",
        ),
    ] = "csv",
    with_patient: Annotated[
        bool,
        typer.Option(
            "--with-patient",
            help="dicom-seg: name the patient and the case as the slide's DICOM header "
            "does, or the manifest's patient; without it they are de-identified",
        ),
    ] = False,
) -> int:
    """Write a run's results for other programs: CSV, QuPath GeoJSON, DICOM SEG."""
    from digipath_ray.cli.export import export_run

    return export_run(console(), run_directory, out, kind, with_patient=with_patient)


def verify(
    *,
    run_directory: RunArgument,
    deep: Annotated[
        int,
        typer.Option(
            help="predict so many random chunks of patches again, and compare",
            min=0,
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="of that draw")] = 0,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard",
            help="take damaged results out, so that the next 'digipath run' makes them "
            "again",
        ),
    ] = False,
) -> int:
    """Check that a run is whole: every slide, every file's digest, every table.

    Exit status 0: all is right; 1: something is damaged or missing; 2: no run.
    """
    from digipath_ray.cli.verify import verify_and_print

    return verify_and_print(
        console(), run_directory, deep=deep, seed=seed, discard=discard
    )
