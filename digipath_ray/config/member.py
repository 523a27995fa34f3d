"""One network of the ensemble: where its weights are, what it takes and answers."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from digipath_ray.config.fields import check, check_choice

Output = Literal["logits", "probabilities"]
Activation = Literal["softmax", "sigmoid"]
ChannelOrder = Literal["RGB", "BGR"]
PixelLayout = Literal["NCHW", "NHWC"]

FROM_FILE = {"onnx": ".onnx", "exported": ".pt2"}
"""Architectures that are a file's, which holds the network too -> its suffix."""
WEIGHTS_SUFFIXES = (".safetensors", *FROM_FILE.values())
TUMOR = "tumor"
CLASSES = ("other", TUMOR)
"""The two channels of a network that is fitted here, in this order."""
STRIDES = (1, 2, 4, 8, 16, 32)
ANSWER = (
    "classes",
    "tumor_classes",
    "output",
    "activation",
    "output_stride",
    "border_px",
    "whole_classes",
)
"""Fields that say what a network answers."""
MAX_BORDER_PX = 1 << 13


@dataclass(frozen=True, kw_only=True)
class MemberSpec:
    """One network of the ensemble.

    ``weights`` is a safetensors file, ``"random"`` or ``"imagenet"``. ``mean`` and
    ``std`` are on the 0..1 scale of a pixel; None takes the encoder's own, or
    (x - 128) / 128 for random weights. ``options`` go to the network's constructor.
    Logits are divided by ``temperature``. A fit starts from ``weights``, and its
    encoder from the file ``encoder_weights`` if there is one, of the part
    ``encoder_key`` where it has several; ``encoder_by_order`` if its tensors have other
    names in the encoder's order. ``license`` is that of what comes out of the fit, for
    its card. ``stain_reference`` are the stains that ``slide.stain`` brings slides to,
    the numbers of a
    :class:`digipath_ray.stain.estimate.StainEstimate`; None takes the card's. With
    ``context_mpp_factor`` the network also sees the surroundings of each patch, as many
    px that are so many times coarser.

    Of the network's ``classes``, one channel each, the tumor probability is the sum of
    ``tumor_classes``, and the whole tumor's that of ``whole_classes``, if it names
    these. It answers in logits, of which ``activation`` makes
    probabilities, or in these. A px of its answer stands for ``output_stride`` px of
    the patch; what it says within ``border_px`` of the patch's edge is not used.
    ``channel_order`` and ``layout`` are of what a network from a file takes
    (:mod:`digipath_ray.networks.from_file`); mean and std are of R, G, B in any case.
    """

    name: str
    architecture: str
    encoder: str | None = None
    weights: str | None = None
    encoder_weights: str | None = None
    encoder_key: str | None = None
    encoder_by_order: bool = False
    license: str | None = None
    digest: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    temperature: float = 1.0
    stain_reference: tuple[float, ...] | None = None
    seed: int = 0
    context_mpp_factor: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = CLASSES
    tumor_classes: tuple[str, ...] = (TUMOR,)
    whole_classes: tuple[str, ...] = ()
    output: Output = "logits"
    activation: Activation = "softmax"
    output_stride: int = 1
    border_px: int = 0
    channel_order: ChannelOrder = "RGB"
    layout: PixelLayout = "NCHW"

    def __post_init__(self) -> None:
        """Check the fields."""
        ok = bool(self.name) and all(c.isalnum() or c in "-_." for c in self.name)
        check(ok, "members.name", self.name, "letters, digits, '-', '_' and '.' only")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                check(len(value) == 3, f"members.{name}", value, "three numbers")
            check_color_scale(name, value)
        ok = self.std is None or all(s > 0 for s in self.std)
        check(ok, "members.std", self.std, "must be positive")
        check(abs(self.seed) < 1 << 63, "members.seed", self.seed, "of 64 bits")
        want = "is of encoder_weights, which are not given"
        for name in ("encoder_key", "encoder_by_order"):
            ok = not getattr(self, name) or self.encoder_weights is not None
            check(ok, f"members.{name}", getattr(self, name), want)
        name, value = "members.temperature", self.temperature
        check(0 < value < float("inf"), name, value, "must be positive")
        factor = self.context_mpp_factor
        ok = factor is None or 2 <= factor <= 64
        check(ok, "members.context_mpp_factor", factor, "must be 2 to 64")
        choices = {
            "output": Output,
            "activation": Activation,
            "channel_order": ChannelOrder,
            "layout": PixelLayout,
        }
        for name, kind in choices.items():
            check_choice(f"members.{name}", getattr(self, name), kind)
        check_answer(self, "members.")


def check_color_scale(name: str, value: tuple[float, ...] | None) -> None:
    """Refuse a mean or std of pixels on the 0..255 scale: ours are on 0..1.

    Raises:
        ValueError: a number above 1; names the divided ones.
    """
    if value is None or max(value) <= 1:
        return
    divided = ", ".join(f"{v / 255:.3g}" for v in value)
    raise ValueError(
        f"members.{name} = {', '.join(f'{v:g}' for v in value)}: on the 0..255 scale; "
        f"give it on 0..1: {divided}"
    )


