"""The patch grid of a slide, the selected cells, and the chunks they are read in.

The grid starts at the slide's top-left corner and overhangs the far edges. A cell is
kept if its patch touches the sampling mask: the tissue and a margin. All patches over a
tissue pixel are then kept, so its value is the one that predicting the whole slide
gives, whatever the margin.

A chunk is up to 64 neighboring kept cells, read together as stride-sized blocks; each
block is read once, no matter how many patches share it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from skimage.transform import integral_image

from digipath_ray.config.run import Edge, GridSpec, RunConfig
from digipath_ray.geometry import Frame
from digipath_ray.schema import PATCHES
from digipath_ray.slide.open import Pixels, Slide, SlideInfo
from digipath_ray.tissue.mask import Mask

Cells = NDArray[np.int32]
"""Grid cells [n, 2]: row, col."""
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Patch grid of one slide; sizes in model px."""

    spec: GridSpec
    frame: Frame
    md_width: int
    md_height: int

    @property
    def rows(self) -> int:
        """Cells down the slide."""
        return self._cells_along(self.md_height)

    @property
    def cols(self) -> int:
        """Cells across the slide."""
        return self._cells_along(self.md_width)

    def _cells_along(self, length: int) -> int:
        beyond = max(0, length - self.spec.patch_px)
        return math.ceil(beyond / self.spec.stride_px) + 1

    @property
    def hm_width(self) -> int:
        """Width of the heatmap, px."""
        return math.ceil(self.md_width / self.spec.downsample)

    @property
    def hm_height(self) -> int:
        """Height of the heatmap, px."""
        return math.ceil(self.md_height / self.spec.downsample)

    @property
    def hm_mpp(self) -> tuple[float, float]:
        """EFFECTIVE um per heatmap px in x and y."""
        d = self.spec.downsample
        return self.frame.mpp_x * d, self.frame.mpp_y * d


def lay_grid(info: SlideInfo, frame: Frame, spec: GridSpec) -> Grid:
    """Build the grid of a slide read in ``frame``."""
    md_width, md_height = frame.md_size(info.width, info.height)
    return Grid(spec=spec, frame=frame, md_width=md_width, md_height=md_height)


def keep_cells(grid: Grid, sampling: Mask) -> Cells:
    """Cells [n, 2] whose patch touches the sampling mask, row by row."""
    held = _count_in_patches(grid, sampling)[0] > 0
    return np.argwhere(held).astype(np.int32)


