"""Keras weight files (.h5 as tf.keras wrote them) into the original networks.

Such a file holds no architecture: the attribute ``layer_names`` lists its layers in the
order of the graph, and each layer's group lists ``weight_names``. Layers with names of
their own are found by name; those that Keras named by counting (conv2d_37) by their
order, since the numbers depend on what else was built before. Only h5py is needed.
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
"""DeepLab's last layer; with other classes than Pascal VOC's it bears this name."""
VOC_CLASSIFIER = "logits_semantic"

Pair = tuple["KerasLayer", nn.Module]

_TELLING = {
    "conv1_conv": "OriginalUnetDenseNet121",
    "conv_7b": "OriginalUnetInceptionResNetV2",
    "entry_flow_conv1_1": "OriginalDeepLabV3Plus",
}
"""A layer that only one of the architectures has."""


@dataclass(frozen=True, kw_only=True)
class KerasLayer:
    """A layer of a file: its name, and its HDF5 datasets by kind ("kernel")."""

    name: str
    datasets: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The name in one spelling: tf.keras 1.14 has conv1/conv, later conv1_conv."""
        return self.name.replace("/", "_")


def read_keras_file(
    path: Path, network: OriginalNetwork, *, new_classifier: bool = False
) -> dict[str, Tensor]:
    """Fill the network with a file's weights; returns its state_dict.

    Args:
        path: written by ``save_weights``, or by ``save`` (under ``model_weights``).
        network: of the architecture that was saved.
        new_classifier: leave DeepLab's last layer as it is, whatever the file has: to
            start fitting from weights of other classes.

    Raises:
        ValueError: h5py is missing, the file cannot be read, or it is another
            network's; names the Keras layer that is missing, left over or misshapen.
    """
    if new_classifier and CLASSIFIER not in _named_modules(network):
        raise ValueError(
            f"weights {path}: only OriginalDeepLabV3Plus takes a new classifier"
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
        raise ValueError(f"weights {path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as e:
        raise ValueError(f"weights {path}: no HDF5 file, or a torn one: {e}") from e


def _read_layers(path: Path, file: Any) -> list[KerasLayer]:
    """The layers that have weights, in the file's order."""
    root = file.get("model_weights", file)
    names = _attribute(root, "layer_names")
    if not names:
        raise ValueError(
            f"weights {path}: no layer_names: not written by save_weights of tf.keras "
            "(a .weights.h5 file of Keras 3 is laid out otherwise)"
        )
    layers = []
    for name in names:
        if name not in root:
            raise ValueError(f"weights {path}: layer {name} is listed but not there")
        datasets = _datasets(path, name, root[name])
        if datasets:
            layers.append(KerasLayer(name=name, datasets=datasets))
    return layers


def _attribute(group: Any, name: str) -> list[str]:
    """A list of texts, which Keras splits over name0, name1, ... if it is long."""
    values, part = list(group.attrs.get(name, [])), 0
    while f"{name}{part}" in group.attrs:
        values += list(group.attrs[f"{name}{part}"])
        part += 1
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _datasets(path: Path, layer: str, group: Any) -> dict[str, Any]:
    """Kind of weight -> dataset; "conv1/conv/kernel:0" is of the kind "kernel"."""
    found = {}
    for name in _attribute(group, "weight_names"):
        if name not in group or not hasattr(group[name], "shape"):
            raise ValueError(f"weights {path}: layer {layer} lacks its weight {name}")
        found[name.rsplit("/", 1)[-1].split(":")[0]] = group[name]
    return found


def _pair(
    path: Path, network: OriginalNetwork, layers: list[KerasLayer], *, skip: set[str]
) -> list[Pair]:
    """Each layer of the file with the module that it fills; all of both are used.

    Those apart whose names are in ``skip``.
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
        raise ValueError(f"weights {path}: layer {rest[0].name} fits no layer here")
    return pairs


def _named_modules(network: OriginalNetwork) -> dict[str, nn.Module]:
    """Keras name -> module, for the layers with a name of their own."""
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
    text = f"layers are missing: {len(missing)} ({', '.join(missing[:3])}{more})"
    if missing == [CLASSIFIER] and VOC_CLASSIFIER in by_key:
        return f"{text}; these are Pascal VOC's: to start from them, --new-classifier"
    looks = [
        name
        for layer, name in _TELLING.items()
        if layer in by_key and layer not in named
    ]
    return f"{text}; they look like {looks[0]}'s" if looks else text


def _pair_in_order(
    path: Path, layers: list[KerasLayer], modules: Sequence[nn.Module]
) -> list[Pair]:
    """Layers and modules one by one.

    Raises:
        ValueError: there are more or fewer; names the first layer that does not fit.
    """
    pairs = list(zip(layers, modules, strict=False))
    if len(layers) == len(modules):
        return pairs
    wrong = [layer.name for layer, module in pairs if _misfit(layer, module)]
    wrong += [layer.name for layer in layers[len(modules) :]]
    raise ValueError(
        f"weights {path}: {len(layers)} layers named by counting, {len(modules)} "
        f"wanted; the first that does not fit is {[*wrong, 'behind the last'][0]}"
    )


def _views(module: nn.Module) -> dict[str, Tensor]:
    """Kind of weight -> the module's own tensor, its axes in Keras's order."""
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
    """What keeps the layer from being the module's; empty if nothing."""
    there = {kind: list(dataset.shape) for kind, dataset in layer.datasets.items()}
    wanted = {kind: list(view.shape) for kind, view in _views(module).items()}
    return "" if there == wanted else f"has {_show(there)}, not {_show(wanted)}"


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
