"""Loads and saves the weights of a member: safetensors, checked against its card.

A run loads safetensors, ONNX and programs of torch.export as data, and never a pickle;
``import_weights`` converts others.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from digipath_ray.config.member import FROM_FILE
from digipath_ray.config.run import MemberSpec, Precision
from digipath_ray.machine import check_compiler
from digipath_ray.networks.answers import Answer
from digipath_ray.networks.build import Member, build_network, views_of
from digipath_ray.networks.card import ModelCard, read_card, stated_by
from digipath_ray.networks.compiled import Compiled
from digipath_ray.networks.folding import fold_batch_norm
from digipath_ray.networks.from_file import load_network
from digipath_ray.networks.normalization import normalization_of
from digipath_ray.networks.transformers import fix_positions
from digipath_ray.networks.weight_files import weights_digest, weights_file


def load_member(
    spec: MemberSpec,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "float32",
    compile_networks: bool = False,
    patch_px: int | None = None,
) -> Member:
    """The member, its weights loaded, ready to predict.

    Args:
        spec: weights are a safetensors file, "random" (from ``spec.seed``) or
            "imagenet"; a ``digest`` must be the file's.
        device: where it shall run.
        precision: float16 runs on a GPU only; auto is float16 there, else float32.
        compile_networks: torch.compile the network, for one shape of batch.
        patch_px: side of the patches to come, for which a transformer's position
            embeddings are interpolated now; None: for every batch.

    Raises:
        ValueError: no weights, or not this network's; see also :func:`build_network`.
    """
    place = torch.device(device)
    dtype = dtype_on(place, precision)
    if spec.weights is None:
        raise ValueError(no_weights([spec.name]))
    path = weights_file(spec.weights)
    if path is not None and spec.architecture in FROM_FILE:
        return _from_file(spec, path, place)
    network = build_network(spec)
    if path is not None:
        _load_weights(network, spec, path)
    if patch_px is not None:
        fix_positions(network, patch_px)
    network = fold_batch_norm(network.eval(), views=views_of(spec))
    network = network.to(place, dtype).to(memory_format=torch.channels_last)
    if compile_networks:
        check_compiler()
        network = Compiled(network)
    return Member(
        network,
        normalization=normalization_of(spec),
        answer=Answer.of(spec),
        dtype=dtype,
        context_mpp_factor=spec.context_mpp_factor,
    ).to(place)


def _from_file(spec: MemberSpec, path: Path, place: torch.device) -> Member:
    """A member whose file holds the network: it runs in the file's own numbers.

    What is done to networks that are built here is not done to it: half precision,
    folding and compiling.
    """
    _check_digest(spec, path)
    return Member(
        load_network(spec, path, place),
        normalization=normalization_of(spec),
        answer=Answer.of(spec),
    ).to(place)


def card_spec(card: ModelCard, path: Path) -> MemberSpec:
    """The member that a weights file and its card describe."""
    return MemberSpec(
        name=card.name,
        weights=str(path),
        digest=card.digest,
        **stated_by(card),
    )


def no_weights(names: list[str]) -> str:
    """The error message for members without weights."""
    return (
        f"no weights for {', '.join(names)}: give --weights DIR with a .safetensors "
        "file and its card for each member, or --weights random to test the "
        "installation"
    )


def dtype_on(device: torch.device, precision: Precision) -> torch.dtype:
    """In which numbers a network computes on a device: auto is float16 on a GPU only.

    Raises:
        ValueError: float16 on a CPU, or bfloat16 on one without it.
    """
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision == "float16" and device.type != "cuda":
        raise ValueError(
            f"precision = 'float16': needs a GPU, not {device}; take float32"
        )
    if precision == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        raise ValueError(
            "precision = 'bfloat16': this CPU has none, and would take dozens of times "
            "as long as in float32: take float32"
        )
    return cast(torch.dtype, getattr(torch, precision))


def cpu_has_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16 itself (AVX-512, AMX, Arm's BF16)."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and bool(known())


def _load_weights(network: nn.Module, spec: MemberSpec, path: Path) -> None:
    _check_digest(spec, path)
    check_fit(network, path, spec)
    network.load_state_dict(load_file(path), strict=True)


def _check_digest(spec: MemberSpec, path: Path) -> None:
    if spec.digest is not None and weights_digest(path) != spec.digest:
        raise ValueError(
            f"weights {path}: not the file the run was set up with, its SHA-256 is not "
            f"{spec.digest[:12]}..."
        )


def check_fit(network: nn.Module, path: Path, spec: MemberSpec) -> None:
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
        raise ValueError(f"weights {path}: file not found") from e
    except SafetensorError as e:
        raise ValueError(f"weights {path}: not a safetensors file: {e}") from e


def _misfits(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, most: int = 3
) -> str:
    """What keeps tensors of these shapes from being the network's; empty if nothing.

    Of each kind ``most`` are named.
    """
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
    more = {kind: ", ..." * (len(found) > most) for kind, found in kinds.items()}
    return "; ".join(
        f"{len(found)} {kind} ({', '.join(found[:most])}{more[kind]})"
        for kind, found in kinds.items()
        if found
    )


def _check_finite(tensors: Iterable[tuple[str, Tensor]], source: Path) -> None:
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"weights {source}: {name} holds NaN or infinite numbers")


def check_file_finite(path: Path) -> None:
    """Refuse a file in which a tensor holds NaN or infinite numbers."""
    with safe_open(path, framework="pt") as file:
        _check_finite(((k, file.get_tensor(k)) for k in file.keys()), path)  # noqa: SIM118 - no mapping


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a state_dict as a safetensors file.

    Raises:
        OSError: it cannot be written.
    """
    # Cloned: safetensors refuses tensors that share their storage.
    whole = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    # In memory first: the errors of safetensors' own writer have no errno.
    path.write_bytes(save(whole, metadata={"format": "pt"}))
