"""A torch checkpoint of someone else as the weights of a network of ours.

Finds the state_dict among what training frameworks store beside it, drops the prefixes
that they put before its names, and turns a head of one logit into two classes.
"""

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]

KEYS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights"),
    *("network_weights", "student"),
)
"""Under which a state_dict is stored."""
AVERAGED = (
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model"),
    "teacher",
)
"""Under which a running mean of it is stored, which is another network."""
PREFIXES = (
    *("module.", "model.", "_orig_mod.", "net.", "network.", "ema_model."),
    *("online_model.", "model_ema.", "ema.", "teacher.", "student."),
)
"""Of data-parallel training, Lightning, torch.compile and users' own wrappers."""
CLASSES = 2
SCALARS = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]
"""numpy's numbers, which many training loops store beside the weights; no code."""
SETTINGS = [argparse.Namespace]
"""What a trainer was called with: attributes alone, no code."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Weights under a network's own names.

    Attributes:
        tensors: in float32, by name.
        notes: what was used, changed or left out, a sentence each.
        one_logit: its single logit became two classes.
    """

    tensors: Tensors
    notes: tuple[str, ...] = ()
    one_logit: bool = False


def read_checkpoint(source: Path, *, key: str | None = None) -> Tensors:
    """The tensors of a .pth, .pt, .ckpt or .safetensors file by their names there.

    A torch checkpoint is a pickle: any code in it is refused, not run.

    Args:
        source: the file.
        key: under which the state_dict is stored; None where only one fits.

    Raises:
        ValueError: no state_dict, several, or Python objects; says what is there.
    """
    if source.suffix.lower() == ".safetensors":
        return _of_key(_read_safetensors(source), key, source)
    content = _load(source)
    if _is_state_dict(content):
        return _of_key(content, key, source)
    found = {k: content[k] for k in (*KEYS, *AVERAGED) if k in content}
    if key is not None and isinstance(content.get(key), Mapping):
        found = {key: content[key]}
    # One level deeper, as DINOv2 has it: {"model": {"teacher": ..., "student": ...}}.
    for name, inner in list(found.items()):
        if isinstance(inner, Mapping) and not _is_state_dict(inner):
            deeper = {f"{name}.{k}": inner[k] for k in (*KEYS, *AVERAGED) if k in inner}
            found = {**found, **deeper}
    found = {k: v for k, v in found.items() if _is_state_dict(v)}
    if key in found:
        return dict(found[str(key)])
    if not found or (key is not None and len(found) > 1):
        what = "holds no state_dict" if key is None else f"no state_dict under {key!r}"
        raise ValueError(
            f"checkpoint {source}: {what}, {_list(content)}: give --key "
            "(encoder_key of an encoder), or save model.state_dict() alone"
        )
    if len(found) > 1:
        raise ValueError(
            f"checkpoint {source}: weights under {' and '.join(found)}, which differ: "
            f"give --key {' or --key '.join(found)} (encoder_key of an encoder)"
        )
    return _of_key(next(iter(found.values())), key, source)


def _of_key(tensors: Mapping[str, Tensor], key: str | None, source: Path) -> Tensors:
    """Those whose names begin with the key, as ``ema_model.`` beside ``model.``."""
    if key is None:
        return dict(tensors)
    chosen = {k: v for k, v in tensors.items() if k.startswith(f"{key}.")}
    if not chosen:
        parts = sorted({name.partition(".")[0] for name in tensors})
        raise ValueError(
            f"checkpoint {source}: no state_dict under {key!r}, and no name in it "
            f"begins with it, but with {', '.join(parts[:8])}"
        )
    return chosen


def merged(
    names: Mapping[str, str], tensors: Mapping[str, Tensor], source: Path | str
) -> Tensors:
    """Tensors by their new names.

    Args:
        names: old name -> new one.
        tensors: by old names.
        source: the file, for messages.

    Raises:
        ValueError: two tensors have one new name, such as a running mean beside what it
            is of; says what to give.
    """
    first: dict[str, str] = {}
    for old, new in names.items():
        if new in first:
            one, two = (n.partition(".")[0] for n in (first[new], old))
            raise ValueError(
                f"checkpoint {source}: {first[new]} and {old} are both {new} of the "
                f"network: give --key {one} or --key {two} (encoder_key of an encoder)"
            )
        first[new] = old
    return {new: tensors[old] for new, old in first.items()}


def _read_safetensors(source: Path) -> Tensors:
    try:
        return load_file(source)
    except FileNotFoundError as e:
        raise ValueError(f"checkpoint {source}: file not found") from e
    except SafetensorError as e:
        raise ValueError(f"checkpoint {source}: not a safetensors file: {e}") from e


