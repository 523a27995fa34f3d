"""Grid, kept cells, chunks and blocks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath_ray.config.run import GridSpec
from digipath_ray.geometry import Frame
from digipath_ray.patches import (
    Grid,
    cut_chunks,
    join_blocks,
    keep_cells,
    patch_boxes,
    patch_table,
    read_blocks,
    share_blocks,
    tissue_share,
)
from digipath_ray.schema import PATCHES
from digipath_ray.slide.open import open_slide
from digipath_ray.tissue.mask import Mask
from tests.slides import noise, write_pyramid


def native(mpp_x: float = 1.0, mpp_y: float = 1.0) -> Frame:
    return Frame(
        level=0,
        lv_per_md_x=1.0,
        lv_per_md_y=1.0,
        l0_per_md_x=1.0,
        l0_per_md_y=1.0,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
    )


def make_grid(width: int, height: int, *, patch: int, stride: int) -> Grid:
    spec = GridSpec(mpp=1.0, patch_px=patch, stride_px=stride, downsample=1)
    return Grid(spec=spec, frame=native(), md_width=width, md_height=height)


def all_cells(grid: Grid) -> np.ndarray:
    array = np.ones((grid.md_height, grid.md_width), bool)
    mask = Mask(array=array, mpp_x=1.0, mpp_y=1.0)
    return keep_cells(grid, mask)


def stitch_values(grid: Grid, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum over the patches of the values of their cells, at every model px."""
    spec = grid.spec
    total = np.zeros((grid.md_height, grid.md_width), np.int64)
    for row, col in cells:
        y, x = row * spec.stride_px, col * spec.stride_px
        total[y : y + spec.patch_px, x : x + spec.patch_px] += values[row, col]
    return total


def test_grid_overhangs_the_far_edge_and_has_no_patch_too_many() -> None:
    grid = make_grid(775, 522, patch=512, stride=256)
    # 0, 256, 512 (to 1024) across; 0, 256 (to 768) down.
    assert (grid.cols, grid.rows) == (3, 2)


def test_slide_smaller_than_a_patch_has_one_patch() -> None:
    grid = make_grid(1, 300, patch=512, stride=256)
    assert (grid.cols, grid.rows) == (1, 1)
    assert all_cells(grid).tolist() == [[0, 0]]


def test_keeps_the_cells_whose_patch_holds_any_mask_pixel() -> None:
    grid = make_grid(2048, 1024, patch=1024, stride=512)
    array = np.zeros((64, 128), bool)  # 16 um/px
    array[10, 63] = True  # x 1008..1024 um: the last px of the first patch
    mask = Mask(array=array, mpp_x=16.0, mpp_y=16.0)
    assert keep_cells(grid, mask).tolist() == [[0, 0], [0, 1]]


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    blocks=st.integers(1, 5),
    unit=st.sampled_from([32, 48, 64]),
    cut=st.integers(0, 31),
    mask_mpp=st.sampled_from([3.0, 7.3, 8.0, 16.0]),
    mpp=st.tuples(st.floats(0.2, 1.1), st.floats(0.2, 1.1)),
    seed=st.integers(0, 2**32 - 1),
)
def test_tissue_has_the_value_that_any_larger_margin_gives(
    width: int,
    height: int,
    blocks: int,
    unit: int,
    cut: int,
    mask_mpp: float,
    mpp: tuple[float, float],
    seed: int,
) -> None:
    stride = unit
    patch = max(32, blocks * unit - (cut if blocks > 1 else 0))
    spec = GridSpec(mpp=1.0, patch_px=patch, stride_px=stride, downsample=1)
    grid = Grid(spec=spec, frame=native(*mpp), md_width=width, md_height=height)
    shape = (
        max(1, round(height * mpp[1] / mask_mpp)),
        max(1, round(width * mpp[0] / mask_mpp)),
    )
    array = np.random.default_rng(seed).random(shape) < 0.05
    # As a thumbnail has it: the whole slide, its px stretched to fit.
    mask = Mask(
        array=array, mpp_x=width * mpp[0] / shape[1], mpp_y=height * mpp[1] / shape[0]
    )
    # Whole numbers, so that sums do not depend on their order.
    values = np.random.default_rng(seed).integers(1, 1 << 30, (grid.rows, grid.cols))
    close, all_over = (
        stitch_values(grid, cells, values)
        for cells in (keep_cells(grid, mask), np.argwhere(values > 0))
    )
    rows = ((np.arange(height) + 0.5) * mpp[1] / mask.mpp_y).astype(int)
    cols = ((np.arange(width) + 0.5) * mpp[0] / mask.mpp_x).astype(int)
    tissue = array[np.ix_(rows, cols)]
    assert np.array_equal(close[tissue], all_over[tissue])
    assert (close[tissue] > 0).all()
    for margin_um in (40.0, 240.0):
        more = keep_cells(grid, mask.dilated(margin_um))
        assert {*map(tuple, keep_cells(grid, mask))} <= {*map(tuple, more)}


