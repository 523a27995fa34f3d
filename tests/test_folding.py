"""Folded batch normalization says the same, or the network is left as it was."""

import pytest
import torch
from torch import Tensor, nn

from digipath_ray.config.run import MemberSpec
from digipath_ray.networks.build import PAPER_MEMBERS, build_network
from digipath_ray.networks.folding import fold_batch_norm


def fitted(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with statistics and scales as if it were fitted, in evaluation."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) / 10)
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
            module.weight.data = 0.8 + 0.4 * torch.rand(shape, generator=generator)
            module.bias.data = torch.randn(shape, generator=generator) / 10
    return network.eval().requires_grad_(False)


def normalizations(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def assert_the_same(network: nn.Module, folded: nn.Module, side: int = 96) -> None:
    picture = torch.randn(
        (2, 3, side, side), generator=torch.Generator().manual_seed(9)
    )
    torch.testing.assert_close(
        folded(picture).softmax(1), network(picture).softmax(1), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        (MemberSpec(name="a", architecture="Unet", encoder="resnet18"), 0),
        # timm's normalization has its activation inside.
        (MemberSpec(name="a", architecture="Unet", encoder="tu-resnetv2_50"), None),
        (MemberSpec(name="a", architecture="Linknet", encoder="mobilenet_v2"), 0),
        # Its blocks normalize what they concatenated, not what a convolution says.
        (PAPER_MEMBERS[0], None),
        (PAPER_MEMBERS[2], 0),
    ],
)
def test_it_says_the_same(spec: MemberSpec, left: int | None) -> None:
    network = fitted(build_network(spec))
    folded = fold_batch_norm(network)
    assert normalizations(folded) < normalizations(network)
    assert left in (None, normalizations(folded))
    assert_the_same(network, folded, side=128)


class Shared(nn.Module):
    """A convolution that is used twice, normalized differently."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        once = self.first(self.convolution(pixels))
        return self.head(self.second(self.convolution(once)))


class Skipped(nn.Module):
    """The output of a convolution is used beside its normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3, padding=1)
        self.normalization = nn.BatchNorm2d(2)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.convolution(pixels)
        return maps + self.normalization(maps)


class OfOneSize(Skipped):
    """It takes pictures of 96 px alone."""

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] != 96:
            raise ValueError(pixels.shape)
        return self.normalization(self.convolution(pixels))


class OfOneKind(Skipped):
    """It cannot be copied."""

    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("one of a kind")


@pytest.mark.parametrize("build", [Shared, Skipped, OfOneSize, OfOneKind])
def test_what_would_change_is_left_as_it_was(build: type[nn.Module]) -> None:
    network = fitted(build())
    folded = fold_batch_norm(network)
    assert normalizations(folded) == normalizations(network)
    assert_the_same(network, folded)