def _count_in_patches(
    grid: Grid, mask: Mask
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """True mask px in every patch [rows, cols], and all px it touches, overhang too."""
    frame, spec = grid.frame, grid.spec
    x_scale, y_scale = frame.mpp_x / mask.mpp_x, frame.mpp_y / mask.mpp_y
    x0 = np.arange(grid.cols) * spec.stride_px * x_scale
    y0 = np.arange(grid.rows) * spec.stride_px * y_scale
    x1, y1 = x0 + spec.patch_px * x_scale, y0 + spec.patch_px * y_scale
    width, height = (
        np.ceil(end - 1e-6) - np.floor(start + 1e-6)
        for start, end in ((x0, x1), (y0, y1))
    )
    return _count(mask.array, x0, y0, x1, y1), height[:, None] * width


def _count(
    mask: NDArray[np.bool_],
    x0: Floats,
    y0: Floats,
    x1: Floats,
    y1: Floats,
) -> NDArray[np.int64]:
    """Number of true mask px in each box (half-open, mask px), by an integral image."""
    height, width = mask.shape
    # A row and a column of zeros first, so that a box at an edge needs no special case.
    total = np.pad(integral_image(mask), ((1, 0), (1, 0)))
    # Shrunk by an epsilon, so that a border at 16.0000001 does not touch px 16.
    left = np.clip(np.floor(x0 + 1e-6), 0, width).astype(int)
    right = np.clip(np.ceil(x1 - 1e-6), 0, width).astype(int)
    top = np.clip(np.floor(y0 + 1e-6), 0, height).astype(int)
    bottom = np.clip(np.ceil(y1 - 1e-6), 0, height).astype(int)
    return (
        total[np.ix_(bottom, right)]
        - total[np.ix_(top, right)]
        - total[np.ix_(bottom, left)]
        + total[np.ix_(top, left)]
    )


def cut_chunks(cells: Cells, *, chunk_cells: int) -> list[Cells]:
    """Split cells into chunks, in serpentine order through bands of rows.

    A band is as high as a full chunk is wide, so chunks are about square and share most
    of their blocks; only the last chunk may be short.
    """
    if len(cells) == 0:
        return []
    band_rows = max(1, math.isqrt(chunk_cells))
    row, col = cells[:, 0], cells[:, 1]
    band = row // band_rows
    # Every other band runs back, and every other column up, so that neighbors in the
    # list are neighbors on the slide where a chunk is cut.
    across = np.where(band % 2 == 0, col, -col)
    down = np.where(col % 2 == 0, row, -row)
    ordered = cells[np.lexsort((down, across, band))]
    return [ordered[i : i + chunk_cells] for i in range(0, len(ordered), chunk_cells)]


def share_blocks(cells: Cells, blocks_per_side: int) -> tuple[Cells, NDArray[np.int64]]:
    """Blocks covered by a chunk's patches, without duplicates.

    Returns:
        Block positions [nb, 2] (row, col) in row order, and for each cell the indices
        [n, k, k] of its blocks.
    """
    step = np.arange(blocks_per_side)
    rows = cells[:, 0, None, None] + step[:, None]
    cols = cells[:, 1, None, None] + step
    # The k x k blocks under every patch; overlapping patches name the same ones.
    pairs = np.stack(np.broadcast_arrays(rows, cols), axis=-1).reshape(-1, 2)
    blocks, index = np.unique(pairs, axis=0, return_inverse=True)
    shape = (len(cells), blocks_per_side, blocks_per_side)
    return blocks.astype(np.int32), index.reshape(shape)


def join_blocks(blocks: Cells) -> Iterator[tuple[int, int, int, int]]:
    """Yield disjoint rectangles (row, col, rows, cols) that cover exactly these blocks.

    Runs along each row, merged downward if the next row has the same run.
    """
    open_runs: dict[tuple[int, int], tuple[int, int]] = {}
    # One row more than there are, which has no run and so closes the open ones.
    for row in range(int(blocks[:, 0].min()), int(blocks[:, 0].max()) + 2):
        runs = _runs(np.sort(blocks[blocks[:, 0] == row, 1]))
        for run in [r for r in open_runs if r not in runs]:
            top, height = open_runs.pop(run)
            yield top, run[0], height, run[1] - run[0]
        for run in runs:
            top, height = open_runs.get(run, (row, 0))
            open_runs[run] = (top, height + 1)


def _runs(cols: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Half-open runs of consecutive integers."""
    if len(cols) == 0:
        return []
    parts = np.split(cols, np.flatnonzero(np.diff(cols) > 1) + 1)
    return [(int(p[0]), int(p[-1]) + 1) for p in parts]


def read_blocks(slide: Slide, grid: Grid, blocks: Cells, *, edge: Edge) -> Pixels:
    """Read the blocks, [nb, stride, stride, 3]; each stored pixel is decoded once."""
    return read_squares(slide, grid.frame, blocks, side=grid.spec.stride_px, edge=edge)


def read_squares(
    slide: Slide,
    frame: Frame,
    squares: Cells,
    *,
    side: int,
    edge: Edge,
    origin: int = 0,
) -> Pixels:
    """Squares of a lattice, [n, side, side, 3], joined to rectangles for reading.

    Args:
        slide: open slide.
        frame: of the px that are read.
        squares: [n, 2], row and column in the lattice.
        side: of a square, px of the frame.
        edge: what lies beyond the slide.
        origin: where row and column 0 begin, px of the frame.
    """
    pixels: Pixels = np.empty((len(squares), side, side, 3), np.uint8)
    number = {(int(r), int(c)): i for i, (r, c) in enumerate(squares)}
    for row, col, rows, cols in join_blocks(squares):
        x, y = origin + col * side, origin + row * side
        read = slide.read(frame, x, y, cols * side, rows * side, edge=edge).reshape(
            rows, side, cols, side, 3
        )
        for r in range(rows):
            for c in range(cols):
                pixels[number[row + r, col + c]] = read[r, :, c]
    return pixels


def patch_table(slide_id: str, grid: Grid, cells: Cells, tissue: Mask) -> pa.Table:
    """The PATCHES table of a slide."""
    frame, spec = grid.frame, grid.spec
    n = len(cells)
    md_y, md_x = (cells.astype(np.int64) * spec.stride_px).T
    columns = {
        "slide_id": [slide_id] * n,
        "row": cells[:, 0],
        "col": cells[:, 1],
        "x": np.rint(md_x * frame.l0_per_md_x).astype(np.int64),
        "y": np.rint(md_y * frame.l0_per_md_y).astype(np.int64),
        "level": np.full(n, frame.level, np.int32),
        "read_px": np.full(n, round(spec.patch_px * frame.lv_per_md_x), np.int32),
        "mpp_x": np.full(n, frame.mpp_x),
        "mpp_y": np.full(n, frame.mpp_y),
        "tissue": tissue_share(grid, cells, tissue),
    }
    return pa.table(columns, schema=PATCHES)


def tissue_share(grid: Grid, cells: Cells, tissue: Mask) -> NDArray[np.float32]:
    """Tissue fraction [n] of each patch; the overhang counts as background."""
    if len(cells) == 0:
        return np.empty(0, np.float32)
    # Divided by the px that were looked at, not by the exact area, so that a patch full
    # of tissue has a fraction of 1. No clipping: the overhang is background.
    counts, touched = _count_in_patches(grid, tissue)
    return (counts / touched)[cells[:, 0], cells[:, 1]].astype(np.float32)


def patch_boxes(grid: Grid, cells: Cells, mask: Mask) -> NDArray[np.float64]:
    """Boxes [n, 4] (x0, y0, x1, y1) of the cells' patches, mask px, for drawing."""
    frame, side = grid.frame, grid.spec.patch_px
    y0, x0 = (cells * float(grid.spec.stride_px)).T
    boxes = np.stack([x0, y0, x0 + side, y0 + side], axis=1)
    x_scale, y_scale = frame.mpp_x / mask.mpp_x, frame.mpp_y / mask.mpp_y
    return boxes * np.array([x_scale, y_scale, x_scale, y_scale])


SHARED_BLOCKS = 0.6
"""Fraction of a patch's blocks that no other patch of its chunk shares, on
scattered tissue; 0.32 on solid tissue at 50 % overlap."""


def cell_bytes(config: RunConfig) -> float:
    """Upper bound of a chunk's bytes per patch: its pixels, and the maps of classes."""
    blocks = max(1.0, SHARED_BLOCKS * config.grid.blocks_per_side**2)
    own = blocks * config.grid.stride_px**2 * 3
    # Contexts share more of their blocks than patches do.
    around = len(config.contexts) * SHARED_BLOCKS * config.grid.patch_px**2 * 3
    return own + around + len(config.class_channels) * config.grid.hm_patch**2 * 4
