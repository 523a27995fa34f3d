"""A torch checkpoint of someone else as the weights of a network of ours.

Finds the state_dict among what training frameworks store beside it, drops the prefixes
that they put before its names, and turns a head of one logit into two classes.
"""

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

KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
"""Under which a state_dict is stored."""
AVERAGED = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model")
"""Under which a running mean of it is stored, which is another network."""
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "ema_model.")
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


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Weights under a network's own names.

    Attributes:
        tensors: in float32, by name.
        notes: what was changed or left out, a sentence each.
    """

    tensors: Tensors
    notes: tuple[str, ...] = ()


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
        return _read_safetensors(source)
    content = _load(source)
    if key is not None:
        if not _is_state_dict(content.get(key)):
            raise ValueError(
                f"checkpoint {source}: no state_dict under {key!r}, {_list(content)}"
            )
        return dict(content[key])
    if _is_state_dict(content):
        return dict(content)
    found = [k for k in (*KEYS, *AVERAGED) if _is_state_dict(content.get(k))]
    if len(found) > 1:
        raise ValueError(
            f"checkpoint {source}: weights under {' and '.join(found)}, which differ: "
            f"give --key {' or --key '.join(found)}"
        )
    if not found:
        raise ValueError(
            f"checkpoint {source}: holds no state_dict, {_list(content)}: give "
            "--key, or save model.state_dict() alone"
        )
    return dict(content[found[0]])


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
        with torch.serialization.safe_globals(SCALARS), warnings.catch_warnings():
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


def adapt(tensors: Mapping[str, Tensor], network: nn.Module) -> Adapted:
    """Weights by the network's names; what does not fit stays for its check to name.

    Of names with a prefix, those without are no part of the network (losses, metrics,
    buffers of a normalization): left out, and noted.
    """
    own = network.state_dict()
    short = {name: _without_prefix(name, own) for name in tensors}
    known = {name for name, mine in short.items() if mine in own}
    prefixed = any(short[name] != name for name in known)
    beside = [name for name in tensors if prefixed and name not in known]
    found = {
        short[name]: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name not in beside
    }
    notes = []
    if beside:
        notes.append(f"left out, no part of the network: {', '.join(beside)}")
    found, one_logit = _two_classes(found, own)
    if one_logit:
        notes.append("its one logit became two classes: other 0, tumor the logit")
    return Adapted(tensors=found, notes=tuple(notes))


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
