import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from digipath_ray.config.run import (
    TRANSFORMS,
    ComputeSpec,
    EnsembleSpec,
    GridSpec,
    MemberSpec,
    RunConfig,
)
from digipath_ray.distributed.fault import cause_of_error
from digipath_ray.networks.build import Member
from digipath_ray.networks.ensemble import MemberError, combine_members
from digipath_ray.networks.posteriors import (
    TRANSFORM_PAIRS,
    gather_patches,
    predict_blocks,
    predict_patches,
)
from digipath_ray.networks.predict import EnsemblePredictor, load_ensemble
from digipath_ray.patches import share_blocks
from digipath_ray.run.failure import SUSPECT
from tests.pixels import NUMPY_TURNS
from tests.runs import SMALL, small_config

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def directional(seed=0):
    """A member whose answer changes with every turn and flip of its patch."""
    convolution = nn.Conv2d(3, 2, 3, padding=1, bias=False)
    weights = np.random.default_rng(seed).normal(size=(2, 3, 3, 3)) / 2
    convolution.weight.data = torch.tensor(weights, dtype=torch.float32)
    return Member(convolution, normalization=((0.5,) * 3, (0.25,) * 3))


class Redness(nn.Module):
    """Logits whose softmax is the red channel, exactly enough to read off."""

    def forward(self, x):
        red = x[:, :1].clamp(1e-6, 1 - 1e-6)
        return torch.cat([torch.zeros_like(red), torch.logit(red)], dim=1)


def redness():
    return Member(Redness(), normalization=PLAIN)


def random_patches(n, side, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), np.uint8)
    return torch.from_numpy(pixels)


# Written in numpy, apart from the code under test.


def oracle(member, patches, tta):
    """Posteriors [t, n, H, W] of each transform applied to the original."""
    answers = []
    for name in tta:
        apply, undo = NUMPY_TURNS[name]
        turned = torch.from_numpy(apply(patches.numpy()).copy())
        answers.append(undo(member(turned).numpy()))
    return np.stack(answers)


