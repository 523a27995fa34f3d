"""The members' networks by name.

A network maps normalized pixels [B, 3, H, W] to logits [B, K, H, W], of (other, tumor)
where its card names no other classes. One with a context takes that as a second
argument of the same shape. Architectures are the classes of segmentation_models_pytorch
(smp), HookUnet, the original authors' own networks, or any installed module's
``package.module:Class``; networks of files are in ``from_file``.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from digipath_ray.config.member import FROM_FILE
from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.normalization import Normalization, normalize
from digipath_ray.networks.original import ORIGINAL_ARCHITECTURES
from digipath_ray.networks.transformers import (
    align_decoder,
    encoder_arguments,
    encoder_options,
)

PAPER_MEMBERS: tuple[MemberSpec, ...] = (
    MemberSpec(
        name="unet-densenet121",
        architecture="Unet",
        encoder="densenet121",
        options={"decoder_interpolation": "bilinear"},
    ),
    MemberSpec(
        name="unet-inceptionresnetv2",
        architecture="Unet",
        encoder="inceptionresnetv2",
        options={"decoder_interpolation": "bilinear"},
    ),
    # timm's Xception-65: smp's own "xception" cannot be dilated to output stride 16.
    MemberSpec(
        name="deeplabv3plus-xception65",
        architecture="DeepLabV3Plus",
        encoder="tu-xception65",
    ),
)
"""The paper's three networks ("Network architectures"), without weights."""


_OURS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation"}
_OURS |= {"aux_params", "kwargs", "context_mpp_factor"}


TWO_CLASSES = Answer()
"""Logits of (other, tumor), one for each px."""


