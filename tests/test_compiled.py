"""A compiled network says what the plain one says, or is not used."""

import logging

import pytest
import torch
from torch import Tensor, nn

from digipath_ray.networks.compiled import Compiled, agree
from digipath_ray.networks.folding import fold_batch_norm


def upsampling() -> nn.Module:
    """A decoder's pair: frozen by torch, it gives other numbers (findings/)."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 2, 3, stride=2, padding=1),
    ).eval()
    network[2].running_mean.normal_()
    network[2].running_var.uniform_(0.5, 2)
    return network.requires_grad_(False)


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("digipath")]


BATCH = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@torch.inference_mode()
def test_a_frozen_network_that_is_wrong_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = upsampling()
    compiled = Compiled(network)
    with caplog.at_level(logging.WARNING, logger="digipath_ray"):
        found = [compiled(BATCH) for _ in range(2)]
    for logits in found:
        torch.testing.assert_close(logits, network(BATCH), atol=1e-4, rtol=0)
    # Once torch has mended it, nothing is said, and the finding has changed too.
    (said,) = ours(caplog)
    assert "with its weights frozen, the network gives other values" in said


@pytest.mark.slow
@torch.inference_mode()
def test_folded_by_us_it_is_frozen(caplog: pytest.LogCaptureFixture) -> None:
    network = upsampling()
    folded = fold_batch_norm(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    compiled = Compiled(folded)
    with caplog.at_level(logging.WARNING, logger="digipath_ray"):
        found = [compiled(BATCH) for _ in range(2)]
    for logits in found:
        torch.testing.assert_close(logits, network(BATCH), atol=1e-4, rtol=0)
    assert ours(caplog) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_rounding_explains(dtype: torch.dtype) -> None:
    want = torch.linspace(-8, 8, 101).to(dtype)
    assert agree(want, want)
    assert agree(torch.nextafter(want, want + 1), want)
    assert not agree(want + 2, want)
    assert not agree(want.clone().index_fill_(0, torch.tensor(3), torch.nan), want)
    assert not agree(want.flip(0), want)


def test_what_overflowed_before_too_is_no_difference() -> None:
    want = torch.tensor([1.0, torch.nan])
    assert agree(want.clone(), want)
    assert not agree(torch.tensor([torch.nan, 1.0]), want)


class Odd(nn.Module):
    """Transposed convolution in groups, whose weight has fewer channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(4, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.up(self.first(x))))


def test_transposed_convolutions_in_groups_keep_their_normalization() -> None:
    network = Odd().eval()
    network.norm.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    folded = fold_batch_norm(network)
    assert isinstance(folded.norm, nn.BatchNorm2d)
    with torch.inference_mode():
        torch.testing.assert_close(folded(BATCH), network(BATCH))
