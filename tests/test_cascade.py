"""Cascade: which members see which patches, and what is made of their answers."""

import numpy as np
import pytest

from digipath_ray.config.difference import difference
from digipath_ray.config.run import RunConfig
from digipath_ray.config.toml import Tree, merge, to_tree
from digipath_ray.figures.overlay import draw_overlay
from digipath_ray.heatmap.canvas import Canvas, blend_window
from digipath_ray.heatmap.file import halve, read_heatmap, write_heatmap
from digipath_ray.heatmap.heatmap import Heatmap
from digipath_ray.mining.regions import uncertainty_map
from digipath_ray.networks.adaptive import in_doubt
from digipath_ray.networks.ensemble import MemberMaps, combine_members
from digipath_ray.networks.predict import EnsemblePredictor
from digipath_ray.networks.resolve import resolve
from digipath_ray.outcome.measure import mean_unsure
from digipath_ray.patches import share_blocks
from digipath_ray.pipeline.chunk import sum_chunk
from digipath_ray.report.methods import write_methods
from digipath_ray.run.compare import compare_heatmaps
from digipath_ray.viewer.tiles.layers import to_gray
from tests.runs import SMALL, small_config

CELLS = np.argwhere(np.ones((4, 6), bool)).astype(np.int32)
BOUND = 0.68
"""Reached by the tiny networks in some patches of random pixels and not in others."""


def cascade(doubt: float, changes: Tree | None = None) -> RunConfig:
    """Three tiny networks that take turns."""
    third = {"name": "c", "architecture": "tests.tiny:Tiny", "seed": 2}
    tree = {
        "ensemble": {"cascade": True},
        "grid": {"doubt": doubt, "doubt_um": 8.0},
        "members": [*SMALL["members"], third],
    }
    return small_config(merge(tree, changes or {}))


