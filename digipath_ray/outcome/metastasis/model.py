"""A stage model: four forests, the fitted size rule, and the card of what they fit.

One ``.skops`` file of arrays and a text: no code is in it, and no pickle.
"""

import json
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
"""Types beside skops' own (dicts, texts, numbers, arrays) that a model may hold."""
UNKNOWN_DIGEST = "none"
"""Of members whose weights are in no file."""


@dataclass(frozen=True, kw_only=True)
class HeatmapSetting:
    """What of a run decides the numbers that its heatmaps' lesions have.

    Attributes:
        mpp: um per model px, as asked for.
        downsample: model px per heatmap px.
        threshold: probability from which a pixel belongs to a lesion.
        merge_um: lesions closer than this are one for the size rule.
        members: digests of the members' weights, sorted.
    """

    mpp: float
    downsample: int
    threshold: float
    merge_um: float
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageCard:
    """What a stage model was fitted on and how well it did.

    Attributes:
        setting: of the run whose heatmaps it was fitted on.
        effective_mpp: lowest and highest um per model px among its slides.
        feature_thresholds: probabilities at which the features are measured.
        features: their names, in order.
        min_lesion_um, min_lesion_p: of the size rule, fitted.
        trees, seed, partial, folds: as the fit was asked for.
        seeds: forest -> random state.
        types: slides of each type, negative to macro.
        fitted_on: forest -> slides of each type, made-up ones too.
        slides, patients: how many.
        overlap: slides predicted by members that had been fitted on them.
        scores: who told the types -> the fields of ``Scores``, cross-validated.
        versions: of the libraries.
        notes: what is amiss, in sentences.
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
    """Forests and size rule as they were fitted together."""

    forests: Forests
    card: StageCard

    @property
    def size_rule(self) -> SizeRule:
        """The size rule with the numbers chosen in the fit."""
        return SizeRule(
            min_extent_um=self.card.min_lesion_um,
            min_p=self.card.min_lesion_p,
            merge_um=self.card.setting.merge_um,
        )

    def predict(self, features: Sequence[Mapping[str, float]]) -> list[Verdict]:
        """The verdict on each slide, given its features by name.

        Raises:
            ValueError: a feature is missing or is no finite number.
        """
        return self.forests.predict(feature_matrix(features)) if features else []


def setting_of(config: RunConfig) -> HeatmapSetting:
    """The setting of a run with this config."""
    return HeatmapSetting(
        mpp=config.grid.mpp,
        downsample=config.grid.downsample,
        threshold=config.outcome.threshold,
        merge_um=config.outcome.merge_um,
        members=tuple(sorted(m.digest or UNKNOWN_DIGEST for m in config.members)),
    )


def check_fits(card: StageCard, config: RunConfig) -> None:
    """Refuse a run whose features are not those that a model was fitted on.

    Raises:
        ValueError: says all that differs, and what to do.
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
        differences.append("features: another version's; fit it again with this one")
    return differences


def _short(digests: Sequence[str]) -> str:
    return ", ".join(digest[:8] for digest in digests) or "none"


def check_model_name(path: Path) -> None:
    """Refuse a file that no model can be written to.

    Raises:
        ValueError: it is not called ``.skops``, or is a folder.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path}: call the model {path.stem}{SUFFIX}")
    if path.is_dir():
        raise ValueError(f"{path}: a folder: name a file for the model")


def save_stage_model(path: str | Path, model: StageModel) -> None:
    """Write a model as one file.

    Raises:
        ValueError: as :func:`check_model_name`.
    """
    # Skops imports torch where there is one: only who reads or writes a model waits.
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
    """Read a model; nothing in the file is run.

    Raises:
        ValueError: no such file, or no stage model.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    if not Path(path).is_file():
        raise ValueError(f"stage model {path}: no such file")
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
        # A damaged archive: no zip, no known compression, or not what was compressed.
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        # A whole one that holds something else.
        UntrustedTypesFoundException,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as e:
        raise ValueError(
            f"{path}: no stage model that can be read ({e}): make one with digipath "
            "stage fit"
        ) from e
    return StageModel(card=card, forests=forests)


def _parse_card(values: dict[str, Any]) -> StageCard:
    """The card from its JSON; lists become tuples."""
    missing = [
        f.name
        for f in fields(StageCard)
        if f.name not in values and f.default is MISSING
    ]
    if missing:
        raise ValueError(f"its card has no {missing[0]}")
    fields_ = {name: _frozen(value) for name, value in values.items()}
    return StageCard(**{**fields_, "setting": HeatmapSetting(**fields_["setting"])})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return {k: _frozen(v) for k, v in value.items()}
    return value
