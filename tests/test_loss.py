import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from digipath_ray.config.recipe import LossSpec
from digipath_ray.training.loss import (
    LOG_FLOOR,
    dice_losses,
    reduced_sums,
    segmentation_loss,
    segmentation_sums,
)

# One patch of 2 x 2 pixels: probability of tumor, and which pixels are tumor.
P = torch.tensor([[[0.5, 0.8], [0.2, 0.2]]])
TRUTH = torch.tensor([[[1, 1], [0, 0]]], dtype=torch.uint8)
ONE = torch.ones(1)


def logits_of(p, *, offset=3.0):
    """Logits whose softmax is p; an offset of both changes nothing."""
    tumor = torch.log(p / (1 - p))
    return torch.stack([torch.full_like(p, offset), tumor + offset], dim=1)


def loss_of(logits, truth=TRUTH, weight=ONE, **fields):
    return segmentation_loss(
        segmentation_sums(logits, truth, weight), LossSpec(**fields)
    )


def random_batch(n, *, side=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 2, side, side, generator=generator, dtype=dtype)
    return logits, torch.rand(n, side, side, generator=generator) < 0.4


def test_sums_by_hand():
    sums = segmentation_sums(logits_of(P), TRUTH, ONE)
    expected = [
        math.log(0.5 * 0.8 * 0.8 * 0.8),  # log-likelihood of the true classes
        4,  # pixels
        0.8 + 0.8,  # other: p * g
        0.5 + 0.8,  # tumor
        0.25 + 0.04 + 0.64 + 0.64,  # other: p ** 2
        0.25 + 0.64 + 0.04 + 0.04,  # tumor
        2,  # other: g
        2,  # tumor
        0.5 + 0.2 + 0.8 + 0.8,  # other: p
        0.5 + 0.8 + 0.2 + 0.2,  # tumor
    ]
    assert sums.tolist() == pytest.approx(expected)


def test_loss_by_hand():
    cross_entropy = -math.log(0.5 * 0.8 * 0.8 * 0.8) / 4
    other = 1 - (2 * 1.6 + 1) / (1.57 + 2 + 1)
    tumor = 1 - (2 * 1.3 + 1) / (0.97 + 2 + 1)
    logits = logits_of(P)
    for name, expected in (
        ("cross_entropy", cross_entropy),
        ("dice_other", other),
        ("dice_tumor", tumor),
    ):
        weights = {"cross_entropy": 0, "dice_other": 0, "dice_tumor": 0, name: 1}
        assert loss_of(logits, **weights) == pytest.approx(expected, abs=1e-6)
    total = 0.5 * cross_entropy + 0.25 * other + 0.25 * tumor
    assert loss_of(logits) == pytest.approx(total)


def test_dice_without_squares_is_that_of_the_released_code():
    sums = segmentation_sums(logits_of(P), TRUTH, ONE)
    other = 1 - (2 * 1.6 + 1) / (2.3 + 2 + 1)
    tumor = 1 - (2 * 1.3 + 1) / (1.7 + 2 + 1)
    found = dice_losses(sums, LossSpec(squared=False))
    assert found.tolist() == pytest.approx([other, tumor])


def test_cross_entropy_is_that_of_torch():
    logits, truth = random_batch(3)
    only = LossSpec(cross_entropy=1, dice_other=0, dice_tumor=0)
    found = segmentation_loss(segmentation_sums(logits, truth, torch.ones(3)), only)
    expected = nn.functional.cross_entropy(logits, truth.long())
    assert found == pytest.approx(float(expected))