class Member(nn.Module):
    """A network with its normalization: pixels in, tumor posteriors out."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        normalization: Normalization,
        answer: Answer = TWO_CLASSES,
        dtype: torch.dtype = torch.float32,
        context_mpp_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.context_mpp_factor = context_mpp_factor
        self.network = network
        self.answer = answer
        self.dtype = dtype
        for name, values in zip(("mean", "std"), normalization, strict=True):
            # Normalized in float32: a pixel's 256 steps are too fine for bfloat16.
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """The device the network is on."""
        return self.mean.device

    @torch.inference_mode()
    def forward(self, *views: Tensor) -> Tensor:
        """The tumor posterior float32 [B, H, W] of uint8 pixels [B, 3, H, W].

        Args:
            views: the patches; of a member with a context that too, of the same shape.
        """
        height, width = views[0].shape[-2:]
        return self.answer.posterior(self.answers(*views), (height, width))

    @torch.inference_mode()
    def with_sums(
        self, *views: Tensor, groups: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor]:
        """The tumor posterior, and that of groups of classes [B, groups, H, W]."""
        height, width = views[0].shape[-2:]
        answer, size = self.answers(*views), (height, width)
        tumor = self.answer.posterior(answer, size)
        return tumor, self.answer.sums(answer, size, groups)

    @torch.inference_mode()
    def answers(self, *views: Tensor) -> Tensor:
        """What the network says [B, K, h, w] of uint8 pixels [B, 3, H, W]."""
        wanted = 1 if self.context_mpp_factor is None else 2
        if len(views) != wanted:
            raise ValueError(f"{len(views)} views of the patches, not {wanted}")
        return cast(Tensor, self.network(*map(self._input, views)))

    def _input(self, pixels: Tensor) -> Tensor:
        scaled = normalize(pixels.to(self.device), self.mean, self.std)
        return scaled.to(self.dtype, memory_format=torch.channels_last)


def views_of(spec: MemberSpec) -> int:
    """How many pictures of a patch its network takes: with a context 2."""
    return 1 if spec.context_mpp_factor is None else 2


def freeze_encoder(network: nn.Module, frozen: bool) -> None:
    """Make the network's encoder keep its weights while the rest is fitted, or not.

    To be called after each ``network.train()``: a frozen encoder's batch normalization
    then keeps its statistics too.
    """
    encoder = network.get_submodule("encoder")
    encoder.requires_grad_(not frozen)
    if frozen:
        encoder.eval()


def _smp_architectures() -> dict[str, type[nn.Module]]:
    # Here and below: seconds of every process's start, and few processes build.
    import segmentation_models_pytorch as smp

    from digipath_ray.networks.hook import HookUnet

    classes = (*smp.MODEL_ARCHITECTURES_MAPPING.values(), HookUnet)
    return {c.__name__: c for c in classes}


def build_network(spec: MemberSpec) -> nn.Module:
    """The member's network, randomly weighted from ``spec.seed``; no file is read.

    With weights ``"imagenet"`` the encoder has them, by name through smp's hub.

    Raises:
        ValueError: architecture, encoder or an option is unknown, naming the known or
            closest ones; or the ImageNet weights are not to be had, saying what to do.
    """
    if spec.architecture in FROM_FILE:
        raise ValueError(
            f'member {spec.name}: architecture = "{spec.architecture}" is the network '
            f"of a {FROM_FILE[spec.architecture]} file: name it as weights"
        )
    if spec.architecture in ORIGINAL_ARCHITECTURES:
        return _build_own(spec, ORIGINAL_ARCHITECTURES[spec.architecture])
    if ":" in spec.architecture:
        return _build_own(spec, _imported_architecture(spec))
    build = _smp_architecture(spec)
    context = _context_argument(spec, build)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        try:
            options = dict(spec.options)
            if _hands_on(build):
                options = encoder_arguments(spec.encoder, options)
            network = build(
                encoder_name=spec.encoder,
                encoder_weights=_encoder_weights(spec),
                classes=len(spec.classes),
                **context,
                **options,
            )
            align_decoder(network, spec.options)
        except OSError as e:
            raise ValueError(_no_imagenet(spec)) from e
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as e:
            if _is_dilated(build) and _lacks_dilation(e):
                raise ValueError(_no_dilation(spec)) from e
            if "downsampling pattern" in str(e):
                raise ValueError(
                    f"member {spec.name}: all maps of {spec.encoder} have one scale, "
                    f'and {spec.architecture} needs several: architecture = "DPT"'
                ) from e
            raise ValueError(
                f"member {spec.name}: {spec.architecture} with {spec.encoder} and "
                f"options {spec.options} cannot be built: {e}"
            ) from e
    return cast(nn.Module, network)


def _context_argument(spec: MemberSpec, build: Any) -> dict[str, int]:
    """What a network with a context is told of it; others can have none."""
    joins = "context_mpp_factor" in inspect.signature(build).parameters
    factor = spec.context_mpp_factor
    if joins and factor is None:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} sees a context: say how many "
            "times coarser, context_mpp_factor = 4"
        )
    if factor is not None and not joins:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} sees no context: leave "
            "context_mpp_factor out, or take HookUnet"
        )
    return {} if factor is None else {"context_mpp_factor": factor}


def _hands_on(build: Any) -> bool:
    """Whether an architecture hands further arguments on to timm's encoder."""
    return "kwargs" in inspect.signature(build).parameters


def _is_dilated(build: Any) -> bool:
    """Whether an architecture dilates its encoder, as the DeepLabs and PAN do."""
    return "encoder_output_stride" in inspect.signature(build).parameters


def _lacks_dilation(error: Exception) -> bool:
    """Whether smp or timm refuse to dilate; timm asserts it without a word."""
    text = str(error)
    return isinstance(error, AssertionError) or "dilated" in text or "stride" in text


def _no_dilation(spec: MemberSpec) -> str:
    return (
        f"member {spec.name}: the encoder {spec.encoder} cannot be dilated, which "
        f"{spec.architecture} needs: take one that can (resnet50, efficientnet-b3, "
        f"mobilenet_v2, mit_b2, tu-xception65, ...), or Unet with {spec.encoder}"
    )


def _imported_architecture(spec: MemberSpec) -> type[nn.Module]:
    """The class that ``package.module:Class`` names; a network, or it is not called."""
    module, _, name = spec.architecture.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as e:
        what = f"member {spec.name}: architecture {spec.architecture!r}"
        raise ValueError(f"{what} cannot be imported: {e}") from e
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"member {spec.name}: {spec.architecture} is no class of torch.nn.Module"
        )
    return found


