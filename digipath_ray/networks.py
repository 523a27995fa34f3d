"""The members of the ensemble by name: networks, their weights in and out.

A network maps normalized pixels [B, 3, H, W] to logits [B, 2, H, W] of (other, tumor).
Architectures are the classes of segmentation_models_pytorch (smp), or the weight-free
ones of the demo. Weights are safetensors with a model card beside them; a run never
opens a pickle, only :func:`import_checkpoint` does, and refuses code in it.
"""

import difflib
import inspect
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from digipath_ray.card import ModelCard, file_digest, read_card, write_card
from digipath_ray.config import (
    MemberSpec,
    Precision,
    RunConfig,
    Tree,
    check_tree,
    from_tree,
)

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per RGB channel, on the 0..1 scale of a pixel."""

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

MPP_AGREEMENT = 0.01
"""Relative difference of mpp within which two statements of it agree."""

_IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: Normalization = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_MID: Normalization = ((128 / 255,) * 3, (128 / 255,) * 3)
_PLAIN: Normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# smp keeps these on its hub only, out of reach offline. As in smp 0.3's sources, for
# the weights it calls "imagenet"; every encoder not named here has ImageNet's.
_ENCODER_NORMALIZATION = {
    "dpn": _DPN,
    "inceptionresnetv2": _HALF,
    "inceptionv4": _HALF,
    "timm-tf_efficientnet_lite": _HALF,
    "xception": _HALF,
}

_OURS = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation"}
_OURS |= {"aux_params", "kwargs"}


class Member(nn.Module):
    """A network with its normalization: pixels in, tumor posteriors out."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        normalization: Normalization,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype
        for name, values in zip(("mean", "std"), normalization, strict=True):
            # Normalized in float32: a pixel's 256 steps are too fine for bfloat16.
            self.register_buffer(name, torch.tensor(values).reshape(3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.mean.device

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """The tumor posterior float32 [B, H, W] of uint8 pixels [B, 3, H, W]."""
        scaled = (pixels.to(self.device).float() / 255 - self.mean) / self.std
        layout = torch.channels_last if scaled.is_cuda else torch.contiguous_format
        logits = self.network(scaled.to(self.dtype, memory_format=layout))
        return cast(Tensor, logits.float().softmax(dim=1)[:, 1])


def _demo_architectures() -> Mapping[str, type[nn.Module]]:
    # Imported late: the demo stands right of this module in the package's order.
    from digipath_ray.demo.members import DEMO_ARCHITECTURES

    return cast(Mapping[str, type[nn.Module]], DEMO_ARCHITECTURES)


def _smp_architectures() -> dict[str, type[nn.Module]]:
    classes = smp.MODEL_ARCHITECTURES_MAPPING.values()
    return {c.__name__: c for c in classes}


def is_weight_free(architecture: str) -> bool:
    """Whether the architecture has nothing to train, so needs no weights."""
    return architecture not in _smp_architectures() and (
        architecture in _demo_architectures()
    )


def build_network(spec: MemberSpec) -> nn.Module:
    """The member's network, randomly weighted from ``spec.seed``; no file is read.

    With weights ``"imagenet"`` the encoder has them, by name through smp's hub.

    Raises:
        ValueError: architecture, encoder or an option is unknown, naming the known or
            closest ones; or the ImageNet weights are not to be had, saying what to do.
    """
    if is_weight_free(spec.architecture):
        if spec.encoder is not None or spec.options:
            raise ValueError(
                f"member {spec.name}: {spec.architecture} takes no encoder or options"
            )
        return _demo_architectures()[spec.architecture]()
    build = _smp_architecture(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        try:
            network = build(
                encoder_name=spec.encoder,
                encoder_weights=_encoder_weights(spec),
                classes=2,
                **spec.options,
            )
        except OSError as e:
            raise ValueError(_no_imagenet(spec)) from e
        except (KeyError, RuntimeError, TypeError, ValueError) as e:
            raise ValueError(
                f"member {spec.name}: {spec.architecture} with {spec.encoder} and "
                f"options {spec.options} cannot be built: {e}"
            ) from e
    return cast(nn.Module, network)


def _smp_architecture(spec: MemberSpec) -> Any:
    """The smp class of a member whose encoder and options it knows."""
    classes = _smp_architectures()
    if spec.architecture not in classes:
        known = [*classes, *_demo_architectures()]
        raise ValueError(_unknown(spec, "architecture", spec.architecture, known))
    if spec.encoder is None:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} needs an encoder, "
            'for instance encoder = "densenet121"'
        )
    _check_encoder(spec, spec.encoder)
    build = classes[spec.architecture]
    options = sorted(inspect.signature(build).parameters.keys() - _OURS)
    for key in spec.options:
        if key not in options:
            what = f"option of {spec.architecture}"
            raise ValueError(_unknown(spec, what, key, options))
    return build


def _check_encoder(spec: MemberSpec, encoder: str) -> None:
    if encoder.startswith("tu-"):
        if not timm.is_model(encoder[3:]):
            known = [f"tu-{name}" for name in timm.list_models()]
            raise ValueError(_unknown(spec, "encoder", encoder, known))
    elif encoder not in smp.encoders.get_encoder_names():
        known = smp.encoders.get_encoder_names()
        raise ValueError(_unknown(spec, "encoder", encoder, known))


def _unknown(spec: MemberSpec, what: str, name: str, known: Iterable[str]) -> str:
    """What to say of an unknown name: the closest known ones, or all if few."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.5)
    text = f"member {spec.name}: unknown {what} {name!r}"
    if close:
        text += "; closest are " + ", ".join(by_lower[c] for c in close)
    if len(by_lower) <= 20:
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
        "machine that has them (~/.cache/huggingface) and set HF_HOME to the copy, or "
        "bring trained weights: --weights FILE.safetensors"
    )


def default_normalization(spec: MemberSpec) -> Normalization:
    """Mean and std where neither config nor card says them, on the 0..1 scale.

    The encoder's own; (x - 128) / 128 for random weights, the original's
    preprocessing; 0 and 1 for demo architectures.
    """
    if is_weight_free(spec.architecture):
        return _PLAIN
    if spec.weights == "random":
        return _MID
    encoder = str(spec.encoder)
    if encoder.startswith("tu-"):
        try:
            own = smp.encoders.get_preprocessing_params(encoder)
        except ValueError as e:
            raise ValueError(
                f"member {spec.name}: {encoder} has no normalization of its own, "
                "give mean and std"
            ) from e
        return tuple(own["mean"]), tuple(own["std"])
    named = (v for k, v in _ENCODER_NORMALIZATION.items() if encoder.startswith(k))
    return next(named, _IMAGENET)


def load_member(
    spec: MemberSpec,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    compile_networks: bool = False,
) -> Member:
    """The member, its weights loaded, ready to predict.

    Args:
        spec: weights are a safetensors file, "random" (from ``spec.seed``) or
            "imagenet"; a ``digest`` must be the file's.
        device: where it shall run.
        precision: float16 runs on a GPU only; auto is float16 there, else float32.
            Weight-free networks count pixels and always run in float32.
        compile_networks: torch.compile the network, for one shape of batch.

    Raises:
        ValueError: no weights, or not this network's; see also :func:`build_network`.
    """
    place = torch.device(device)
    dtype = _dtype(place, precision)
    weight_free = is_weight_free(spec.architecture)
    if spec.weights is None and not weight_free:
        raise ValueError(_no_weights([spec.name]))
    network = build_network(spec)
    path = weights_file(spec.weights)
    if path is not None:
        _load_weights(network, spec, path)
    dtype = torch.float32 if weight_free else dtype
    network = network.to(place, dtype)
    if place.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    if compile_networks:
        network = cast(nn.Module, torch.compile(network.eval(), dynamic=False))
    return Member(network, normalization=_normalization(spec), dtype=dtype).to(place)


def _normalization(spec: MemberSpec) -> Normalization:
    if spec.mean is not None and spec.std is not None:
        return spec.mean, spec.std
    mean, std = default_normalization(spec)
    return spec.mean or mean, spec.std or std


def _dtype(device: torch.device, precision: Precision) -> torch.dtype:
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"precision = 'float16': needs a GPU, not {device}; take float32"
        )
    return cast(torch.dtype, getattr(torch, precision))


def weights_file(weights: str | None) -> Path | None:
    """The safetensors file that a member's ``weights`` name, None if they name none."""
    if weights is None or weights in ("random", "imagenet"):
        return None
    path = Path(weights).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights {weights}: neither random, imagenet nor a .safetensors file; "
            "digipath_ray.networks.import_checkpoint turns a .pth file into one"
        )
    return path


