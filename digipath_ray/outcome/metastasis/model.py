"""Stage model: four forests, the fitted size rule, and their card.

Stored as one ``.skops`` file of arrays and text, without code or pickles.
"""

import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from digipath_ray.config.run import RunConfig
from digipath_ray.geometry import MPP_TOLERANCE
from digipath_ray.outcome.features import FEATURES, HIGH, LOW
from digipath_ray.outcome.metastasis.forests import (
    Forest,
    Forests,
    Verdict,
    feature_matrix,
)
from digipath_ray.outcome.metastasis.size_rule import SizeRule
from digipath_ray.storage.files import publish

SUFFIX = ".skops"
TRUSTED: list[str] = []
"""Types allowed in a model besides skops' own (dicts, texts, numbers, arrays)."""
UNKNOWN_DIGEST = "none"
"""Digest of members without a weights file."""


@dataclass(frozen=True, kw_only=True)
class HeatmapSetting:
    """Settings of a run that affect the measures of its lesions.

    Attributes:
        mpp: requested um per model px.
        downsample: model px per heatmap px.
        threshold: minimum probability of a lesion pixel.
        merge_um: lesions closer than this are merged by the size rule.
        members: sorted digests of the members' weights.
    """

    mpp: float
    downsample: int
    threshold: float
    merge_um: float
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageCard:
    """Training data and scores of a stage model.

    Attributes:
        setting: setting of the run of the training heatmaps.
        effective_mpp: minimum and maximum um per model px of its slides.
        feature_thresholds: probability thresholds of the features.
        features: feature names, in order.
        min_lesion_um, min_lesion_p: fitted values of the size rule.
        trees, seed, partial, folds: settings of the fit.
        seeds: forest -> random state.
        types: number of slides of each type, negative to macro.
        fitted_on: forest -> training slides of each type, synthetic ones included.
        slides, patients: their numbers.
        overlap: slides predicted by members trained on them.
        scores: predictor -> cross-validated fields of ``TypeScores``.
        versions: library versions.
        notes: warnings, one sentence each.
    """

    setting: HeatmapSetting
    effective_mpp: tuple[float, float]
    feature_thresholds: tuple[float, float] = (HIGH, LOW)
    features: tuple[str, ...] = FEATURES
    min_lesion_um: float
    min_lesion_p: float
    trees: int
    seed: int
    partial: str
    folds: int
    seeds: Mapping[str, int]
    types: tuple[int, ...]
    fitted_on: Mapping[str, tuple[int, ...]]
    slides: int
    patients: int
    overlap: int
    scores: Mapping[str, Any]
    versions: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class StageModel:
    """Forests and size rule fitted together."""

    forests: Forests
    card: StageCard

    @property
    def size_rule(self) -> SizeRule:
        """Size rule with the fitted values."""
        return SizeRule(
            min_extent_um=self.card.min_lesion_um,
            min_p=self.card.min_lesion_p,
            merge_um=self.card.setting.merge_um,
        )

    def predict(self, features: Sequence[Mapping[str, float]]) -> list[Verdict]:
        """Predict the type of each slide from its features by name.

        Raises:
            ValueError: a feature is missing or not finite.
        """
        return self.forests.predict(feature_matrix(features)) if features else []


def setting_of(config: RunConfig) -> HeatmapSetting:
    """Setting of a run with this config."""
    return HeatmapSetting(
        mpp=config.grid.mpp,
        downsample=config.grid.downsample,
        threshold=config.outcome.threshold,
        merge_um=config.outcome.merge_um,
        members=tuple(sorted(m.digest or UNKNOWN_DIGEST for m in config.members)),
    )