def chunk_of(config: RunConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of random pixels, some of them darker, and the patches over them."""
    blocks, index = share_blocks(CELLS, config.grid.blocks_per_side)
    side = config.grid.stride_px
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (len(blocks), side, side, 3), np.uint8)
    return blocks, pixels // rng.integers(1, 5, (len(blocks), 1, 1, 1), np.uint8), index


def predict(config: RunConfig) -> tuple[np.ndarray, np.ndarray, MemberMaps]:
    blocks, pixels, index = chunk_of(config)
    predictor = EnsemblePredictor(config.members, config)
    return blocks, index, predictor.predict(pixels, index)


def full(config: RunConfig) -> MemberMaps:
    """What every member says of every patch."""
    return predict(small_config(to_tree_of_members(config)))[2]


def to_tree_of_members(config: RunConfig) -> Tree:
    return {"members": to_tree(config)["members"]}


def test_a_member_sees_what_one_before_it_was_in_doubt_of() -> None:
    config = cascade(BOUND)
    _, _, found = predict(config)
    want = full(config)
    doubt = [
        in_doubt(mean, variance, width_px=2, bound=BOUND)
        for mean, variance in zip(want.means, want.variances, strict=True)
    ]
    seen = [np.ones(len(CELLS), bool), doubt[0]]
    seen.append(doubt[0] | (doubt[1] & seen[1]))
    assert np.array_equal(found.seen, seen)
    assert np.array_equal(found.predicted, seen)
    assert 0 < found.seen[1].sum() < len(CELLS)
    for member, there in enumerate(seen):
        got, full_means = found.means[member], want.means[member]
        np.testing.assert_allclose(got[there], full_means[there], atol=1e-6)


def test_what_members_say_is_of_those_that_saw_the_patch() -> None:
    config = cascade(BOUND)
    blocks, index, maps = predict(config)
    channels = combine_members(maps, config)
    for patch in range(len(CELLS)):
        saw = maps.seen[:, patch]
        means = maps.means[saw, patch]
        got = {name: values[patch] for name, values in channels.items()}
        np.testing.assert_allclose(got["probability"], means.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            got["aleatoric"], maps.variances[saw, patch].mean(0), atol=1e-6
        )
        assert (got["estimated"] == (saw.sum() > 1)).all()
        np.testing.assert_allclose(got["epistemic"], means.var(0), atol=1e-6)
    part = sum_chunk(channels, blocks, index, 0, config)
    np.testing.assert_array_equal(part.weight, part.sums[-1] + unseen(maps, config))


def unseen(maps: MemberMaps, config: RunConfig) -> np.ndarray:
    """The weight of patches that one member saw."""
    one = maps.seen.sum(0) == 1
    values = np.ones_like(maps.means[0]) * one[:, None, None]
    blocks, index = share_blocks(CELLS, config.grid.blocks_per_side)
    filled = dict.fromkeys(config.summed, values)
    return sum_chunk(filled, blocks, index, 0, config).sums[0]


@pytest.mark.parametrize("blend", ["mean", "gaussian"])
def test_epistemic_uncertainty_is_of_patches_that_two_members_saw(blend: str) -> None:
    config = cascade(BOUND, {"ensemble": {"blend": blend}})
    heatmap, maps = heatmap_of(config)
    spec = config.grid
    window = blend_window(spec, config.ensemble.blend)
    total, weight = np.zeros((2, *heatmap.weight.shape))
    for i, (row, col) in enumerate(CELLS):
        if maps.seen[:, i].sum() > 1:
            y, x = row * spec.hm_stride, col * spec.hm_stride
            here = np.s_[y : y + spec.hm_patch, x : x + spec.hm_patch]
            total[here] += maps.means[maps.seen[:, i], i].var(0) * window
            weight[here] += window
    there = weight > 0
    assert 0 < there.mean() < 1
    assert np.array_equal(np.isnan(heatmap.epistemic), ~there)
    want = total[there] / weight[there]
    np.testing.assert_allclose(heatmap.epistemic[there], want, atol=1e-6)
    assert heatmap.channels == ("probability", "aleatoric", "epistemic")
    assert not np.isnan(heatmap.probability).any()


def heatmap_of(config: RunConfig) -> tuple[Heatmap, MemberMaps]:
    blocks, index, maps = predict(config)
    part = sum_chunk(combine_members(maps, config), blocks, index, 0, config)
    rows, cols = (blocks.max(axis=0) + 1) * config.grid.hm_stride
    canvas = Canvas.empty(config.summed, width=int(cols), height=int(rows))
    canvas.add(part.blocks, part.sums, part.weight)
    return canvas.heatmap(mpp_x=4.0, mpp_y=4.0), maps


def test_in_doubt_everywhere_it_is_the_whole_ensemble() -> None:
    config = cascade(0.0)
    _, _, found = predict(config)
    want = full(config)
    assert found.seen.all()
    np.testing.assert_array_equal(found.means, want.means)
    whole = small_config(to_tree_of_members(config))
    channels = combine_members(found, config)
    assert (channels.pop("estimated") == 1).all()
    for name, values in combine_members(want, whole).items():
        np.testing.assert_array_equal(channels[name], values)


def test_never_in_doubt_it_is_the_first_member_alone() -> None:
    config = cascade(1.0)
    heatmap, maps = heatmap_of(config)
    assert maps.seen.sum(1).tolist() == [len(CELLS), 0, 0]
    np.testing.assert_array_equal(
        combine_members(maps, config)["probability"], full(config).means[0]
    )
    assert np.isnan(heatmap.epistemic).all()


@pytest.mark.parametrize("overlap", ["full", "adaptive"])
def test_in_pools_of_their_own_members_decide_alike(overlap: str) -> None:
    config = cascade(BOUND, {"grid": {"overlap": overlap}})
    _, pixels, index = chunk_of(config)
    together = EnsemblePredictor(config.members, config).predict(pixels, index)
    maps = None
    for member in config.members:
        maps = EnsemblePredictor([member], config).predict(pixels, index, maps)
    for name in ("means", "variances", "predicted", "seen"):
        np.testing.assert_array_equal(getattr(maps, name), getattr(together, name))
    assert (together.predicted <= together.seen).all()
    assert 0 < together.seen[1].mean() < 1


def test_members_run_from_the_cheapest_on() -> None:
    sizes = {"large": [64, 32, 16, 16, 8], "small": [16, 8, 8, 8, 4]}
    members = [
        {
            "name": name,
            "architecture": "Unet",
            "encoder": "tu-mobilenetv3_small_100",
            "weights": "random",
            "options": {"decoder_channels": channels},
        }
        for name, channels in sizes.items()
    ]
    tree: Tree = {"members": members, "grid": {"patch_px": 64, "stride_px": 32}}
    as_named = resolve(tree)
    assert [m.name for m in as_named.members] == ["large", "small"]
    tree["ensemble"] = {"cascade": True}
    assert [m.name for m in resolve(tree).members] == ["small", "large"]
    with pytest.raises(ValueError, match="with one member there is none"):
        resolve({**tree, "members": members[:1]})


def test_members_maps_are_not_kept_of_a_cascade() -> None:
    with pytest.raises(ValueError, match="keep_members = True: a cascade leaves"):
        cascade(0.1, {"ensemble": {"keep_members": True}})


def test_a_run_goes_on_with_the_same_cascade_only() -> None:
    off, on = (
        to_tree(cascade(0.1, {"ensemble": {"cascade": x}})) for x in (False, True)
    )
    assert difference(off, on) == ["ensemble.cascade: False -> True"]
    other = to_tree(cascade(0.2))
    assert difference(on | {"ensemble": other["ensemble"]}, other) == [
        "grid.doubt: 0.1 -> 0.2"
    ]
    del off["ensemble"]["cascade"]  # a run of an older version
    assert (
        difference(off, to_tree(cascade(0.2, {"ensemble": {"cascade": False}}))) == []
    )


def test_gaps_come_through_files_figures_and_measures(tmp_path) -> None:
    config = cascade(BOUND)
    heatmap, _ = heatmap_of(config)
    write_heatmap(tmp_path / "a.ome.tiff", heatmap, name="a")
    back = read_heatmap(tmp_path / "a.ome.tiff")
    np.testing.assert_array_equal(back.data, heatmap.data)
    gaps = np.isnan(back.epistemic)
    gray = to_gray(back.epistemic, back.weight, low=0.0, high=0.25)
    assert np.array_equal(gray == 0, gaps)
    assert (uncertainty_map(back, "epistemic")[gaps] == 0).all()
    unsure = (back.probability >= 0.3) & (back.probability <= 0.7) & ~gaps
    found = mean_unsure(back, back.covered)
    assert found == pytest.approx(back.epistemic[unsure].mean(), rel=1e-5)
    rows = {row["channel"]: row for row in compare_heatmaps(back, heatmap, 0.5)}
    assert rows["epistemic"]["pixels"] == (~gaps).sum() < rows["probability"]["pixels"]
    assert rows["epistemic"]["max_abs_difference"] == 0
    thumbnail = np.full((40, 60, 3), 230, np.uint8)
    draw_overlay(
        thumbnail,
        back,
        thumbnail_mpp=(4.0, 4.0),
        title="a",
        notes=(),
        threshold=0.5,
    )


def test_a_coarser_level_is_the_mean_of_what_was_estimated() -> None:
    plane = np.array([[1, np.nan, np.nan], [3, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(halve(plane), [[2, np.nan]])


def test_the_report_says_which_networks_saw_what() -> None:
    text = " ".join(write_methods(cascade(0.1), {}, precision="float32"))
    assert "took turns in the order named" in text
    assert "where at least two saw a patch [1, eq. 5]" in text
