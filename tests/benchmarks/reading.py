"""Reading Mpx per CPU-second: JPEG tiles or OpenSlide, a chunk at once or its patches.

    python -m tests.benchmarks.reading [SLIDE] [--mpp 0.5] [--repeat 3]

Without a slide it draws one of the demo's. All read the same kept patches, 1024 px at
50 % overlap, at the mpp of level 0 unless another is given, and count the pixels the
NETWORK sees: decoding one four times is no gain. CPU seconds of this process, in turn;
medians, and the median of each round's ratio to OpenSlide by chunk.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from digipath_ray.config.toml import from_tree
from digipath_ray.demo.cohort import demo_slides, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.patches import (
    cut_chunks,
    keep_cells,
    lay_grid,
    read_blocks,
    share_blocks,
)
from digipath_ray.pipeline.prepare import find_slide_tissue, grid_of
from digipath_ray.slide.jpeg_tiles import JpegTiles
from digipath_ray.slide.open import open_slide


def cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", nargs="?", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--patch-px", type=int, default=1024)
    parser.add_argument("--mpp", type=float)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.slide
        if path is None:
            path = Path(folder) / "slide.tif"
            write_pyramid(path, draw_slide(demo_slides()[0])[0])
        measure(path, arguments.repeat, arguments.patch_px, arguments.mpp)


def measure(path: Path, repeat: int, patch_px: int, mpp: float | None) -> None:
    with open_slide(path) as slide:
        mpp = mpp or slide.info.need_mpp()[0]
        config = from_tree(
            {
                "grid": {"mpp": mpp, "patch_px": patch_px, "stride_px": patch_px // 2},
                "tissue": {"margin_um": 0.0},
            }
        )
        grid = grid_of(slide, config)
        _, tissue = find_slide_tissue(slide, config)
        cells = keep_cells(lay_grid(slide.info, grid.frame, config.grid), tissue.mask)
    chunks = cut_chunks(cells, chunk_cells=64)
    mpx = len(cells) * patch_px**2 / 1e6

    def by_chunk() -> None:
        with open_slide(path) as slide:
            for chunk in chunks:
                blocks, _ = share_blocks(chunk, grid.spec.blocks_per_side)
                read_blocks(slide, grid, blocks, edge="white")

    def by_patch() -> None:
        with open_slide(path) as slide:
            for row, col in cells:
                y, x = int(row) * patch_px // 2, int(col) * patch_px // 2
                slide.read(grid.frame, x, y, patch_px, patch_px, edge="white")

    def by_openslide() -> None:
        with mock.patch.object(JpegTiles, "knows", return_value=False):
            by_chunk()

    ways = {
        "by chunk": by_chunk,
        "by chunk, OpenSlide alone": by_openslide,
        "patch by patch": by_patch,
    }
    rounds = [
        {name: cpu_seconds(way) for name, way in ways.items()} for _ in range(repeat)
    ]
    print(f"{path.name}: {len(cells)} patches of {patch_px} px, {len(chunks)} chunks")
    print("| reading | Mpx per CPU-second | x OpenSlide |\n|---|---|---|")
    for name in ways:
        rate = mpx / statistics.median(r[name] for r in rounds)
        times = statistics.median(
            r["by chunk, OpenSlide alone"] / r[name] for r in rounds
        )
        print(f"| {name} | {rate:.0f} | {times:.2f} |")


if __name__ == "__main__":
    main()
