"""How an ensemble is fitted, as frozen dataclasses whose defaults are the paper's.

A fit is described by one :class:`Recipe`, checked at construction like ``RunConfig``,
with which it shares the sections ``slide``, ``tissue``, ``grid`` and ``members``: one
TOML file fits an ensemble and runs it. Where the paper is silent the values are those
of the released code.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from digipath_ray.config.fields import check, check_choice, option
from digipath_ray.config.fit_classes import ClassSpec
from digipath_ray.config.member import check_can_be_fitted
from digipath_ray.config.run import (
    GridSpec,
    MemberSpec,
    Origin,
    Precision,
    SlideSpec,
    TissueSpec,
    check_unique,
)

FIT_STEP_PX = 32
"""What the side of a patch that is fitted on is a multiple of, px."""
VALUE_MEANINGS = {
    "tumor": "tumor",
    "ignore": "ignored",
    "ignored": "ignored",
    "other": "skip",
    "normal": "skip",
    "background": "skip",
    "skip": "skip",
}
"""What a value of a mask image may mean, as the user says it and as it is kept."""


@dataclass(frozen=True, kw_only=True)
class AnnotationSpec:
    """How annotations are understood."""

    classes: tuple[str, ...] = option(
        (),
        "what groups, classes or layers mean beyond those known, NAME=MEANING, "
        "comma-separated; MEANING: tumor, hole, ignored or skip",
    )
    mask_above: float | None = option(
        None,
        "mask images, references and predictions: tumor is above this value (default: "
        "the one value beside 0; 127 for JPEG)",
    )
    mask_values: tuple[str, ...] = option(
        (),
        "mask images, references and predictions: what values mean, MEANING=VALUE, "
        "comma-separated, e.g. tumor=2,ignore=255; MEANING: tumor, ignore or other",
    )
    origin: Origin | None = option(
        None,
        "what positions count from on slides with a larger canvas (MRXS, SCN): canvas "
        "or bounds (default: as the format does)",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        for text in self.classes:
            name, _, meaning = text.rpartition("=")
            ok = bool(name) and meaning in ("tumor", "hole", "ignored", "skip")
            want = "NAME=tumor, NAME=hole, NAME=ignored or NAME=skip"
            check(ok, "annotations.classes", text, want)
        if self.origin is not None:
            check_choice("annotations.origin", self.origin, Origin)
        for text in self.mask_values:
            meaning, _, value = text.partition("=")
            ok = meaning.strip().lower() in VALUE_MEANINGS and _is_number(value)
            want = "tumor=VALUE, ignore=VALUE or other=VALUE, e.g. tumor=2,ignore=255"
            check(ok, "annotations.mask_values", text, want)
        both = bool(self.mask_values) and self.mask_above is not None
        want = "one of mask_above and mask_values"
        check(not both, "annotations.mask_above", self.mask_above, want)

    @property
    def meanings(self) -> dict[str, Any]:
        """Name -> meaning."""
        pairs = (text.rpartition("=") for text in self.classes)
        return {name: meaning for name, _, meaning in pairs}

    @property
    def mask_meanings(self) -> dict[float, str]:
        """Value of a mask image -> meaning: tumor, ignored or skip."""
        pairs = (text.partition("=") for text in self.mask_values)
        return {float(v): VALUE_MEANINGS[m.strip().lower()] for m, _, v in pairs}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """Which patches of a slide are fitted on, and how many."""

    fit_patch_px: int = option(256, "side of a patch that is fitted on, model px")
    tumor_per_slide: int = option(2000, "patches with tumor drawn on a slide, at most")
    normal_per_slide: int = option(2000, "patches without, at most")
    jitter_px: float = option(
        128.0, "radius of the disc in which a patch's center is moved, model px"
    )
    epoch_patches: int | None = option(
        None, "patches of an epoch; default: each tumor patch once, as many without"
    )
    validation_patches: int = option(4000, "patches a member is validated on, at most")
    hard_examples: str | None = option(
        None, "patches to fit on besides, as 'digipath mine --out' writes them"
    )
    extra_annotations: str | None = option(
        None, "folder of <slide_id>.geojson, the truth inside their frames (Region*)"
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        name, value = "sampling.fit_patch_px", self.fit_patch_px
        ok = value >= FIT_STEP_PX and value % FIT_STEP_PX == 0
        check(ok, name, value, f"a multiple of {FIT_STEP_PX}")
        for name in ("tumor_per_slide", "normal_per_slide", "validation_patches"):
            value = getattr(self, name)
            check(value >= 1, f"sampling.{name}", value, "at least 1")
        check(self.jitter_px >= 0, "sampling.jitter_px", self.jitter_px, "not negative")
        ok = self.epoch_patches is None or self.epoch_patches >= 2
        check(ok, "sampling.epoch_patches", self.epoch_patches, "at least 2")


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """How patches are varied while fitting (the released code's values).

    The paper's prose names hue and saturation in the other order.
    """

    flip: bool = option(True, "flip patches at random, both ways")
    rotate: bool = option(True, "turn patches by 0, 90, 180 or 270 degrees")
    blur_px: float = option(0.5, "deviation of a Gaussian blur, drawn from 0 to this")
    brightness: float = option(64 / 255, "color jitter: brightness times 1 +- this")
    contrast: float = option(0.75, "color jitter: contrast times 1 +- this")
    saturation: float = option(0.25, "color jitter: saturation times 1 +- this")
    hue: float = option(0.04, "color jitter: hue moved by +- this, of a full turn")
    stain: float = option(
        0.0,
        "stain jitter: hematoxylin, eosin and what is of neither, each apart: times "
        "1 +- this and plus +- this, in optical density",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("brightness", "contrast", "saturation", "stain"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"augment.{name}", value, "0 to 1")
        check(0 <= self.hue <= 0.5, "augment.hue", self.hue, "0 to 0.5")
        check(0 <= self.blur_px <= 10, "augment.blur_px", self.blur_px, "0 to 10")


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """Weights of the loss: cross-entropy (eq. 2) and Dice (eq. 1) of each class."""

    cross_entropy: float = option(0.5, "weight of the cross-entropy")
    dice_other: float = option(
        0.25, "weight of the Dice losses of what is no tumor, all classes together"
    )
    dice_tumor: float = option(
        0.25, "weight of the Dice losses of tumor, all of its classes together"
    )
    squared: bool = option(
        True, "squares in Dice's denominator, as eq. 1; the released code has none"
    )
    smoothing: float = option(1.0, "added to Dice's numerator and denominator")

    def __post_init__(self) -> None:
        """Check the fields."""
        weights = (self.cross_entropy, self.dice_other, self.dice_tumor)
        ok = min(weights) >= 0 and sum(weights) > 0
        check(ok, "loss weights", weights, "not negative, and not all 0")
        check(self.smoothing > 0, "loss.smoothing", self.smoothing, "positive")


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """How a member's network is fitted."""

    folds: int = option(3, "folds by patient; member i is validated on fold i")
    epochs: int = option(100, "epochs, at most")
    batch_size: int = option(16, "patches of a step, over all workers")
    learning_rates: tuple[float, ...] = option(
        (2e-4, 1e-4, 5e-5, 2e-5, 1e-5), "learning rate of each stretch of epochs"
    )
    decay_epochs: tuple[int, ...] = option(
        (15, 50, 70, 80), "first epoch of each stretch but the first"
    )
    frozen_epochs: int = option(
        2, "first epochs, in which a U-Net's pretrained encoder is frozen"
    )
    freeze_encoder: bool = option(
        False, "keep pretrained encoders frozen in all epochs, and fit the rest alone"
    )
    frozen_learning_rate: float = option(1e-5, "learning rate of those epochs")
    gentle_learning_rate: float = option(
        5e-6, "learning rate of those epochs where a pretrained encoder is not frozen"
    )
    patience: int = option(
        10, "epochs without a lower validation loss after which a fit stops"
    )
    amsgrad: bool = option(True, "Adam with AMSGrad")
    temperature: bool = option(False, "scale the logits to be calibrated on validation")
    precision: Precision = option("auto", "auto: float16 on a GPU, float32 on a CPU")
    half_weights: bool = option(False, "store weights in half precision: half the size")
    seed: int = option(0, "of folds, sampling, augmentation and new weights")
    workers: int = option(1, "processes that fit one member together")
    worker_gpus: float | None = option(
        None, "GPU share of such a process; default: one, if there is any"
    )
    members_at_once: int | None = option(
        None, "members fitted side by side; default: as many as there are GPUs for"
    )
    cpus: int | None = option(
        None, "CPUs of this machine to use; default: all that the job may use"
    )
    readers: int | None = option(None, "patch-reading tasks at once, of a process")
    restarts: int = option(3, "times a member's fit is resumed after a lost process")
    max_failed: float = option(
        0.2, "share of an epoch's patches that may be unreadable before a fit stops"
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "batch_size", "patience", "workers"):
            value = getattr(self, name)
            check(value >= 1, f"fit.{name}", value, "at least 1")
        check(self.folds >= 2, "fit.folds", self.folds, "at least 2")
        ok = self.batch_size % (2 * self.workers) == 0
        want = f"an even number per worker ({self.workers}): half of a batch is tumor"
        check(ok, "fit.batch_size", self.batch_size, want)
        for name in ("frozen_epochs", "restarts"):
            value = getattr(self, name)
            check(value >= 0, f"fit.{name}", value, "not negative")
        for name in ("cpus", "members_at_once", "readers"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"fit.{name}", value, "at least 1")
        check(0 <= self.max_failed < 1, "fit.max_failed", self.max_failed, "0 to 1")
        ok = self.worker_gpus is None or self.worker_gpus >= 0
        check(ok, "fit.worker_gpus", self.worker_gpus, "not negative")
        check_choice("fit.precision", self.precision, Precision)
        self._check_schedule()

    def _check_schedule(self) -> None:
        rates = (
            *self.learning_rates,
            self.frozen_learning_rate,
            self.gentle_learning_rate,
        )
        ok = all(math.isfinite(r) and r > 0 for r in rates)
        check(ok, "fit learning rates", rates, "positive")
        ok = len(self.decay_epochs) == len(self.learning_rates) - 1
        ok = ok and list(self.decay_epochs) == sorted(set(self.decay_epochs))
        want = "one fewer than learning_rates, rising"
        check(ok, "fit.decay_epochs", self.decay_epochs, want)

    def learning_rate(self, epoch: int, *, pretrained: bool, freezes: bool) -> float:
        """The learning rate of an epoch, counted from 0.

        Args:
            epoch: which.
            pretrained: the encoder did not start from random weights.
            freezes: it is frozen in the first epochs.

        With ``freeze_encoder`` the schedule is that of new weights: what is fitted is
        new from the first epoch to the last.
        """
        if not self.freeze_encoder and pretrained and epoch < self.frozen_epochs:
            return self.frozen_learning_rate if freezes else self.gentle_learning_rate
        passed = sum(epoch >= first for first in self.decay_epochs)
        return self.learning_rates[passed]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a fit makes of a cohort."""

    slide: SlideSpec = field(default_factory=SlideSpec)
    tissue: TissueSpec = field(default_factory=TissueSpec)
    grid: GridSpec = field(default_factory=GridSpec)
    members: tuple[MemberSpec, ...] = ()
    annotations: AnnotationSpec = field(default_factory=AnnotationSpec)
    sampling: SamplingSpec = field(default_factory=SamplingSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    fit: FitSpec = field(default_factory=FitSpec)
    classes: ClassSpec = field(default_factory=ClassSpec)

    def __post_init__(self) -> None:
        """Check what only the whole can tell."""
        check_unique(self.members)
        spec = self.classes
        for member in self.members:
            check_can_be_fitted(
                member, classes=spec.of_networks, tumor=spec.tumor, whole=spec.whole
            )
        if spec.names:
            self._check_classes()

    def _check_classes(self) -> None:
        """Refuse what is said of annotations, or asked for, beside classes."""
        said = [n for n, m in self.annotations.meanings.items() if m == "tumor"]
        want = "with [classes], say which class it is: NAME=CLASS in [classes] drawn"
        check(not said, "annotations.classes", said, want)
        for name in ("mask_values", "mask_above"):
            value = getattr(self.annotations, name)
            want = "with [classes], say which value is which class: [classes] values"
            check(not value and value != 0, f"annotations.{name}", value, want)
        extra = self.sampling.extra_annotations
        want = "corrections know tumor only: leave them out of a fit with [classes]"
        check(extra is None, "sampling.extra_annotations", extra, want)
        want = (
            "of several classes it is not fitted: dividing logits by it is no function "
            "of tumor's odds"
        )
        ok = not (self.fit.temperature and self.classes.several)
        check(ok, "fit.temperature", self.fit.temperature, want)


def check_can_be_frozen(spec: MemberSpec, *, pretrained: bool) -> None:
    """Refuse to freeze an encoder whose weights are random.

    Raises:
        ValueError: says what to give.
    """
    name, want = (
        f"member {spec.name}: fit.freeze_encoder",
        (
            "the encoder starts from random weights and would keep them: give it "
            'encoder_weights = "FILE" in its [[members]], or --init'
        ),
    )
    check(pretrained, name, True, want)