def check_fits(card: StageCard, config: RunConfig) -> None:
    """Raise if a run's features are not comparable to the model's training data.

    Raises:
        ValueError: lists all differences, and the fix.
    """
    differing = list(_differences(card, setting_of(config)))
    if differing:
        lines = "\n  ".join(differing)
        raise ValueError(
            f"the stage model does not fit this run:\n  {lines}\nrun with the model's "
            "settings and weights, fit a model on such a run (digipath stage fit), or "
            "leave the model out: the size rule needs none"
        )


def _differences(card: StageCard, run: HeatmapSetting) -> list[str]:
    model = card.setting
    differences = []
    if abs(run.mpp / model.mpp - 1) > MPP_TOLERANCE:
        differences.append(
            f"grid.mpp: the model's {model.mpp:g}, the run's {run.mpp:g}"
        )
    for section, name in (
        ("grid", "downsample"),
        ("outcome", "threshold"),
        ("outcome", "merge_um"),
    ):
        own, theirs = getattr(model, name), getattr(run, name)
        if own != theirs:
            differences.append(
                f"{section}.{name}: the model's {own:g}, the run's {theirs:g}"
            )
    if model.members != run.members:
        differences.append(
            f"members (digests of their weights): the model's {_short(model.members)}, "
            f"the run's {_short(run.members)}"
        )
    here = (*FEATURES, HIGH, LOW)
    if here != (*card.features, *card.feature_thresholds):
        differences.append(
            "features: of another version; refit the model with this one"
        )
    return differences


def _short(digests: Sequence[str]) -> str:
    return ", ".join(digest[:8] for digest in digests) or "none"


def check_model_name(path: Path) -> None:
    """Raise if no model can be written to a path.

    Raises:
        ValueError: the suffix is not ``.skops``, or it is a directory.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: name the model {path.stem}{SUFFIX}")
    if path.is_dir():
        raise ValueError(f"{path}: a directory: give a file name for the model")


def save_stage_model(path: str | Path, model: StageModel) -> None:
    """Write a model to a file.

    Raises:
        ValueError: the suffix is not ``.skops``, or it is a directory.
    """
    # Imported here because skops imports torch, which is slow.
    import skops.io

    path = Path(path)
    check_model_name(path)
    forests = model.forests.forests
    tree = {
        "card": json.dumps(asdict(model.card)),
        "forests": {name: vars(forest) for name, forest in forests.items()},
    }
    with publish(path) as temporary:
        skops.io.dump(tree, temporary, compression=zipfile.ZIP_DEFLATED)


def load_stage_model(path: str | Path) -> StageModel:
    """Read a model without executing code from the file.

    Raises:
        ValueError: the file does not exist, or is not a stage model.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    if not Path(path).is_file():
        raise ValueError(f"stage model {path}: file not found")
    try:
        tree = skops.io.load(path, trusted=TRUSTED)
        card = _parse_card(json.loads(tree["card"]))
        arrays = tree["forests"].items()
        forests = Forests(
            forests={name: Forest(**each) for name, each in arrays},
            seeds=card.seeds,
            counts=card.fitted_on,
        )
    except (
        # Damaged archive: not a zip, unknown compression or corrupt data.
        zipfile.BadZipFile,
        zlib.error,
        # NotImplementedError, or one that is said to be encrypted.
        RuntimeError,
        EOFError,
        OSError,
        # Damaged header of an array, which numpy parses as Python.
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        # Intact archive with other content.
        UntrustedTypesFoundException,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as e:
        raise ValueError(
            f"{path}: not a readable stage model ({e}): create one with digipath "
            "stage fit"
        ) from e
    return StageModel(card=card, forests=forests)


def _parse_card(values: dict[str, Any]) -> StageCard:
    """Parse a card from JSON; lists become tuples."""
    missing = [
        f.name
        for f in fields(StageCard)
        if f.name not in values and f.default is MISSING
    ]
    if missing:
        raise ValueError(f"its card lacks {missing[0]}")
    fields_ = {name: _frozen(value) for name, value in values.items()}
    return StageCard(**{**fields_, "setting": HeatmapSetting(**fields_["setting"])})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return value
