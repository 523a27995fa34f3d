"""Loads Keras weight files (.h5 of tf.keras) into the original networks.

The file has no architecture: attribute ``layer_names`` lists its layers in graph order,
and each layer's group lists ``weight_names``. Layers with explicit names are matched by
name; numbered ones (conv2d_37) by order, since the numbers depend on the models built
before. Needs only h5py.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from digipath_ray.networks.original.inception import CenteredNorm
from digipath_ray.networks.original.network import OriginalNetwork

CLASSIFIER = "custom_logits_semantic"
"""Name of DeepLab's last layer if its classes are not Pascal VOC's."""
VOC_CLASSIFIER = "logits_semantic"

Pair = tuple["KerasLayer", nn.Module]

_TELLING = {
    "conv1_conv": "OriginalUnetDenseNet121",
    "conv_7b": "OriginalUnetInceptionResNetV2",
    "entry_flow_conv1_1": "OriginalDeepLabV3Plus",
}
"""A layer unique to each architecture."""


@dataclass(frozen=True, kw_only=True)
class KerasLayer:
    """A layer of a file: its name, and its HDF5 datasets by kind ("kernel")."""

    name: str
    datasets: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Normalized name: tf.keras 1.14 has conv1/conv, later versions conv1_conv."""
        return self.name.replace("/", "_")


def read_keras_file(
    path: Path, network: OriginalNetwork, *, new_classifier: bool = False
) -> dict[str, Tensor]:
    """Load a file's weights into the network; returns its state_dict.

    Args:
        path: file of ``save_weights``, or of ``save`` (under ``model_weights``).
        network: network of the saved architecture.
        new_classifier: keep DeepLab's last layer, to start training from weights of
            other classes.

    Raises:
        ValueError: h5py is missing, or the file cannot be read or is of another
            network; names the Keras layer that is missing, left over or has the wrong
            shape.
    """
    if new_classifier and CLASSIFIER not in _named_modules(network):
        raise ValueError(
            f"weights {path}: only OriginalDeepLabV3Plus supports a new classifier"
        )
    with _opened(path) as file:
        layers = _read_layers(path, file)
        skip = {CLASSIFIER, VOC_CLASSIFIER} if new_classifier else set()
        pairs = _pair(path, network, layers, skip=skip)
        for layer, module in pairs:
            _check_layer(path, layer, module)
        for layer, module in pairs:
            _fill(path, layer, module)
    return network.state_dict()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as e:
        raise ValueError(
            f"weights {path}: reading Keras files needs h5py: pip install h5py"
        ) from e
    if not path.is_file():
        raise ValueError(f"weights {path}: file not found")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as e:
        raise ValueError(f"weights {path}: not an HDF5 file, or damaged: {e}") from e


def _read_layers(path: Path, file: Any) -> list[KerasLayer]:
    """Layers with weights, in file order."""
    root = file.get("model_weights", file)
    names = _attribute(root, "layer_names")
    if not names:
        raise ValueError(
            f"weights {path}: no layer_names: not written by save_weights of "
            "tf.keras (.weights.h5 files of Keras 3 are not supported)"
        )
    layers = []
    for name in names:
        if name not in root:
            raise ValueError(f"weights {path}: layer {name} is listed but missing")
        datasets = _datasets(path, name, root[name])
        if datasets:
            layers.append(KerasLayer(name=name, datasets=datasets))
    return layers


def _attribute(group: Any, name: str) -> list[str]:
    """Read a list of strings, which Keras splits into name0, name1, ... if long."""
    values, part = list(group.attrs.get(name, [])), 0
    while f"{name}{part}" in group.attrs:
        values += list(group.attrs[f"{name}{part}"])
        part += 1
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _datasets(path: Path, layer: str, group: Any) -> dict[str, Any]:
    """Kind of weight -> dataset; "conv1/conv/kernel:0" is of kind "kernel"."""
    found = {}
    for name in _attribute(group, "weight_names"):
        if name not in group or not hasattr(group[name], "shape"):
            raise ValueError(f"weights {path}: layer {layer} lacks its weight {name}")
        found[name.rsplit("/", 1)[-1].split(":")[0]] = group[name]
    return found


