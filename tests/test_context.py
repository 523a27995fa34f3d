"""Context of patches: where it lies, what is read, and the network that joins it."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AugmentSpec
from digipath_ray.config.run import GridSpec, MemberSpec, RunConfig
from digipath_ray.config.toml import merge, recipe_from_tree
from digipath_ray.context import check_context, context_frame, lay_context, read_context
from digipath_ray.geometry import model_frame
from digipath_ray.networks.build import build_network
from digipath_ray.networks.check import check_member, count_operations
from digipath_ray.networks.folding import fold_batch_norm
from digipath_ray.networks.hook import HookUnet, hook
from digipath_ray.networks.recipe import resolve_recipe
from digipath_ray.patches import lay_grid
from digipath_ray.report.facts import format_contexts
from digipath_ray.schema import DRAWS
from digipath_ray.slide.open import Slide, open_slide
from digipath_ray.training.augment import augment_patch, augment_views, blur
from digipath_ray.training.fit import MemberFit
from digipath_ray.training.reader import PatchReader
from digipath_ray.training.start import load_encoder
from tests.annotated import FIT, batch_of
from tests.slides import noise, write_pyramid


def ramp(width: int, height: int) -> np.ndarray:
    """Red grows with x, green with y, by 1 every 4 px."""
    y, x = np.mgrid[:height, :width] // 4
    return np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def gather(pixels: np.ndarray, numbers: np.ndarray, side: int) -> np.ndarray:
    """One patch's context of its blocks."""
    return np.block([[[pixels[n]] for n in row] for row in numbers])[:side, :side]


@pytest.mark.parametrize(
    ("mpp", "slide_mpp", "factor"),
    [(1.0, 1.0, 4), (0.5, 0.2428, 4), (0.5, 0.2428, 8), (1.0, 0.9, 2)],
)
def test_the_middle_of_a_context_is_the_middle_of_its_patch(
    tmp_path: Path, mpp: float, slide_mpp: float, factor: int
) -> None:
    path = write_pyramid(tmp_path / "s.tif", ramp(1000, 980), mpp=slide_mpp)
    spec = GridSpec(mpp=mpp, patch_px=64, stride_px=32, downsample=4)
    cells = np.array([[0, 0], [3, 4], [6, 5], [8, 8]], np.int32)
    with open_slide(path) as slide:
        x, y = slide.info.need_mpp()
        frame = model_frame(
            level_downsamples=slide.info.level_downsamples, mpp_x=x, mpp_y=y, mpp=mpp
        )
        grid = lay_grid(slide.info, frame, spec)
        context = lay_context(slide.info, grid, factor)
        assert context.frame.l0_per_md_x == frame.l0_per_md_x * factor
        pixels, index = read_context(slide, context, cells, edge="mirror")
        for (row, col), numbers in zip(cells, index, strict=True):
            near = slide.read(frame, col * 32, row * 32, 64, 64, edge="mirror")
            far = gather(pixels, numbers, 64)
            # The four px around the center: their mean is the value at the center.
            inner, outer = (p[31:33, 31:33].mean((0, 1)) for p in (near, far))
            # A ramp of 1 in 4 level-0 px; one model px, and the rounding of each.
            assert np.abs(inner - outer).max() <= frame.l0_per_md_x / 4 + 1


@pytest.mark.parametrize("slide_mpp", [1.0, 0.47])
def test_contexts_of_a_chunk_are_those_read_alone(
    tmp_path: Path, slide_mpp: float
) -> None:
    path = write_pyramid(tmp_path / "s.tif", noise(700, 500), mpp=slide_mpp)
    spec = GridSpec(mpp=1.0, patch_px=48, stride_px=32, downsample=4)
    cells = np.array([[0, 0], [0, 1], [1, 1], [4, 5], [5, 2]], np.int32)
    with open_slide(path) as slide:
        x, y = slide.info.need_mpp()
        frame = model_frame(
            level_downsamples=slide.info.level_downsamples, mpp_x=x, mpp_y=y, mpp=1.0
        )
        context = lay_context(slide.info, lay_grid(slide.info, frame, spec), 4)
        pixels, index = read_context(slide, context, cells, edge="white")
        for (row, col), numbers in zip(cells, index, strict=True):
            # From the patch's corner out, and one context px is 4 model px.
            left, top = (int(n) * 8 - 18 for n in (col, row))
            alone = slide.read(context.frame, left, top, 48, 48, edge="white")
            np.testing.assert_array_equal(gather(pixels, numbers, 48), alone)


def test_no_context_px_is_asked_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pyramid(tmp_path / "s.tif", noise(600, 600), mpp=1.0)
    spec = GridSpec(mpp=1.0, patch_px=64, stride_px=32, downsample=4)
    asked = np.zeros((400, 400), int)
    read = Slide.read

    def counting(self, frame, x, y, width, height, *, edge):
        asked[y + 100 : y + 100 + height, x + 100 : x + 100 + width] += 1
        return read(self, frame, x, y, width, height, edge=edge)

    monkeypatch.setattr(Slide, "read", counting)
    with open_slide(path) as slide:
        frame = model_frame(
            level_downsamples=slide.info.level_downsamples, mpp_x=1, mpp_y=1, mpp=1
        )
        context = lay_context(slide.info, lay_grid(slide.info, frame, spec), 4)
        rows, cols = np.mgrid[:8, :8]
        cells = np.stack([rows.ravel(), cols.ravel()], axis=1).astype(np.int32)
        read_context(slide, context, cells, edge="white")
    assert asked.max() == 1