def _load_weights(network: nn.Module, spec: MemberSpec, path: Path) -> None:
    if spec.digest is not None and file_digest(path) != spec.digest:
        raise ValueError(
            f"weights {path}: not the file the run was set up with, its SHA-256 is not "
            f"{spec.digest[:12]}..."
        )
    _check_fit(network, path, spec)
    network.load_state_dict(load_file(path), strict=True)


def _check_fit(network: nn.Module, path: Path, spec: MemberSpec) -> None:
    """Refuse a file whose tensors have other names or shapes than the network's."""
    misfits = _misfits(network, _read_shapes(path))
    if misfits:
        card = read_card(path)
        raise ValueError(
            f"member {spec.name}: {path} are weights of another architecture than "
            f"{spec.architecture} with {spec.encoder} and options {spec.options}: "
            f"{misfits}; its card says {card.architecture} with {card.encoder} and "
            f"options {card.options}"
        )


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a safetensors file, from its header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as e:
        raise ValueError(f"weights {path}: no such file") from e
    except SafetensorError as e:
        raise ValueError(f"weights {path}: not a safetensors file: {e}") from e


def _misfits(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What keeps tensors of these shapes from being the network's; empty if nothing."""
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    kinds = {
        "missing": sorted(own.keys() - shapes.keys()),
        "unexpected": sorted(shapes.keys() - own.keys()),
        "of another shape": [
            f"{k} {list(shapes[k])} for {list(own[k])}"
            for k in sorted(own.keys() & shapes.keys())
            if own[k] != shapes[k]
        ],
    }
    return "; ".join(
        f"{len(found)} {kind} ({', '.join(found[:3])}{', ...' * (len(found) > 3)})"
        for kind, found in kinds.items()
        if found
    )


def _check_finite(tensors: Iterable[tuple[str, Tensor]], source: Path) -> None:
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"weights {source}: {name} holds NaN or infinite numbers")