def test_every_transform_of_a_config_is_there():
    assert tuple(TRANSFORM_PAIRS) == TRANSFORMS == tuple(NUMPY_TURNS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_what_its_name_says_and_undone_exactly(name):
    apply, undo = TRANSFORM_PAIRS[name]
    patches = random_patches(2, 5)
    want = NUMPY_TURNS[name][0](patches.numpy())
    np.testing.assert_array_equal(apply(patches).numpy(), want)
    assert torch.equal(undo(apply(patches)), patches)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_is_undone_on_the_posterior(name):
    member, patches = directional(), random_patches(3, 16)
    got, *_ = predict_patches(member, patches, tta=[name], downsample=1, batch_size=3)
    want = oracle(member, patches, [name])[0]
    np.testing.assert_allclose(got.numpy(), want, atol=1e-6)
    if name != "identity":  # else the network would not tell a wrong turn
        plain = member(patches).numpy()
        assert np.abs(want - plain).mean() > 0.1


def test_compounding_transforms_would_give_another_mean():
    # The original turns the already turned patch and undoes the last turn only.
    member, patches = directional(), random_patches(2, 16)
    tta = ["hflip", "rot90", "rot180"]
    compounded, turned = [], patches.numpy()
    for name in tta:
        apply, undo = NUMPY_TURNS[name]
        turned = apply(turned).copy()
        compounded.append(undo(member(torch.from_numpy(turned)).numpy()))
    got, *_ = predict_patches(member, patches, tta=tta, downsample=1, batch_size=2)
    assert np.abs(got.numpy() - np.mean(compounded, axis=0)).mean() > 0.05


def test_equation_4_pixel_by_pixel():
    member, patches = directional(), random_patches(3, 8)
    mean, variance, _ = predict_patches(
        member, patches, tta=TRANSFORMS, downsample=1, batch_size=2
    )
    answers = oracle(member, patches, TRANSFORMS)
    for n, i, j in np.ndindex(3, 8, 8):
        values = [float(v) for v in answers[:, n, i, j]]
        m = sum(values) / 6
        assert mean[n, i, j].item() == pytest.approx(m, abs=1e-6)
        want = sum((v - m) ** 2 for v in values) / 6
        assert variance[n, i, j].item() == pytest.approx(want, abs=1e-6)


def test_variance_is_of_heatmap_pixels():
    # Averaged down first, then the variance: not the mean of the pixels' variances.
    member, patches = directional(), random_patches(2, 8)
    mean, variance, _ = predict_patches(
        member, patches, tta=("identity", "hflip"), downsample=4, batch_size=2
    )
    answers = oracle(member, patches, ("identity", "hflip"))
    small = answers.reshape(2, 2, 2, 4, 2, 4).mean((3, 5))
    np.testing.assert_allclose(mean.numpy(), small.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance.numpy(), small.var(0), atol=1e-6)


def test_one_transform_estimates_no_variance():
    _, variance, _ = predict_patches(
        redness(), random_patches(1, 8), tta=["identity"], downsample=1, batch_size=1
    )
    assert variance is None


def test_heatmap_pixels_are_exact_area_means():
    patch = torch.zeros((1, 3, 4, 4), dtype=torch.uint8)
    patch[0, 0] = torch.tensor(
        [[51, 102, 0, 0], [153, 204, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]
    )
    mean, *_ = predict_patches(
        redness(), patch, tta=["identity"], downsample=2, batch_size=1
    )
    want = [[[0.5, 0.0], [0.0, 0.25]]]
    np.testing.assert_allclose(mean.numpy(), want, atol=1e-5)


class Recorder(nn.Module):
    """Notes the shape of each batch."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return torch.cat([torch.zeros_like(x[:, :1]), x[:, :1]], dim=1)


@pytest.mark.parametrize(("pad", "last"), [(True, 4), (False, 1)])
def test_the_last_batch_is_filled_up_where_all_must_have_one_shape(pad, last):
    recorder = Recorder()
    member = Member(recorder, normalization=PLAIN)
    mean, *_ = predict_patches(
        member,
        random_patches(5, 8),
        tta=["identity"],
        downsample=2,
        batch_size=4,
        pad=pad,
    )
    assert recorder.shapes == [(4, 3, 8, 8), (last, 3, 8, 8)]
    assert mean.shape == (5, 4, 4)


@pytest.mark.parametrize(
    ("patch_px", "batch_size", "seen"), [(1024, 8, 1), (512, 8, 2), (256, 4, 4)]
)
def test_a_cpu_sees_few_large_patches_at_once(patch_px, batch_size, seen):
    config = RunConfig(
        grid=GridSpec(patch_px=patch_px, stride_px=patch_px),
        compute=ComputeSpec(batch_size=batch_size),
    )
    assert config.cpu_batch_size == seen


def test_padding_never_leaks():
    member, patches = directional(), random_patches(6, 8)
    run = {"tta": ("identity", "rot90"), "downsample": 2, "pad": True}
    mean, variance, _ = predict_patches(member, patches, batch_size=4, **run)
    for i in range(6):
        alone = predict_patches(member, patches[i : i + 1], batch_size=1, **run)
        np.testing.assert_allclose(mean[i], alone[0][0], atol=1e-6)
        np.testing.assert_allclose(variance[i], alone[1][0], atol=1e-6)


def test_no_patch_is_no_error():
    mean, variance, _ = predict_patches(
        redness(), random_patches(0, 8), tta=TRANSFORMS, downsample=4, batch_size=2
    )
    assert mean.shape == variance.shape == (0, 2, 2)


@pytest.mark.parametrize("shape", [(1, 3, 8, 10), (1, 3, 10, 10)])
def test_patches_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match="multiple of downsample"):
        predict_patches(
            redness(),
            torch.zeros(shape, dtype=torch.uint8),
            tta=["identity"],
            downsample=4,
            batch_size=1,
        )


@settings(max_examples=40, deadline=None)
@given(
    stride=st.integers(1, 6),
    k=st.integers(1, 4),
    cut=st.integers(0, 5),
    rows=st.integers(1, 3),
    cols=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_gathering_equals_slicing_the_image(stride, k, cut, rows, cols, seed):
    patch_px = max(1, k * stride - min(cut, stride - 1))
    high, wide = rows + k - 1, cols + k - 1  # in blocks
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (high * stride, wide * stride, 3), np.uint8)
    order = rng.permutation(high * wide)
    blocks = np.empty((high * wide, stride, stride, 3), np.uint8)
    number = np.empty((high, wide), np.int64)
    for place, (r, c) in zip(order, np.ndindex(high, wide), strict=True):
        y, x = r * stride, c * stride
        blocks[place] = image[y : y + stride, x : x + stride]
        number[r, c] = place
    cells = list(np.ndindex(rows, cols))
    index = np.stack([number[r : r + k, c : c + k] for r, c in cells])
    got = gather_patches(torch.from_numpy(blocks), torch.from_numpy(index), patch_px)
    assert got.shape == (len(cells), 3, patch_px, patch_px)
    for patch, (r, c) in zip(got.numpy(), cells, strict=True):
        y, x = r * stride, c * stride
        want = image[y : y + patch_px, x : x + patch_px].transpose(2, 0, 1)
        np.testing.assert_array_equal(patch, want)


def test_blocks_that_do_not_reach_are_refused():
    blocks = torch.zeros((4, 8, 8, 3), dtype=torch.uint8)
    index = torch.zeros((1, 2, 2), dtype=torch.long)
    with pytest.raises(ValueError, match="patch_px = 17: 2 blocks reach only 16 px"):
        gather_patches(blocks, index, 17)


def chunk(n=5):
    """Blocks and index of n patches of 8 px in a row, stride 4; read-only, as Ray's."""
    blocks = np.random.default_rng(1).integers(0, 256, (2 * (n + 1), 4, 4, 3), np.uint8)
    index = np.stack([[[i, i + 1], [n + 1 + i, n + 2 + i]] for i in range(n)])
    blocks.flags.writeable = index.flags.writeable = False
    return blocks, index


def test_blocks_are_predicted_as_their_patches():
    blocks, index = chunk()
    run = {"tta": ("identity", "vflip"), "downsample": 2, "batch_size": 2}
    mean, variance, _ = predict_blocks(directional(), blocks, index, patch_px=8, **run)
    patches = gather_patches(torch.tensor(blocks), torch.tensor(index), 8)
    want_mean, want_variance, _ = predict_patches(directional(), patches, **run)
    assert mean.dtype == variance.dtype == np.float32
    np.testing.assert_allclose(mean, want_mean, atol=1e-6)
    np.testing.assert_allclose(variance, want_variance, atol=1e-6)


def test_a_chunk_of_no_patches_is_no_error():
    blocks, index = chunk()
    mean, variance, _ = predict_blocks(
        redness(), blocks, index[:0], patch_px=8, tta=["identity"], downsample=2,
        batch_size=2,
    )  # fmt: skip
    assert mean.shape == (0, 4, 4)
    assert variance is None


def small_run(tta=("identity", "hflip"), seeds=(0, 1)):
    members = tuple(
        MemberSpec(
            name=f"m{seed}",
            architecture="Unet",
            encoder="tu-tf_efficientnet_lite0",
            weights="random",
            seed=seed,
        )
        for seed in seeds
    )
    return RunConfig(
        grid=GridSpec(patch_px=64, stride_px=32, downsample=16),
        ensemble=EnsembleSpec(tta=tta),
        compute=ComputeSpec(batch_size=2, chunk_cells=2),
        members=members,
    )


def test_an_ensemble_answers_for_each_member_then_for_all():
    config = small_run()
    blocks = np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), np.uint8)
    index = np.array([[[0, 1], [3, 4]], [[1, 2], [4, 5]]])
    predictor = EnsemblePredictor(config.members, config)
    maps = predictor.predict(blocks, index)
    assert maps.means.shape == (2, 2, 4, 4)
    assert maps.variances is not None
    assert maps.variances.shape == (2, 2, 4, 4)
    channels = load_ensemble(config)(blocks, index)
    assert tuple(channels) == config.channels
    want = maps.means.mean(axis=0)
    np.testing.assert_allclose(channels["probability"], want, atol=1e-6)
    assert channels["probability"].shape == (2, 4, 4)
    assert np.abs(maps.means[0] - maps.means[1]).max() > 1e-4