def test_a_level_that_drifts_is_resampled() -> None:
    frame = model_frame(level_downsamples=(1.0,), mpp_x=0.5, mpp_y=0.5, mpp=0.5)
    sizes = ((100_000, 90_000), (25_000, 22_500))
    exact = context_frame(frame, 4, sizes, (1.0, 4.0))
    assert (exact.level, exact.native) == (1, True)
    # A quarter rounded up: a level of 25,001 px, 4.4 px off at its far edge.
    rounded = context_frame(frame, 4, sizes, (1.0, 3.9993))
    assert (rounded.level, rounded.native) == (1, False)
    # Coarser than wanted: the finer level is read.
    coarser = context_frame(frame, 4, sizes, (1.0, 4.01))
    assert (coarser.level, coarser.lv_per_md_x) == (0, 4.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_px": 60, "stride_px": 32}, "patch_px = 60.*for instance 64"),
        ({"patch_px": 64, "stride_px": 30}, "stride_px = 30.*for instance 32"),
    ],
)
def test_a_context_between_px_is_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_context(GridSpec(mpp=1.0, downsample=2, **changes), 4)
    with pytest.raises(ValueError, match="must be 2 to 64"):
        MemberSpec(name="a", architecture="HookUnet", context_mpp_factor=1)


def test_the_middle_of_the_context_is_joined() -> None:
    deepest = torch.zeros(1, 2, 4, 4)
    surroundings = torch.arange(256.0).reshape(1, 1, 16, 16)
    joined = hook(deepest, surroundings, 4)
    assert joined.shape == (1, 3, 4, 4)
    assert torch.equal(joined[0, 2], surroundings[0, 0, 6:10, 6:10])
    with pytest.raises(ValueError, match="features halve"):
        hook(deepest, surroundings[..., :15, :15], 4)


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_a_hooked_network_sees_its_context(factor: int) -> None:
    torch.manual_seed(0)
    network = HookUnet(
        "tu-mobilenetv3_small_050",
        context_mpp_factor=factor,
        decoder_channels=(32, 16, 16, 8, 8),
    ).eval()
    near, far = torch.randn(2, 1, 3, 64, 64)
    logits = network(near, far)
    assert logits.shape == (1, 2, 64, 64)
    assert not torch.allclose(logits, network(near, far.flip(-1)))
    network(near, far).sum().backward()
    assert all(p.grad is not None for p in network.context_decoder.parameters())


def test_a_hooked_network_refuses_what_it_cannot_join() -> None:
    with pytest.raises(ValueError, match="one of 2, 4, 8, 16, 32"):
        HookUnet("tu-mobilenetv3_small_050", context_mpp_factor=3)
    network = HookUnet("tu-mobilenetv3_small_050", context_mpp_factor=4).eval()
    with pytest.raises(ValueError, match="multiple of 64"):
        network(*torch.zeros(2, 1, 3, 96, 96))