def _build_own(spec: MemberSpec, build: Callable[..., nn.Module]) -> nn.Module:
    """A network that is its own encoder, randomly weighted from the seed."""
    if spec.encoder is not None or spec.weights == "imagenet":
        raise ValueError(
            f"member {spec.name}: {spec.architecture} has its own encoder and no "
            "ImageNet weights: leave encoder out, and take random weights or a file"
        )
    _check_options(spec, inspect.signature(build).parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        try:
            return build(**spec.options)
        except ValueError as e:
            raise ValueError(f"member {spec.name}: {e}") from e


def _smp_architecture(spec: MemberSpec) -> Any:
    """The smp class of a member whose encoder and options it knows."""
    classes = _smp_architectures()
    if spec.architecture not in classes:
        known = [*classes, *ORIGINAL_ARCHITECTURES, *FROM_FILE]
        raise ValueError(_unknown(spec, "architecture", spec.architecture, known))
    if spec.encoder is None:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} needs an encoder, "
            'for instance encoder = "densenet121" (--encoder densenet121 of '
            "'digipath import-weights')"
        )
    _check_encoder(spec, spec.encoder)
    build = classes[spec.architecture]
    own = inspect.signature(build).parameters.keys() - _OURS
    if _hands_on(build) and not spec.options.keys() <= own:
        own |= encoder_options(spec.encoder)
    _check_options(spec, own)
    return build


def _check_options(spec: MemberSpec, known: Iterable[str]) -> None:
    for key in spec.options:
        if key not in known:
            what = f"option of {spec.architecture}"
            raise ValueError(_unknown(spec, what, key, sorted(known)))


def _check_encoder(spec: MemberSpec, encoder: str) -> None:
    import segmentation_models_pytorch as smp
    import timm

    if encoder.startswith("tu-"):
        if not timm.is_model(encoder[3:]):
            known = [f"tu-{name}" for name in timm.list_models()]
            raise ValueError(_unknown(spec, "encoder", encoder, known))
    elif encoder not in smp.encoders.get_encoder_names():
        if encoder.startswith("timm-"):
            # smp's former names of what it takes from timm now.
            name = encoder.removeprefix("timm-")
            name = f"tf_{name}" if name.startswith("mobilenetv3") else name
            if timm.is_model(name):
                raise ValueError(
                    f"member {spec.name}: the encoder {encoder} is called tu-{name} "
                    f'now: encoder = "tu-{name}"'
                )
        known = smp.encoders.get_encoder_names()
        raise ValueError(_unknown(spec, "encoder", encoder, known))


def _unknown(spec: MemberSpec, what: str, name: str, known: Iterable[str]) -> str:
    """What to say of an unknown name: the closest known ones, or all if few."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.5)
    text = f"member {spec.name}: unknown {what} {name!r}"
    if close:
        text += "; closest are " + ", ".join(by_lower[c] for c in close)
    if 0 < len(by_lower) <= 20:
        text += "; known are " + ", ".join(by_lower.values())
    return text


def _encoder_weights(spec: MemberSpec) -> str | bool | None:
    if spec.weights != "imagenet":
        return None
    # smp's name for "the weights timm has" is True.
    return True if str(spec.encoder).startswith("tu-") else "imagenet"


def _no_imagenet(spec: MemberSpec) -> str:
    return (
        f"member {spec.name}: the ImageNet weights of {spec.encoder} are not in the "
        "Hugging Face cache and cannot be fetched. Offline: copy the cache of a "
        "machine that has them (~/.cache/huggingface) and set HF_HOME to the copy; "
        'or name a .pth or .safetensors file of them: encoder_weights = "FILE" in its '
        "[[members]]; or bring trained weights: --weights (to train: --init) "
        "FILE.safetensors; or start from random ones: --init random"
    )


def paper_rows() -> list[dict[str, Any]]:
    """The paper's members as rows of [[members]], for settings that name none."""
    keys = ("name", "architecture", "encoder", "options")
    return [{key: getattr(m, key) for key in keys} for m in PAPER_MEMBERS]
