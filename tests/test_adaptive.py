"""Adaptive overlap: what is skipped, what is put in its place, and that it is right."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath_ray.config.run import RunConfig
from digipath_ray.heatmap.canvas import blend_window
from digipath_ray.networks.adaptive import cover, expected, in_doubt
from digipath_ray.networks.ensemble import combine_members
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.patches import share_blocks
from digipath_ray.pipeline.chunk import sum_chunk
from tests.runs import small_config

SQUARE = np.argwhere(np.ones((8, 8), bool)).astype(np.int32)


def adaptive(doubt: float, **ensemble: object) -> RunConfig:
    grid = {"overlap": "adaptive", "doubt": doubt}
    return small_config({"grid": grid, "ensemble": ensemble})


def test_the_first_pass_tiles_a_square_and_its_last_row_and_column() -> None:
    blocks, index = share_blocks(SQUARE, 2)
    first = cover(index, len(blocks))
    assert first.sum() == 25  # 16 would leave the last row and column of blocks bare
    assert first.reshape(8, 8)[:7:2, :7:2].all()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 4), share=st.floats(0.05, 1))
def test_the_first_pass_leaves_no_block_bare(seed: int, k: int, share: float) -> None:
    cells = np.argwhere(np.random.default_rng(seed).random((7, 9)) < share)
    if len(cells) == 0:
        return
    blocks, index = share_blocks(cells.astype(np.int32), k)
    first = cover(index, len(blocks))
    assert {*index[first].ravel().tolist()} == {*range(len(blocks))}


@pytest.mark.parametrize("blend", ["mean", "linear", "gaussian"])
@pytest.mark.parametrize("patch_px", [64, 48])
def test_what_is_put_in_place_is_the_mean_of_the_first_pass(
    blend: str, patch_px: int
) -> None:
    config = small_config(
        {"ensemble": {"blend": blend}, "grid": {"patch_px": patch_px}}
    )
    spec = config.grid
    blocks, index = share_blocks(SQUARE, spec.blocks_per_side)
    first = cover(index, len(blocks))
    window = blend_window(spec, config.ensemble.blend)
    values = np.random.default_rng(0).random((first.sum(), *window.shape), np.float32)
    found = expected(values, index, first, window=window, step=spec.hm_stride)
    side = 9 * spec.hm_stride
    total, weight = np.zeros((2, side, side))
    for (row, col), value in zip(SQUARE[first], values, strict=True):
        y, x = row * spec.hm_stride, col * spec.hm_stride
        here = np.s_[y : y + spec.hm_patch, x : x + spec.hm_patch]
        total[here] += value * window
        weight[here] += window
    for (row, col), patch in zip(SQUARE, found, strict=True):
        y, x = row * spec.hm_stride, col * spec.hm_stride
        here = np.s_[y : y + spec.hm_patch, x : x + spec.hm_patch]
        seen = weight[here] > 0
        np.testing.assert_allclose(
            patch[seen], total[here][seen] / weight[here][seen], rtol=1e-5
        )


def test_doubt_is_a_lesion_or_disagreement_and_not_a_speck() -> None:
    mean = np.zeros((4, 16, 16), np.float32)
    mean[1, 2:6, 3:7] = 0.2  # as large as the smallest lesion
    mean[2, 9, 9] = 0.2
    variance = np.zeros_like(mean)
    variance[3, 10:14, 10:14] = 0.3**2
    doubt = in_doubt(mean, variance, width_px=4, bound=0.1)
    assert doubt.tolist() == [False, True, False, True]
    assert in_doubt(mean, None, width_px=4, bound=0.1).tolist()[3] is False
    assert in_doubt(mean, None, width_px=4, bound=0.0).all()
    assert in_doubt(mean, None, width_px=100, bound=0.1).sum() == 0


def chunk_of(config: RunConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks, index = share_blocks(SQUARE[:24], config.grid.blocks_per_side)
    side = config.grid.stride_px
    pixels = np.random.default_rng(1).integers(
        0, 256, (len(blocks), side, side, 3), np.uint8
    )
    return blocks, pixels, index


def test_in_doubt_everywhere_it_is_full_overlap() -> None:
    full, always = small_config(), adaptive(0.0)
    _, pixels, index = chunk_of(full)
    a, b = (
        EnsemblePredictor(c.members, c).predict(pixels, index) for c in (full, always)
    )
    assert b.predicted.all()
    # Batches of other patches: oneDNN may add up in another order.
    np.testing.assert_allclose(a.means, b.means, atol=1e-6)
    np.testing.assert_allclose(a.variances, b.variances, atol=1e-6)


def test_never_in_doubt_the_heatmap_is_of_the_first_pass_alone() -> None:
    config = adaptive(1.0)
    blocks, pixels, index = chunk_of(config)
    first = cover(index, len(blocks))
    predictor = EnsemblePredictor(config.members, config)
    maps = predictor.predict(pixels, index)
    assert np.array_equal(maps.predicted, np.stack([first, first]))
    values = combine_members(maps, config)
    assert np.isnan(values["epistemic"][~first]).all()
    found = sum_chunk(values, blocks, index, 0, config)
    alone = small_config()
    maps = EnsemblePredictor(alone.members, alone).predict(pixels, index[first])
    want = sum_chunk(combine_members(maps, alone), blocks, index[first], 0, alone)
    np.testing.assert_allclose(found.sums, want.sums, atol=1e-5)
    assert np.array_equal(found.weight, want.weight)
    assert (found.weight > 0).all()


def test_each_member_decides_for_itself_in_a_pool_of_any_kind() -> None:
    config = adaptive(0.6)
    _, pixels, index = chunk_of(config)
    together = EnsemblePredictor(config.members, config).predict(pixels, index)
    first, second = (
        EnsemblePredictor([m], config).predict(pixels, index) for m in config.members
    )
    chained = first.followed_by(second)
    np.testing.assert_array_equal(chained.predicted, together.predicted)
    np.testing.assert_array_equal(chained.means, together.means)
    assert not np.array_equal(*together.predicted), "the two tiny networks differ"


def test_a_network_of_single_pixels_gives_what_full_overlap_gives() -> None:
    """Its answer does not depend on the patch, so only the weight can differ."""
    full, half = small_config(), adaptive(0.5)
    blocks, pixels, index = chunk_of(full)
    maps = []
    for config in (full, half):
        predictor = EnsemblePredictor(config.members, config)
        for member in predictor.members.values():
            member.network = torch.nn.Conv2d(3, 2, 1)
            torch.manual_seed(0)
            torch.nn.init.normal_(member.network.weight)
            torch.nn.init.zeros_(member.network.bias)
        part = sum_chunk(
            combine_members(predictor.predict(pixels, index), config),
            blocks,
            index,
            0,
            config,
        )
        maps.append(part.sums / part.weight)
    np.testing.assert_allclose(*maps, atol=1e-5)
