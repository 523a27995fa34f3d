"""End of a member's fit: best weights, model card, curves and scores.

The card is written last: a member with a card is finished.
"""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from safetensors.torch import load

from digipath_ray import __version__
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.networks.card import ModelCard, card_path, write_card
from digipath_ray.networks.normalization import normalization_of
from digipath_ray.networks.weights import save_weights
from digipath_ray.storage.files import file_digest, publish, read_bytes
from digipath_ray.training.calibration import (
    Histogram,
    auroc,
    best_threshold,
    brier,
    fit_temperature,
    measure_reliability,
    scores_at,
    temper,
)
from digipath_ray.training.class_dice import class_columns
from digipath_ray.training.curves import write_curves, write_reliability
from digipath_ray.training.directory import FitDirectory
from digipath_ray.training.fit import MemberFit
from digipath_ray.training.folds import Split
from digipath_ray.training.stains import Stains, reference_stains

UNSTATED = "LicenseRef-unstated"


def keep_best(directory: FitDirectory, fit: MemberFit) -> None:
    """Save the network as the best so far."""
    tensors = fit.network.state_dict()
    if fit.recipe.fit.half_weights:
        halves = {k: v.half() for k, v in tensors.items() if v.is_floating_point()}
        tensors = {**tensors, **halves}
    with publish(directory.best(fit.spec.name)) as path:
        save_weights(tensors, path)


def load_best(directory: FitDirectory, fit: MemberFit) -> None:
    """Load the best epoch's weights."""
    fit.network.load_state_dict(load(read_bytes(directory.best(fit.spec.name))))


def write_progress(directory: FitDirectory, fit: MemberFit) -> None:
    """Write the learning curves so far."""
    directory.write_json(directory.history(fit.spec.name), fit.history)
    name = fit.spec.name
    write_curves(
        fit.history,
        directory.curve_table(name),
        directory.curve_picture(name),
        title=name,
        kept_epoch=fit.best_epoch,
        frozen_epochs=min(fit.frozen_epochs, fit.epoch),
    )


def conclude(
    directory: FitDirectory,
    fit: MemberFit,
    histogram: Histogram,
    split: Split,
    rows: Sequence[SlideRow],
) -> ModelCard:
    """Write the member's weights, curves and, last, card.

    Args:
        directory: directory of the fit.
        fit: fit with its best weights loaded.
        histogram: logits on the validation slides.
        split: slides of the member.
        rows: slides of the cohort.
    """
    name, fitting = fit.spec.name, fit.recipe.fit
    temperature = fit_temperature(histogram) if fitting.temperature else 1.0
    tempered = temper(histogram, temperature)
    curve = measure_reliability(tempered)
    write_reliability(directory.reliability_picture(name), curve, title=name)
    weights = directory.weights(name)
    # Copied, not moved: a fit that ends before its card is written resumes from it.
    with publish(weights) as path:
        path.write_bytes(read_bytes(directory.best(name)))
        digest = file_digest(path)
    mean, std = normalization_of(fit.spec)
    card = ModelCard(
        name=name,
        architecture=fit.spec.architecture,
        encoder=fit.spec.encoder,
        options=dict(fit.spec.options),
        mpp=fit.recipe.grid.mpp,
        patch_px=fit.recipe.grid.patch_px,
        mean=mean,
        std=std,
        training_slides=split.fit,
        training_patients=patients_of(split.fit, rows),
        license=fit.spec.license or UNSTATED,
        digest=digest,
        threshold=best_threshold(tempered),
        temperature=temperature,
        context_mpp_factor=fit.spec.context_mpp_factor,
        classes=fit.spec.classes,
        tumor_classes=fit.spec.tumor_classes,
        whole_classes=fit.spec.whole_classes,
        stain=reference_of_fit(directory, split.fit),
        training={
            **describe_fit(fit, tempered, split),
            "slides": slide_digests(directory, split.fit),
        },
    )
    write_card(weights, card)
    directory.best(name).unlink()
    return card


def reference_of_fit(directory: FitDirectory, slide_ids: Sequence[str]) -> Stains:
    """Median stains of the slides that a member is fitted on."""
    tables = directory.read_tables(directory.samples, slide_ids)
    return reference_stains(dict(zip(slide_ids, tables, strict=True)), slide_ids)


def slide_digests(directory: FitDirectory, slide_ids: Sequence[str]) -> list[str]:
    """Digests of the files of slides, sorted, of those that are known."""
    digests = directory.read_digests()
    found = {digests.get(f"slide {slide_id}") for slide_id in slide_ids}
    return sorted(digest for digest in found if digest is not None)


def patients_of(slide_ids: Sequence[str], rows: Sequence[SlideRow]) -> tuple[str, ...]:
    """Sorted patients of slides; slides without a patient are skipped."""
    found = {r.patient_id for r in rows if r.slide_id in set(slide_ids)}
    return tuple(sorted(p for p in found if p is not None))


def describe_fit(fit: MemberFit, histogram: Histogram, split: Split) -> dict[str, Any]:
    """Training and scores of a member, for its card."""
    recipe, kept = fit.recipe, fit.history[fit.best_epoch]
    threshold, by_class = best_threshold(histogram), class_columns(kept)
    return {
        "start": fit.origin,
        "encoder_license": fit.encoder_license,
        "epochs": fit.epoch,
        "kept_epoch": fit.best_epoch,
        "stopped": "patience" if fit.epoch < recipe.fit.epochs else "epochs",
        "encoder_frozen_epochs": min(fit.frozen_epochs, fit.epoch),
        "validation_slides": list(split.validation),
        "validation_loss": kept["validation_loss"],
        "validation": {
            **asdict(scores_at(histogram, threshold)),
            "auroc": auroc(histogram),
            "brier": brier(histogram),
            "expected_calibration_error": measure_reliability(histogram).error,
            **({"dice_by_class": by_class} if by_class else {}),
        },
        "reliability": reliability_rows(histogram),
        "sampling": asdict(recipe.sampling),
        "augment": asdict(recipe.augment),
        "loss": asdict(recipe.loss),
        "fit": asdict(recipe.fit),
        **({"classes": asdict(recipe.classes)} if recipe.classes.names else {}),
        "versions": {
            "digipath_ray": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("ray", "torch")},
        },
    }


def reliability_rows(histogram: Histogram) -> list[dict[str, float | None]]:
    """Rows of the reliability curve; None in empty bins."""
    curve = measure_reliability(histogram)
    return [
        {
            "from": float(curve.edges[i]),
            "to": float(curve.edges[i + 1]),
            "confidence": _number(curve.confidence[i]),
            "frequency": _number(curve.frequency[i]),
            "mm2": float(curve.counts[i]),
        }
        for i in range(len(curve.counts))
    ]


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def is_finished(directory: FitDirectory, member: str) -> bool:
    """Whether a member's weights and card exist."""
    weights = directory.weights(member)
    return weights.exists() and card_path(weights).exists()