def _check_file_finite(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        _check_finite(((k, file.get_tensor(k)) for k in file.keys()), path)  # noqa: SIM118 - no mapping


def import_checkpoint(
    source_pth: str | Path, destination: str | Path, card: ModelCard
) -> ModelCard:
    """Write a .pth checkpoint as safetensors with its card, once it fits the card.

    Args:
        source_pth: a state_dict, bare or under the key ``state_dict``, its names with
            or without the ``module.`` of data-parallel training. Read with
            ``weights_only=True``: code in it is refused, not run.
        destination: the .safetensors file to write.
        card: what it holds; its digest is replaced by the new file's.

    Returns:
        The card as written.
    """
    source, target = Path(source_pth), weights_file(str(destination))
    if target is None:
        raise ValueError(f"destination {destination}: must be a .safetensors file")
    tensors = _read_checkpoint(source)
    spec = MemberSpec(
        name=card.name,
        architecture=card.architecture,
        encoder=card.encoder,
        options=card.options,
    )
    network = build_network(spec)
    if misfits := _misfits(network, {k: tuple(v.shape) for k, v in tensors.items()}):
        raise ValueError(
            f"checkpoint {source}: not the weights of {card.architecture} with "
            f"{card.encoder} and options {card.options}: {misfits}"
        )
    _check_finite(tensors.items(), source)
    save_weights(tensors, target)
    written = replace(card, digest=file_digest(target))
    write_card(target, written)
    return written


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a state_dict as a safetensors file."""
    # Cloned: safetensors refuses tensors that share their storage.
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})


def _read_checkpoint(source: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise ValueError(f"checkpoint {source}: no such file") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        raise ValueError(
            f"checkpoint {source}: not a PyTorch file of tensors alone: {e}"
        ) from e
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    ok = isinstance(content, dict) and len(content) > 0
    if not ok or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"checkpoint {source}: holds no state_dict")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def resolve(
    tree: Tree, *, weights: str | Path | None = None, force: bool = False
) -> RunConfig:
    """The final config of what was said: cards read, defaults filled in, all checked.

    Args:
        tree: what preset, file and command line said; without members, the paper's.
        weights: "random" or "imagenet" for all members, or a .safetensors file or a
            directory of them, whose cards then say the members.
        force: take what the tree says where a card says otherwise (mpp by more than
            1 %, mean, std).

    Returns:
        A config whose members have mean, std, and for files path and digest. What the
        tree does not say of mpp and patch_px comes from the cards; a stride nobody
        said is half the patch (the paper's 50 % overlap).

    Raises:
        ValueError: a member has no weights, or they, its card and its network do not
            fit together, hold NaN, or members disagree on mpp.
    """
    check_tree(tree)
    rows = _member_rows(tree, weights)
    weightless = [str(row.get("name")) for row in rows if _lacks_weights(row)]
    if weightless:
        raise ValueError(_no_weights(weightless))
    carded = [_with_card(row, force=force) for row in rows]
    cards = [card for _, card in carded if card is not None]
    grid = _grid_section(tree.get("grid", {}), cards, force=force)
    members = [row for row, _ in carded]
    config = from_tree({**tree, "grid": grid, "members": members})
    for spec in config.members:
        check_member(spec, patch_px=config.grid.patch_px)
    return replace(config, members=tuple(_normalized(m) for m in config.members))


def _member_rows(tree: Tree, weights: str | Path | None) -> list[dict[str, Any]]:
    rows = [dict(row) for row in tree.get("members", _paper_rows())]
    if weights is None:
        return rows
    if str(weights) in ("random", "imagenet"):
        for row in rows:
            if not is_weight_free(str(row.get("architecture"))):
                row["weights"] = str(weights)
        return rows
    return [{"weights": str(path)} for path in _found_weights(Path(weights))]


def _paper_rows() -> list[dict[str, Any]]:
    keys = ("name", "architecture", "encoder", "options")
    return [{key: getattr(m, key) for key in keys} for m in PAPER_MEMBERS]


def _found_weights(path: Path) -> list[Path]:
    """The safetensors files that ``--weights`` names, in order of their names."""
    path = path.expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if not found:
            raise ValueError(f"weights {path}: no .safetensors file in this directory")
        return found
    return [path]


def _lacks_weights(row: Mapping[str, Any]) -> bool:
    weights = row.get("weights")
    return weights is None and not is_weight_free(str(row.get("architecture")))


def _no_weights(names: list[str]) -> str:
    return (
        f"no weights for {', '.join(names)}: give --weights DIR with a .safetensors "
        "file and its card for each member, or --weights random to try the plumbing"
    )


def _with_card(
    row: dict[str, Any], *, force: bool
) -> tuple[dict[str, Any], ModelCard | None]:
    """A member's row with what the card of its weights says, and the card."""
    path = weights_file(str(row["weights"])) if "weights" in row else None
    if path is None:
        return row, None
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file")
    card, digest = read_card(path), file_digest(path)
    if not card.digest == row.get("digest", digest) == digest:
        raise ValueError(
            f"weights {path}: SHA-256 is {digest[:12]}..., but {card.digest[:12]}... "
            f"in its card and {str(row.get('digest', 'nothing'))[:12]} in the config: "
            "the file was changed, or its card belongs to another"
        )
    keys = ("architecture", "encoder", "options", "mean", "std")
    stated = {key: getattr(card, key) for key in keys}
    for key in keys:
        _check_stated(row, key, stated[key], path, force=force)
    # Absolute: the workers of a cluster start in directories of their own.
    place = {"weights": str(path.resolve()), "digest": digest}
    return {"name": card.name, **stated, **row, **place}, card


def _check_stated(
    row: Mapping[str, Any], key: str, stated: Any, path: Path, *, force: bool
) -> None:
    """Refuse a config that says another ``key`` than the card of its weights."""
    said = row.get(key, stated)
    said = tuple(said) if isinstance(said, list) else said
    if said == stated:
        return
    told = f"weights {path}: their card says {key} = {stated!r}, the config {said!r}"
    if key in ("architecture", "encoder", "options"):
        raise ValueError(f"{told}: these are weights of another architecture")
    if not force:
        raise ValueError(f"{told}; --force takes the config's")


def _grid_section(
    said: Mapping[str, Any], cards: list[ModelCard], *, force: bool
) -> dict[str, Any]:
    """The tree's [grid] with what it does not say taken from the cards."""
    grid = dict(said)
    if cards:
        _check_cards_agree(cards)
        mpp = grid.setdefault("mpp", cards[0].mpp)
        known = isinstance(mpp, (int, float))  # else from_tree tells of the type
        if known and not force and not _agree(mpp, cards[0].mpp):
            raise ValueError(
                f"grid.mpp = {mpp:g}, but the members were trained at "
                f"{cards[0].mpp:g} um/px: leave mpp out, or --force"
            )
        if "patch_px" not in grid:
            grid["patch_px"] = _common_patch(cards)
    if isinstance(grid.get("patch_px"), int):
        grid.setdefault("stride_px", grid["patch_px"] // 2)
    return grid


def _agree(mpp: float, other: float) -> bool:
    return abs(mpp / other - 1) <= MPP_AGREEMENT


def _check_cards_agree(cards: list[ModelCard]) -> None:
    for card in cards[1:]:
        if not _agree(card.mpp, cards[0].mpp):
            raise ValueError(
                f"member {card.name} was trained at {card.mpp:g} um/px, member "
                f"{cards[0].name} at {cards[0].mpp:g}: they cannot run together"
            )


def _common_patch(cards: list[ModelCard]) -> int:
    sizes = sorted({card.patch_px for card in cards})
    if len(sizes) > 1:
        raise ValueError(
            f"members were trained on patches of {sizes} px: choose with --patch-px"
        )
    return sizes[0]


def _normalized(spec: MemberSpec) -> MemberSpec:
    mean, std = _normalization(spec)
    return replace(spec, mean=mean, std=std)


def check_member(spec: MemberSpec, *, patch_px: int) -> None:
    """Build the member and check its weights, so that no run fails over it at night.

    Raises:
        ValueError: as :func:`load_member`; a weight is NaN or infinite; or the network
            cannot take patches of ``patch_px``.
    """
    network = build_network(spec)
    if is_weight_free(spec.architecture):
        return
    path = weights_file(spec.weights)
    if path is not None:
        _check_fit(network, path, spec)
        _check_file_finite(path)
    patch = torch.empty((1, 3, patch_px, patch_px), device="meta")
    try:
        # On the device "meta" shapes are worked out and nothing is computed.
        answer = network.to("meta").eval()(patch).shape
    except (AssertionError, RuntimeError) as e:
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} cannot take "
            f"patches of {patch_px} px: {e}"
        ) from e
    if answer != (1, 2, patch_px, patch_px):
        raise ValueError(
            f"member {spec.name}: {spec.architecture} with {spec.encoder} answers "
            f"patches of {patch_px} px in shape {tuple(answer)}"
        )