def test_without_augmentation_there_is_no_variance():
    config = small_run(tta=("rot90",), seeds=(3,))
    blocks = np.zeros((4, 32, 32, 3), np.uint8)
    index = np.array([[[0, 1], [2, 3]]])
    maps = EnsemblePredictor(config.members, config).predict(blocks, index)
    assert maps.variances is None


def test_members_of_two_pools_come_in_the_order_of_the_run():
    config = small_run()
    blocks = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3), np.uint8)
    index = np.array([[[0, 1], [2, 3]]])
    first, second = (
        EnsemblePredictor([m], config).predict(blocks, index) for m in config.members
    )
    together = EnsemblePredictor(config.members, config).predict(blocks, index)
    joined = first.followed_by(second)
    np.testing.assert_array_equal(joined.means, together.means)
    np.testing.assert_array_equal(joined.variances, together.variances)
    with pytest.raises(MemberError, match="member m1 gave no probability"):
        combine_members(first, config)


@pytest.mark.slow
def test_a_lost_gpu_ends_the_process_and_other_errors_do_not():
    script = (
        "from digipath_ray.networks.predict import EnsemblePredictor as E\n"
        "E.end_process_if_device_is_lost(ValueError('CUDA error in a name'))\n"
        "E.end_process_if_device_is_lost(RuntimeError('CUDA out of memory'))\n"
        "print('alive', flush=True)\n"
        "E.end_process_if_device_is_lost(RuntimeError('CUDA error: an illegal access'))"
        "\nprint('never')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "alive\n"
    assert done.returncode == 1
    assert "the GPU is lost" in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_precision_on_a_gpu_is_near_float32_on_a_cpu():
    config = small_run()
    blocks = np.random.default_rng(2).integers(0, 256, (6, 32, 32, 3), np.uint8)
    index = np.array([[[0, 1], [3, 4]], [[1, 2], [4, 5]]])
    there = load_ensemble(config, device="cuda")(blocks, index)["probability"]
    here = load_ensemble(config)(blocks, index)["probability"]
    assert np.abs(there - here).max() < 0.01
    assert np.abs(there - here).mean() < 0.001


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device in ("cuda", torch.device("cuda:1")):
        with pytest.raises(
            ValueError, match=r"device = 'cuda.*no GPU here: give 'cpu'"
        ):
            load_ensemble(small_run(), device=device)


def memory_for(most: int) -> RunConfig:
    """The members of a small run, with memory for so many patches at once."""
    members = [{**m, "options": {"most": most}} for m in SMALL["members"]]
    return small_config({"members": members})


def chunk_of(
    config: RunConfig, patches: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random pixels of patches in a row, and their index."""
    blocks, index = share_blocks(
        np.array([[0, col] for col in range(patches)]), config.grid.blocks_per_side
    )
    side = config.grid.stride_px
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (len(blocks), side, side, 3), np.uint8)
    return pixels, index


def test_short_memory_makes_batches_smaller_and_changes_no_map() -> None:
    enough, short = (EnsemblePredictor(c.members, c) for c in map(memory_for, (0, 2)))
    assert enough.batch_size == 4
    pixels, index = chunk_of(enough.config, 7)
    wanted, found = (p.predict(pixels, index) for p in (enough, short))
    np.testing.assert_allclose(found.means, wanted.means, atol=1e-6)
    assert wanted.variances is not None
    assert found.variances is not None
    np.testing.assert_allclose(found.variances, wanted.variances, atol=1e-6)
    assert (enough.reduced_to, short.reduced_to, short.batch_size) == (None, 2, 2)


def test_no_memory_for_one_patch_is_no_endless_try() -> None:
    config = memory_for(1)
    predictor = EnsemblePredictor(config.members, config)
    for member in predictor.members.values():
        member.network.most = -1  # not even one
    with pytest.raises(MemoryError, match=r"one patch .*CUDA out of memory"):
        predictor.predict(*chunk_of(config, 3))
    assert cause_of_error(MemoryError()) == SUSPECT
