"""Context of patches: where it lies, what is read, and the network that joins it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from digipath_ray.config.run import GridSpec
from digipath_ray.context import check_context, context_frame, lay_context, read_context
from digipath_ray.geometry import model_frame
from digipath_ray.networks.hook import HookUnet, hook
from digipath_ray.patches import lay_grid
from digipath_ray.slide.open import Slide, open_slide
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
        check_context(GridSpec(mpp=1.0), 1)


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