def test_chunks_are_full_but_the_last_and_hold_every_cell_once() -> None:
    rng = np.random.default_rng(1)
    cells = np.argwhere(rng.random((30, 40)) < 0.4).astype(np.int32)
    chunks = cut_chunks(cells, chunk_cells=64)
    assert [len(c) for c in chunks[:-1]] == [64] * (len(chunks) - 1)
    assert sorted(map(tuple, np.concatenate(chunks))) == sorted(map(tuple, cells))


def test_chunk_of_whole_tissue_shares_most_of_its_blocks() -> None:
    cells = np.argwhere(np.ones((32, 32), bool)).astype(np.int32)
    blocks = [len(share_blocks(c, 2)[0]) for c in cut_chunks(cells, chunk_cells=64)]
    assert max(blocks) == 81  # 8 x 8 cells: 9 x 9 blocks
    assert cut_chunks(cells[:0], chunk_cells=64) == []


def test_blocks_of_two_neighbors_are_shared() -> None:
    blocks, index = share_blocks(np.array([[0, 0], [0, 1]], np.int32), 2)
    assert blocks.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert index.tolist() == [[[0, 1], [3, 4]], [[1, 2], [4, 5]]]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_rectangles_hold_each_block_exactly_once(cells: set[tuple[int, int]]) -> None:
    found = [
        (r, c)
        for row, col, rows, cols in join_blocks(np.array(sorted(cells), np.int32))
        for r in range(row, row + rows)
        for c in range(col, col + cols)
    ]
    assert sorted(found) == sorted(cells)


def test_patches_gathered_from_blocks_equal_patches_read_alone(tmp_path) -> None:
    pixels = noise(300, 260)
    path = write_pyramid(tmp_path / "s.tif", pixels, mpp=1.0)
    grid = make_grid(300, 260, patch=96, stride=64)
    cells = all_cells(grid)[[0, 1, 5, 6, -1]]
    blocks, index = share_blocks(cells, grid.spec.blocks_per_side)
    with open_slide(path) as slide:
        got = read_blocks(slide, grid, blocks, edge="white")
        for cell, numbers in zip(cells, index, strict=True):
            patch = np.block([[[got[n]] for n in row] for row in numbers])
            y, x = cell * 64
            alone = slide.read(grid.frame, x, y, 96, 96, edge="white")
            np.testing.assert_array_equal(patch[:96, :96], alone)


def test_each_block_is_asked_of_the_reader_once(tmp_path) -> None:
    path = write_pyramid(tmp_path / "s.tif", noise(600, 600), mpp=1.0)
    grid = make_grid(600, 600, patch=128, stride=64)
    blocks, _ = share_blocks(all_cells(grid), 2)
    asked = np.zeros((640, 640), int)
    with open_slide(path) as slide:
        read = slide.read

        def counting(frame, x, y, width, height, *, edge):
            asked[y : y + height, x : x + width] += 1
            return read(frame, x, y, width, height, edge=edge)

        slide.read = counting  # type: ignore[method-assign]
        read_blocks(slide, grid, blocks, edge="white")
    assert asked.max() == 1
    assert asked[:600, :600].min() == 1


def test_patch_table_follows_its_schema_and_does_not_drift() -> None:
    frame = Frame(
        level=1,
        lv_per_md_x=1.0,
        lv_per_md_y=1.0,
        l0_per_md_x=2.0001,
        l0_per_md_y=2.0001,
        mpp_x=1.0,
        mpp_y=1.0,
    )
    spec = GridSpec(mpp=1.0, patch_px=64, stride_px=32, downsample=4)
    grid = Grid(spec=spec, frame=frame, md_width=40_000, md_height=64)
    cells = np.array([[0, 0], [0, 1000]], np.int32)
    table = patch_table(
        "s", grid, cells, Mask(array=np.ones((8, 5000), bool), mpp_x=8.0, mpp_y=8.0)
    )
    assert table.schema == PATCHES
    assert table["x"].to_pylist() == [0, 64003]  # 32000 * 2.0001, rounded once
    assert table["tissue"].to_pylist() == [1.0, 1.0]


def test_tissue_share_of_a_half_covered_patch() -> None:
    grid = make_grid(128, 64, patch=64, stride=64)
    array = np.zeros((8, 16), bool)
    array[:, 4:8] = True
    share = tissue_share(
        grid, np.array([[0, 0], [0, 1]]), Mask(array=array, mpp_x=8.0, mpp_y=8.0)
    )
    assert share.tolist() == [0.5, 0.0]


def test_patch_boxes_are_in_mask_px() -> None:
    grid = make_grid(256, 256, patch=128, stride=64)
    mask = Mask(array=np.ones((32, 32), bool), mpp_x=8.0, mpp_y=8.0)
    boxes = patch_boxes(grid, np.array([[1, 2]], np.int32), mask)
    assert boxes.tolist() == [[16.0, 8.0, 32.0, 24.0]]