@pytest.mark.parametrize("squared", [True, False])
def test_gradients_are_those_of_finite_differences(squared):
    logits, truth = random_batch(2, side=3, dtype=torch.float64)
    weight = torch.tensor([1.0, 0.5], dtype=torch.float64)
    spec = LossSpec(squared=squared)

    def loss(x):
        return segmentation_loss(segmentation_sums(x, truth, weight), spec)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_batch_without_tumor_is_finite_and_learns_to_say_so():
    logits, truth = random_batch(2)
    logits.requires_grad_()
    loss = loss_of(logits, torch.zeros_like(truth), torch.ones(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad[:, 1] > 0).all()  # less tumor, less loss
    # Nothing to find, nothing found: no loss.
    calm = torch.zeros(1, 2, 4, 4)
    calm[:, 0] = 200
    assert loss_of(calm, torch.zeros(1, 4, 4)) == pytest.approx(0)


@pytest.mark.parametrize("right", [True, False])
def test_extreme_logits_are_finite(right):
    sign = 1 if right else -1
    sure = torch.where(TRUTH != 0, sign * 1e4, -sign * 1e4)
    logits = torch.stack([-sure, sure], dim=1).requires_grad_()
    loss = loss_of(logits)
    loss.backward()
    # Wrong everywhere: the logs end at the floor, both Dices are 1 - 1 / (2 + 2 + 1).
    expected = 0 if right else 0.5 * -LOG_FLOOR + 0.5 * 0.8
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert torch.isfinite(logits.grad).all()


def test_a_confidently_wrong_pixel_still_has_a_gradient():
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = 30  # p = 1e-13 for a pixel that is tumor
    logits.requires_grad_()
    loss_of(logits).backward()
    # d(cross-entropy)/d(logit) = (p - g) / 4 pixels, half of it in the loss.
    assert logits.grad[0, 1, 0, 0] == pytest.approx(-0.5 / 4, rel=1e-4)


def test_what_weighs_nothing_counts_for_nothing():
    logits, truth = random_batch(3)
    logits[1] = 1e4 * torch.randn(2, 4, 4)
    by_patch = segmentation_sums(logits, truth, torch.tensor([1, 0, 1]))
    kept = [0, 2]
    alone = segmentation_sums(logits[kept], truth[kept], torch.ones(2))
    torch.testing.assert_close(by_patch, alone)
    by_pixel = torch.ones(3, 4, 4, dtype=torch.bool)
    by_pixel[1] = False
    torch.testing.assert_close(segmentation_sums(logits, truth, by_pixel), alone)


def test_a_batch_of_nothing_has_loss_0_and_gradient_0():
    logits, truth = random_batch(2)
    logits.requires_grad_()
    loss = loss_of(logits, truth, torch.zeros(2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.abs().max() == 0


def test_sums_are_float32_under_autocast():
    logits, truth = random_batch(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = segmentation_sums(logits.bfloat16(), truth, torch.ones(2))
    high = segmentation_sums(logits.bfloat16().float(), truth, torch.ones(2))
    assert low.dtype == torch.float32
    assert torch.equal(low, high)


@pytest.mark.parametrize(
    ("logits", "truth", "weight", "named"),
    [
        ((1, 1, 4, 4), (1, 4, 4), (1,), "logits"),
        ((2, 2, 4, 4), (2, 4, 5), (2,), "truth"),
        ((2, 2, 4, 4), (2, 4, 4), (4, 4), "weight"),
        ((2, 2, 4, 4), (2, 4, 4), (3,), "weight"),
    ],
)
def test_shapes_that_do_not_fit(logits, truth, weight, named):
    with pytest.raises(ValueError, match=named):
        segmentation_sums(torch.zeros(logits), torch.zeros(truth), torch.ones(weight))


def small_network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def small_batch():
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(5, 3, 8, 8, generator=generator)
    truth = torch.rand(5, 8, 8, generator=generator) < 0.2
    return images, truth, torch.tensor([1.0, 1.0, 0.0, 0.5, 1.0])


def gradients_of(network, images, truth, weight):
    sums = reduced_sums(segmentation_sums(network(images), truth, weight))
    loss = segmentation_loss(sums, LossSpec())
    loss.backward()
    return loss.detach(), [p.grad for p in network.parameters()]


def fit_part(rank, folder):
    """One of two workers: patches 0 to 2, or 3 and 4."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    part = slice(0, 3) if rank == 0 else slice(3, 5)
    network = DistributedDataParallel(small_network())
    found = gradients_of(network, *(t[part] for t in small_batch()))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_have_the_gradient_of_one(tmp_path):
    loss, gradients = gradients_of(small_network(), *small_batch())
    torch.multiprocessing.spawn(fit_part, (tmp_path,), nprocs=2)
    for rank in (0, 1):
        their_loss, theirs = torch.load(tmp_path / f"{rank}.pt")
        assert their_loss == pytest.approx(float(loss), abs=1e-6)
        torch.testing.assert_close(theirs, gradients, rtol=0, atol=1e-6)
    assert max(float(g.abs().max()) for g in gradients) > 1e-2
