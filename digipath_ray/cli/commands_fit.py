"""Declares ``cohort``, ``import-weights``, ``train`` and ``mine``.

What each does is in the module of its name; ``app`` registers them.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from digipath_ray.cli.arguments import OverwriteOption, SlideIdsOption
from digipath_ray.cli.console import console
from digipath_ray.cli.options import with_recipe, with_specs
from digipath_ray.config.member import Activation
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.config.toml import Tree
from digipath_ray.mining.spec import MiningSpec, RegionSpec
from digipath_ray.storage.files import is_url, place

Dataset = Literal["camelyon16", "camelyon17", "paip2019", "digestpath2019"]
Color = tuple[float, float, float]
ArchitectureOption = Annotated[
    str,
    typer.Option(
        help="Unet, DeepLabV3Plus, ... or of the authors: OriginalUnetDenseNet121, "
        "OriginalUnetInceptionResNetV2, OriginalDeepLabV3Plus"
    ),
]
SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="a checkpoint (.pth, .pt, .ckpt, .safetensors), or a Keras .h5 of the "
        "authors",
    ),
]
NewClassifierOption = Annotated[
    bool,
    typer.Option(
        "--new-classifier",
        help="leave the last layer random: weights of other classes, to fit from",
    ),
]
ClassesOption = Annotated[
    str,
    typer.Option(metavar="NAME,...", help="the channels of its answer, in their order"),
]
TumorClassesOption = Annotated[
    str, typer.Option(metavar="NAME,...", help="those of --classes that are tumor")
]
ActivationOption = Annotated[
    Activation,
    typer.Option(
        help="what makes probabilities: softmax, or sigmoid of each class for itself"
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        help="under what the checkpoint has its state_dict, or what names in it begin "
        "with, if there are several"
    ),
]
MeanOption = Annotated[
    Color | None,
    typer.Option(metavar="R G B", help="per channel, 0..1; default: the encoder's own"),
]
StdOption = Annotated[Color | None, typer.Option(metavar="R G B", help="as --mean")]
ContextOption = Annotated[
    int | None,
    typer.Option(
        min=2, max=64, help="how many times coarser the context is that it sees too"
    ),
]


def cohort(
    dataset: Annotated[
        Dataset,
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


def import_weights(
    source: SourceArgument,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="the .safetensors file to write")
    ],
    architecture: ArchitectureOption,
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
    context_mpp_factor: ContextOption = None,
    patch_px: Annotated[
        int, typer.Option(help="side of the patches to predict on, px")
    ] = 1024,
    mean: MeanOption = None,
    std: StdOption = None,
    license: Annotated[str, typer.Option(help="of the weights")] = "unknown",
    notes: Annotated[str, typer.Option(help="anything else worth knowing")] = "",
    key: KeyOption = None,
    tumor_channel: Annotated[
        int, typer.Option(min=0, max=1, help="which of its two classes is tumor")
    ] = 1,
    classes: ClassesOption = "other,tumor",
    tumor_classes: TumorClassesOption = "tumor",
    activation: ActivationOption = "softmax",
    new_classifier: NewClassifierOption = False,
    overwrite: OverwriteOption = False,
) -> int:
    """Convert weights made elsewhere into a .safetensors file with a model card."""
    from digipath_ray.cli.weights import ImportedMember
    from digipath_ray.cli.weights import import_weights as write_imported

    member = ImportedMember(
        architecture=architecture,
        mpp=mpp,
        name=name,
        encoder=encoder,
        context_mpp_factor=context_mpp_factor,
        options=tuple(option or ()),
        patch_px=patch_px,
        mean=mean,
        std=std,
        classes=_names(classes),
        tumor_classes=_names(tumor_classes),
        activation=activation,
        license=license,
        notes=notes,
    )
    return write_imported(
        console(),
        source,
        out,
        member,
        new_classifier=new_classifier,
        key=key,
        tumor_channel=tumor_channel,
        overwrite=overwrite,
    )


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
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            help="the fit's directory, on a disk that all nodes see or in a bucket",
            show_default=False,
        ),
    ],
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="starting weights of the members: imagenet (default), random, a "
            ".safetensors file, or a folder of them named as the members, also in a "
            "bucket",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="start over in this directory")
    ] = False,
    slide_ids: SlideIdsOption = "name",
    tree: Tree,
) -> int:
    """Fit an ensemble on annotated slides: weights with model cards.

    Run again after a crash, it goes on from the last checkpoint.
    """
    from digipath_ray.cli.train import train_cohort

    return train_cohort(
        console(),
        slides,
        out,
        tree,
        init=init,
        overwrite=overwrite,
        slide_ids=slide_ids,
    )


@with_specs
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
            help="write hard patches here (.parquet), on a disk or in a bucket, for "
            "'train --hard-examples'",
            show_default=False,
        ),
    ] = None,
    mining: MiningSpec,
    uncertain: Annotated[
        Path | None,
        typer.Option(
            help="write each slide's most uncertain regions to this folder as QuPath "
            "GeoJSON, to be corrected for 'train --extra-annotations'",
            show_default=False,
        ),
    ] = None,
    regions: RegionSpec,
    annotations: AnnotationSpec,
) -> int:
    """Find patches a run got wrong and regions it is unsure of, for another fit."""
    from digipath_ray.cli.mine import mine_run

    return mine_run(
        console(),
        run_directory,
        out=_placed(out),
        uncertain=_placed(uncertain),
        mining=mining,
        regions=regions,
        annotations=annotations,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _placed(path: Path | None) -> Path | None:
    """Where to write; a URL has lost a slash on its way through the command line."""
    return place(path) if path is not None and is_url(path) else path