def _pair(
    path: Path, network: OriginalNetwork, layers: list[KerasLayer], *, skip: set[str]
) -> list[Pair]:
    """Match each layer of the file with a module; none of either may be left over.

    Names in ``skip`` are excluded.
    """
    named = {k: v for k, v in _named_modules(network).items() if k not in skip}
    by_key = {layer.key: layer for layer in layers if layer.key not in skip}
    if missing := [key for key in named if key not in by_key]:
        raise ValueError(f"weights {path}: {_raise_missing(missing, named, by_key)}")
    pairs = [(by_key[key], module) for key, module in named.items()]
    rest = [layer for key, layer in by_key.items() if key not in named]
    counted = network.counted_layers()
    for kind, mark in ((nn.Conv2d, "kernel"), (nn.BatchNorm2d, "moving_mean")):
        matching = [layer for layer in rest if mark in layer.datasets]
        modules = [module for module in counted if isinstance(module, kind)]
        pairs += _pair_in_order(path, matching, modules)
        rest = [layer for layer in rest if mark not in layer.datasets]
    if rest:
        raise ValueError(
            f"weights {path}: layer {rest[0].name} matches no layer of the network"
        )
    return pairs


def _named_modules(network: OriginalNetwork) -> dict[str, nn.Module]:
    """Keras name -> module, for layers with an explicit name."""
    counted = set(network.counted_layers())
    return {
        name.split(".", 1)[1].replace(".", "_"): module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module not in counted
    }


def _raise_missing(
    missing: list[str],
    named: Mapping[str, nn.Module],
    by_key: Mapping[str, KerasLayer],
) -> str:
    more = ", ..." * (len(missing) > 3)
    text = f"{len(missing)} missing layers ({', '.join(missing[:3])}{more})"
    if missing == [CLASSIFIER] and VOC_CLASSIFIER in by_key:
        return (
            f"{text}; these weights are of Pascal VOC: to start from them, give "
            "--new-classifier"
        )
    looks = [
        name
        for layer, name in _TELLING.items()
        if layer in by_key and layer not in named
    ]
    return f"{text}; the file looks like {looks[0]}" if looks else text


def _pair_in_order(
    path: Path, layers: list[KerasLayer], modules: Sequence[nn.Module]
) -> list[Pair]:
    """Match layers and modules by order.

    Raises:
        ValueError: the numbers differ; names the first layer that does not match.
    """
    pairs = list(zip(layers, modules, strict=False))
    if len(layers) == len(modules):
        return pairs
    wrong = [layer.name for layer, module in pairs if _misfit(layer, module)]
    wrong += [layer.name for layer in layers[len(modules) :]]
    raise ValueError(
        f"weights {path}: {len(layers)} numbered layers, expected {len(modules)}; "
        f"the first mismatch is {[*wrong, 'after the last'][0]}"
    )


def _views(module: nn.Module) -> dict[str, Tensor]:
    """Kind of weight -> view of the module's tensor, axes in Keras order."""
    if isinstance(module, nn.Conv2d):
        # Keras: height, width, inputs, outputs; depthwise: height, width, channels, 1.
        weight = module.weight.detach()
        if module.groups > 1:
            found = {"depthwise_kernel": weight.permute(2, 3, 0, 1)}
        else:
            found = {"kernel": weight.permute(2, 3, 1, 0)}
        return found if module.bias is None else {**found, "bias": module.bias.detach()}
    assert isinstance(module, nn.BatchNorm2d)
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = (
        {} if isinstance(module, CenteredNorm) else {"gamma": module.weight.detach()}
    )
    return {
        **scale,
        "beta": module.bias.detach(),
        "moving_mean": module.running_mean,
        "moving_variance": module.running_var,
    }


def _misfit(layer: KerasLayer, module: nn.Module) -> str:
    """Mismatch of a layer and a module; empty if none."""
    there = {kind: list(dataset.shape) for kind, dataset in layer.datasets.items()}
    wanted = {kind: list(view.shape) for kind, view in _views(module).items()}
    return "" if there == wanted else f"has {_show(there)}, expected {_show(wanted)}"


def _show(shapes: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{kind} {shapes[kind]}" for kind in sorted(shapes))


def _check_layer(path: Path, layer: KerasLayer, module: nn.Module) -> None:
    if misfit := _misfit(layer, module):
        raise ValueError(f"weights {path}: layer {layer.name} {misfit}")


def _fill(path: Path, layer: KerasLayer, module: nn.Module) -> None:
    for kind, view in _views(module).items():
        try:
            values = torch.from_numpy(layer.datasets[kind].astype("float32")[...])
        except (OSError, TypeError, ValueError) as e:
            raise ValueError(
                f"weights {path}: {kind} of layer {layer.name} cannot be read: {e}"
            ) from e
        view.copy_(values)
