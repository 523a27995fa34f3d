"""Batch normalization folded into the convolutions before it: fewer passes over maps.

A fitted normalization scales and shifts each channel by constants, which a convolution
can do itself. torch folds a pair (``fuse_conv_bn_weights``); which convolutions and
normalizations are pairs only shows where the network runs.
"""

import copy
import logging
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

log = logging.getLogger(__name__)

SIDE_PX = 128
"""Side of the random picture that shows which modules follow each other."""
Convolution = nn.Conv2d | nn.ConvTranspose2d
TOLERANCE = 1e-3
"""Relative difference of logits beyond which the network is left as it was."""


def fold_batch_norm(network: nn.Module, *, views: int = 1) -> nn.Module:
    """The network with folded normalizations; itself if that would change what it says.

    Args:
        network: in evaluation, float32, on the CPU.
        views: how many pictures it takes: a patch, or its context too.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (views, 1, 3, SIDE_PX, SIDE_PX)
    pictures = tuple(torch.randn(shape, generator=generator))
    try:
        folded = copy.deepcopy(network)
        with torch.no_grad():
            before = network(*pictures)
            for convolution, name in find_pairs(folded, pictures):
                _fold(folded, convolution, name)
            after = folded(*pictures)
        same = torch.allclose(before, after, rtol=TOLERANCE, atol=TOLERANCE)
    # A network of the user's may allow no copy, or take no picture of this size.
    except Exception as e:
        log.debug("batch normalization is not folded: %s", e)
        return network
    return folded if same else network


def find_pairs(
    network: nn.Module, pictures: tuple[Tensor, ...]
) -> list[tuple[Convolution, str]]:
    """Convolutions, each with the name of the normalization that takes its output.

    Either is called once. A convolution whose output goes elsewhere too is among them:
    the caller compares what comes out.
    """
    names = {module: name for name, module in network.named_modules()}
    calls: Counter[nn.Module] = Counter()
    outputs: list[tuple[Convolution, Tensor]] = []
    pairs: list[tuple[Convolution, nn.Module]] = []

    def after_convolution(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        calls[module] += 1
        outputs.append((module, output))

    def before_normalization(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        pairs.extend((c, module) for c, output in outputs if output is inputs[0])

    hooks = []
    for module in network.modules():
        if _is_convolution(module):
            hooks.append(module.register_forward_hook(after_convolution))
        elif _is_constant(module):
            hooks.append(module.register_forward_pre_hook(before_normalization))
    network(*pictures)
    for hook in hooks:
        hook.remove()
    return [(c, names[n]) for c, n in pairs if calls[c] == calls[n] == 1]


def _is_convolution(module: nn.Module) -> bool:
    """One whose weight has a channel of the output for each of the normalization."""
    if type(module) is nn.ConvTranspose2d:
        return module.groups == 1
    return type(module) is nn.Conv2d


def _is_constant(module: nn.Module) -> bool:
    """A fitted batch normalization of torch, or timm's with its activation."""
    known = type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d"
    return known and getattr(module, "running_mean", None) is not None


def _fold(network: nn.Module, convolution: Convolution, name: str) -> None:
    normalization = network.get_submodule(name)
    assert isinstance(normalization, nn.BatchNorm2d)
    assert normalization.running_mean is not None
    assert normalization.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        normalization.running_mean,
        normalization.running_var,
        normalization.eps,
        normalization.weight,
        normalization.bias,
        transpose=isinstance(convolution, nn.ConvTranspose2d),
    )
    parent, _, child = name.rpartition(".")
    # timm's normalization goes on with dropout, none in evaluation, and an activation.
    rest = getattr(normalization, "act", None) or nn.Identity()
    setattr(network.get_submodule(parent), child, rest)
