"""``digipath evaluate``: a prediction scored by a challenge's own definitions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.evaluate.bootstrap import ENSEMBLE, RESAMPLES
from digipath_ray.evaluate.camelyon16 import MASK_MPP, evaluate_camelyon16
from digipath_ray.evaluate.camelyon17 import evaluate_camelyon17
from digipath_ray.evaluate.digestpath import evaluate_digestpath2019
from digipath_ray.evaluate.froc import FalsePositives
from digipath_ray.evaluate.masks import evaluate_masks
from digipath_ray.evaluate.paip import evaluate_paip2019
from digipath_ray.evaluate.results import Evaluation, Score
from digipath_ray.storage.files import place, publish

Challenge = Literal["camelyon16", "camelyon17", "digestpath2019", "paip2019", "masks"]


def evaluate(
    console: Console,
    challenge: Challenge,
    reference: Path,
    prediction: Path,
    *,
    json_out: Path | None = None,
    fp: FalsePositives = "all-slides",
    burdens: Path | None = None,
    detections: Path | None = None,
    mask_mpp: float = MASK_MPP,
    annotations: AnnotationSpec | None = None,
    resamples: int = RESAMPLES,
) -> int:
    """Print the scores of a prediction, and write them as JSON if a file is given.

    Args:
        console: where to print.
        challenge: whose definitions to use.
        reference: what is true, in the challenge's files or as a manifest.
        prediction: run directory, or the challenge's files.
        json_out: file for the scores by name.
        fp: camelyon16: whose false positives count.
        burdens: paip2019: CSV of the reference burdens, percent.
        detections: camelyon16: folder for a run's detections as the challenge's CSVs.
        mask_mpp: camelyon16: um per px of slides of which there is only a mask.
        annotations: how the reference's annotations are understood.
        resamples: of the bootstrap.

    Raises:
        ValueError: something is missing or cannot be read; says what.
    """
    reference, prediction = place(reference), place(prediction)
    for path in (reference, prediction):
        if not path.exists():
            raise ValueError(f"{path}: file or folder not found")
    found = _evaluate(
        challenge,
        reference,
        prediction,
        fp=fp,
        burdens=burdens,
        detections=detections,
        mask_mpp=mask_mpp,
        annotations=annotations,
        resamples=resamples,
    )
    console.print(shown_scores(found))
    for line in compare_to_members(found):
        console.print(line)
    for note in found.notes:
        console.print(f"[yellow]note[/] {escape(note)}")
    if json_out is not None:
        write_scores(json_out, found)
        console.print(f"scores    {escape(str(json_out))}")
    if detections is not None:
        console.print(f"detected  {escape(str(detections))}/<slide_id>.csv")
    return 0


def _evaluate(
    challenge: Challenge,
    reference: Path,
    prediction: Path,
    *,
    fp: FalsePositives,
    burdens: Path | None,
    detections: Path | None,
    mask_mpp: float,
    annotations: AnnotationSpec | None,
    resamples: int,
) -> Evaluation:
    match challenge:
        case "camelyon16":
            return evaluate_camelyon16(
                reference,
                prediction,
                fp=fp,
                annotations=annotations,
                mask_mpp=mask_mpp,
                detections=detections,
                resamples=resamples,
            )
        case "camelyon17":
            return evaluate_camelyon17(reference, prediction, resamples=resamples)
        case "digestpath2019":
            return evaluate_digestpath2019(
                reference, prediction, annotations=annotations, resamples=resamples
            )
        case "paip2019":
            return evaluate_paip2019(
                reference,
                prediction,
                burdens=burdens,
                annotations=annotations,
                resamples=resamples,
            )
        case "masks":
            return evaluate_masks(
                reference, prediction, annotations=annotations, resamples=resamples
            )
    raise ValueError(f"{challenge!r}: choose from {', '.join(get_args(Challenge))}")


def shown_scores(found: Evaluation) -> Table:
    """The scores as a table for the terminal; the members' below the ensemble's."""
    table = Table(box=None, pad_edge=False)
    for name in (found.challenge, "score"):
        table.add_column(name)
    for name in ("value", "95 % interval", "n", "resampled"):
        table.add_column(name, justify="right")
    prediction = ENSEMBLE if found.members else "prediction"
    for name, scores in {prediction: found.scores, **found.members}.items():
        _add_rows(table, name, scores)
    return table


def _add_rows(table: Table, who: str, scores: Mapping[str, Score]) -> None:
    for name, score in scores.items():
        table.add_row(
            escape(who),
            name,
            f"{score.value:.4f}",
            "-" if score.low is None else f"{score.low:.4f} to {score.high:.4f}",
            str(score.n),
            f"{score.units} {score.unit}{'' if score.units == 1 else 's'}",
        )


def compare_to_members(found: Evaluation) -> list[str]:
    """Whether the ensemble beats its members, score by score."""
    return [
        f"{name}: the ensemble is above {above} of {members} members"
        for name, (above, members) in found.against_members().items()
    ]


def write_scores(path: Path, found: Evaluation) -> None:
    """Publish the scores by name as JSON."""
    with publish(path) as temporary:
        text = json.dumps(found.as_json(), indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