def contexts_of(members: Iterable[MemberSpec]) -> tuple[int, ...]:
    """How many times coarser the contexts are that members ask for, sorted."""
    asked = {m.context_mpp_factor for m in members}
    return tuple(sorted(factor for factor in asked if factor is not None))


def check_unique(members: tuple[MemberSpec, ...]) -> None:
    """Refuse two members of one name."""
    names = [m.name for m in members]
    check(len(set(names)) == len(names), "members.name", names, "must be unique")


class Answers(Protocol):
    """What a member or its card says of a network's answer."""

    @property
    def classes(self) -> tuple[str, ...]:
        """One for each channel."""

    @property
    def tumor_classes(self) -> tuple[str, ...]:
        """Those of them that are tumor."""

    @property
    def whole_classes(self) -> tuple[str, ...]:
        """Those of them that the whole tumor consists of; empty if it does not say."""

    @property
    def output(self) -> str:
        """Logits or probabilities."""

    @property
    def activation(self) -> str:
        """What makes probabilities of logits."""

    @property
    def temperature(self) -> float:
        """What logits are divided by."""

    @property
    def output_stride(self) -> int:
        """Px of the patch that a px of the answer stands for, along a side."""

    @property
    def border_px(self) -> int:
        """What is not used along the edges of a patch."""


def check_answer(says: Answers, prefix: str = "") -> None:
    """Refuse what contradicts itself in what a member or a card says of the answer.

    Args:
        says: the member or card.
        prefix: before the names of fields in messages.

    Raises:
        ValueError: the field, its value and what it must be.
    """
    classes, tumor = says.classes, says.tumor_classes
    ok = len(classes) > 0 and len(set(classes)) == len(classes)
    check(ok, f"{prefix}classes", classes, "must be a name for each channel, each once")
    ok = len(tumor) > 0 and len(set(tumor)) == len(tumor) and set(tumor) <= {*classes}
    want = f"must be of classes {classes!r}, those that are tumor"
    check(ok, f"{prefix}tumor_classes", tumor, want)
    if says.activation == "softmax":
        ok = len(tumor) < len(classes)
        want = "must be fewer than the classes, of which a px is one (softmax)"
        check(ok, f"{prefix}tumor_classes", tumor, want)
    else:
        # Independent of each other, they would add up to more than 1.
        want = "must be one with sigmoid: independent probabilities have no sum"
        check(len(tumor) == 1, f"{prefix}tumor_classes", tumor, want)
    _check_whole(says, prefix)
    ok = says.output == "logits" or says.temperature == 1
    want = "must be 1 where a network answers in probabilities: it divides logits"
    check(ok, f"{prefix}temperature", says.temperature, want)
    ok = says.output_stride in STRIDES
    want = f"must be one of {', '.join(map(str, STRIDES))}"
    check(ok, f"{prefix}output_stride", says.output_stride, want)
    ok = 0 <= says.border_px <= MAX_BORDER_PX
    check(ok, f"{prefix}border_px", says.border_px, f"must be 0 to {MAX_BORDER_PX}")


def _check_whole(says: Answers, prefix: str) -> None:
    """Refuse classes of the whole tumor that viable tumor is no part of."""
    whole, name = says.whole_classes, f"{prefix}whole_classes"
    if not whole:
        return
    ok = len(set(whole)) == len(whole) and set(whole) <= {*says.classes}
    want = f"must be of classes {says.classes!r}, those that the whole tumor is of"
    check(ok, name, whole, want)
    if says.activation == "softmax":
        ok = {*says.tumor_classes} <= {*whole} and len(whole) < len(says.classes)
        want = (
            f"must include the tumor_classes {says.tumor_classes!r}, as viable tumor "
            "is part of the whole, and not all classes (softmax)"
        )
        check(ok, name, whole, want)
    else:
        want = "must be one with sigmoid: independent probabilities have no sum"
        check(len(whole) == 1, name, whole, want)


def check_can_be_fitted(
    member: MemberSpec,
    *,
    classes: tuple[str, ...] = CLASSES,
    tumor: tuple[str, ...] = (TUMOR,),
    whole: tuple[str, ...] = (),
) -> None:
    """Refuse a member that a fit cannot change, or whose answer it does not know.

    Args:
        member: of the recipe.
        classes: that it is fitted to tell apart, in this order.
        tumor: those of them that are tumor.
        whole: those that the whole tumor is of.

    Raises:
        ValueError: the field, its value and what it must be.
    """
    name = f"member {member.name}: architecture"
    want = "a network from a file is fixed: name one that is built here, to fit it"
    check(member.architecture not in FROM_FILE, name, member.architecture, want)
    name, weights = f"member {member.name}: weights", member.weights
    has_all = weights is not None and weights.endswith(tuple(FROM_FILE.values()))
    want = "a fit starts from .safetensors: this file holds a whole network"
    check(not has_all, name, weights, want)
    plain = MemberSpec(
        name=member.name,
        architecture=member.architecture,
        classes=classes,
        tumor_classes=tumor,
        whole_classes=whole,
    )
    for key in ANSWER:
        value, own = getattr(member, key), getattr(plain, key)
        want = f"a fit knows {own!r} only"
        if "classes" in key:
            want += ", as [classes] says: leave it out of [[members]]"
        check(value == own, f"member {member.name}: {key}", value, want)