def hooked(**changes: Any) -> MemberSpec:
    spec: dict[str, Any] = {
        "name": "h",
        "architecture": "HookUnet",
        "encoder": "tu-mobilenetv3_small_050",
        "weights": "random",
        "context_mpp_factor": 4,
        "options": {"decoder_channels": (32, 16, 16, 8, 8)},
    }
    return MemberSpec(**{**spec, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_mpp_factor": None}, "say how many times coarser"),
        ({"architecture": "Unet"}, "sees no context: leave"),
        ({"context_mpp_factor": 3}, "one of 2, 4, 8, 16, 32"),
        ({"options": {"context_mpp_factor": 4}}, "unknown option"),
    ],
)
def test_a_context_is_asked_of_networks_that_see_one(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_network(hooked(**changes))


def test_patches_that_a_hooked_network_cannot_take_are_refused() -> None:
    check_member(hooked(), patch_px=128)
    assert count_operations(hooked(), patch_px=128) > count_operations(
        hooked(architecture="Unet", context_mpp_factor=None), patch_px=128
    )
    with pytest.raises(ValueError, match="multiple of 64"):
        check_member(hooked(), patch_px=96)


def test_both_branches_start_from_the_encoders_weights() -> None:
    network = build_network(hooked())
    other = build_network(hooked(architecture="Unet", context_mpp_factor=None, seed=5))
    encoder = other.get_submodule("encoder").state_dict()
    load_encoder(network, dict(encoder), source=Path("encoder.pth"))
    for branch in ("encoder.target", "encoder.context"):
        for name, tensor in network.get_submodule(branch).state_dict().items():
            assert torch.equal(tensor, encoder[name])


def test_folding_leaves_what_a_hooked_network_says() -> None:
    network = build_network(hooked()).eval()
    folded = fold_batch_norm(network, views=2)
    views = torch.randn(2, 1, 3, 128, 128)
    assert folded is not network
    assert torch.allclose(folded(*views), network(*views), atol=1e-4)


def test_a_member_is_fitted_with_its_context() -> None:
    """Its tumor is told by the context alone: which of two colors lies around."""
    rng = np.random.default_rng(0)

    def batch(n: int = 8) -> dict[str, Any]:
        tumor = np.zeros((n, 64, 64), np.bool_)
        tumor[::2] = True
        context = np.where(tumor[..., None], 60, 200) + rng.normal(0, 5, (n, 64, 64, 3))
        return batch_of(
            tumor,
            pixels=rng.integers(0, 256, (n, 64, 64, 3), np.uint8),
            context4=context.clip(0, 255).astype(np.uint8),
        )

    recipe = recipe_from_tree(merge(FIT, {"fit": {"learning_rates": [3e-3]}}))
    fit = MemberFit(hooked(), recipe, torch.device("cpu"))
    for _ in range(6):
        row = fit.fit_epoch([batch() for _ in range(4)])
        validation, _ = fit.validate([batch()])
        fit.end_epoch({**row, **validation})
    assert fit.history[-1]["validation_auroc"] > 0.95


def test_a_patch_and_its_context_are_augmented_alike() -> None:
    rng = np.random.default_rng(1)
    patch = rng.integers(0, 256, (32, 32, 3), np.uint8)
    spec = AugmentSpec(blur_px=0.0, stain=0.1)
    mask = np.zeros((1, 32, 32), np.bool_)
    views, _ = augment_views(
        {1: patch, 4: patch}, mask, spec=spec, rng=np.random.default_rng(3)
    )
    assert np.array_equal(views[1], views[4])
    assert not np.array_equal(views[1], patch)
    # Alone it is what it was before there were contexts.
    alone, _ = augment_patch(patch, mask, spec=spec, rng=np.random.default_rng(3))
    assert alone.shape == patch.shape


def test_blur_is_of_as_many_um_in_the_context() -> None:
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    spec = AugmentSpec(
        blur_px=8.0, brightness=0, contrast=0, saturation=0, hue=0, flip=False,
        rotate=False,
    )  # fmt: skip
    views, _ = augment_views(
        {1: point, 4: point},
        np.zeros((1, 65, 65), np.bool_),
        spec=spec,
        rng=np.random.default_rng(0),
    )
    sigma = np.random.default_rng(0).uniform(0, 8.0)
    assert np.array_equal(views[1], blur(point, sigma))
    assert np.array_equal(views[4], blur(point, sigma / 4))


def test_a_fits_patches_are_the_middles_of_their_contexts(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", ramp(900, 900), mpp=0.9)
    row = SlideRow(slide_id="s", path=str(path), label="negative")
    recipe = recipe_from_tree(merge(FIT, {"slide": {"edge": "reflect"}}))
    table = pa.Table.from_pylist(
        [
            {"slide_id": "s", "x": x, "y": y, "tumor": 0.0, "area_mm2": 1.0}
            | {"dx": dx, "dy": 3, "seed": -1, "batch": 0}
            for x, y, dx in ((300, 200, 0), (411, 507, -3), (5, 880, 1))
        ],
        schema=DRAWS,
    )
    with closing(PatchReader({"s": row}, recipe)) as reader:
        batch = reader.read(table, (2, 4))
        plain = reader.read(table)
    assert "context4" not in plain
    for factor in (2, 4):
        near, far = (
            batch[name][:, 31:33, 31:33].mean((1, 2))
            for name in ("pixels", f"context{factor}")
        )
        assert np.abs(near - far)[:, :2].max() <= 1.4


@pytest.mark.parametrize(
    ("factor", "said"),
    [(32, "fit_patch_px = 96.*multiple of 64"), (4, "HookUnet needs a multiple of 64")],
)
def test_patches_to_fit_on_are_checked_at_the_start(factor: int, said: str) -> None:
    spec = hooked(context_mpp_factor=factor)
    member = {k: v for k, v in vars(spec).items() if v is not None}
    changes = {
        "sampling": {"fit_patch_px": 96},
        "grid": {"patch_px": 64, "stride_px": 32},
        "members": [{**member, "options": {}}],
    }
    with pytest.raises(ValueError, match=said):
        resolve_recipe(merge(FIT, changes), init="random")


def test_report_and_viewer_say_what_members_see_around_a_patch() -> None:
    plain = MemberSpec(name="plain", architecture="Unet")
    members = [plain]
    for name, factor in (("near", 2), ("far", 8), ("too", 8)):
        members.append(replace(plain, name=name, context_mpp_factor=factor))
    config = RunConfig(
        grid=GridSpec(mpp=0.5, patch_px=1024, stride_px=512), members=tuple(members)
    )
    assert [*format_contexts(config)] == [
        "near: 1,024 µm around each patch of 512 µm, 2 x as coarse",
        "far and too: 4,096 µm around each patch of 512 µm, 8 x as coarse",
    ]