def _load(source: Path) -> dict[Any, Any]:
    """What torch stored, a dict.

    Torch's own message speaks of options that a user of ours cannot set.
    """
    fix = "save it with torch.save(model.state_dict(), 'weights.pth')"
    try:
        with (
            torch.serialization.safe_globals([*SCALARS, *SETTINGS]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of TorchScript, which is refused below
            content = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise ValueError(f"checkpoint {source}: file not found") from e
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as e:
        text = str(e)
        if "TorchScript" in text or "torch.jit" in text or "constants.pkl" in text:
            raise ValueError(
                f"checkpoint {source}: a TorchScript archive, not a PyTorch file of "
                f"tensors alone: {fix}"
            ) from e
        named = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"an object of {named[1]}" if named else "no tensors that can be read"
        raise ValueError(
            f"checkpoint {source}: not a PyTorch file of tensors alone, it holds "
            f"{what}: {fix}"
        ) from e
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(
            f"checkpoint {source}: holds no state_dict but a {kind}: {fix}"
        )
    return content


def _is_state_dict(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(v, Tensor) for v in content.values())
    )


def _list(content: Mapping[Any, Any]) -> str:
    return f"but {', '.join(map(repr, content))}" if content else "it is empty"


def adapt(
    tensors: Mapping[str, Tensor], network: nn.Module, source: Path | str = ""
) -> Adapted:
    """Weights by the network's names; what does not fit stays for its check to name.

    Of names with a prefix, those without are no part of the network (losses, metrics,
    buffers of a normalization): left out, and noted.

    Raises:
        ValueError: two of them are one tensor of the network; see :func:`merged`.
    """
    own = network.state_dict()
    short = {name: _without_prefix(name, own) for name in tensors}
    known = {name for name, mine in short.items() if mine in own}
    prefixed = any(short[name] != name for name in known)
    beside = [name for name in tensors if prefixed and name not in known]
    kept = {name: mine for name, mine in short.items() if name not in beside}
    found = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in merged(kept, tensors, source).items()
    }
    notes = [f"of {len(tensors)} tensors {len(found.keys() & own.keys())} are used"]
    if beside:
        notes.append(f"left out, no part of the network: {', '.join(beside)}")
    found, one_logit = _two_classes(found, own)
    if one_logit:
        notes.append("its one logit became two classes: other 0, tumor the logit")
    return Adapted(tensors=found, notes=tuple(notes), one_logit=one_logit)


def own_normalization(
    tensors: Mapping[str, Tensor],
) -> tuple[list[float], list[float]] | None:
    """Mean and std [3] that a checkpoint has as buffers; None without both.

    Training wrappers of segmentation networks keep them beside the network's weights.
    """
    found = {
        name.rpartition(".")[2]: tensor.flatten().tolist()
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] in ("mean", "std") and tensor.numel() == 3
    }
    return (found["mean"], found["std"]) if len(found) == 2 else None


def _without_prefix(name: str, own: Mapping[str, Tensor]) -> str:
    """A tensor's name in the network, if some of PREFIXES stand before it."""
    short = name
    while short not in own:
        prefix = next((p for p in PREFIXES if short.startswith(p)), None)
        if prefix is None:
            return name
        short = short.removeprefix(prefix)
    return short


def _two_classes(tensors: Tensors, own: Mapping[str, Tensor]) -> tuple[Tensors, bool]:
    """A last layer of one logit z as two, (0, z): their softmax is z's sigmoid."""
    single = [
        name
        for name, tensor in tensors.items()
        if name in own
        and tensor.shape[:1] == (1,)
        and own[name].shape == (CLASSES, *tensor.shape[1:])
    ]
    layers = {name.rpartition(".")[0] for name in single}
    if len(layers) != 1:
        return tensors, False
    doubled = {
        name: torch.cat([torch.zeros_like(tensors[name]), tensors[name]])
        for name in single
    }
    return {**tensors, **doubled}, True


def classes_of_head(tensors: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """How many classes the file's last layer has where the network's has others."""
    own = network.state_dict()
    other = {
        name.rpartition(".")[0]: tensor.shape[0]
        for name, tensor in tensors.items()
        if name in own
        and tensor.ndim == own[name].ndim > 0
        and tensor.shape[1:] == own[name].shape[1:]
        and tensor.shape != own[name].shape
    }
    return next(iter(other.values())) if len(other) == 1 else None


def swap_classes(tensors: Mapping[str, Tensor], network: nn.Module) -> Tensors:
    """Weights whose classes are (tumor, other) as (other, tumor).

    Raises:
        ValueError: the network has no last layer of two classes.
    """
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == CLASSES
    ]
    if not layers:
        raise ValueError("--tumor-channel: no layer of two classes in this network")
    ours = {f"{layers[-1]}.{kind}" for kind in ("weight", "bias")}
    return {k: v.flip(0) if k in ours else v for k, v in tensors.items()}
