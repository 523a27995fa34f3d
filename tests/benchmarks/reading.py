"""Reading Mpx per CPU-second: a chunk's blocks once, against patch by patch.

    python -m tests.benchmarks.reading [SLIDE] [--repeat 3]

Without a slide it draws one of the demo's. Both read the same kept patches, 1024 px at
50 % overlap at level 0, and count the pixels the NETWORK sees: decoding one four times
is no gain. CPU seconds of this process, the two in turn, median of the ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.slide
        if path is None:
            path = Path(folder) / "slide.tif"
            write_pyramid(path, draw_slide(demo_slides()[0])[0])
        measure(path, arguments.repeat, arguments.patch_px)


def measure(path: Path, repeat: int, patch_px: int) -> None:
    with open_slide(path) as slide:
        mpp = slide.info.need_mpp()[0]
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

    rows = [(cpu_seconds(by_chunk), cpu_seconds(by_patch)) for _ in range(repeat)]
    once = statistics.median(r[0] for r in rows)
    naive = statistics.median(r[1] for r in rows)
    ratio = statistics.median(r[1] / r[0] for r in rows)
    print(f"{path.name}: {len(cells)} patches of {patch_px} px, {len(chunks)} chunks")
    print("| reading | Mpx per CPU-second |\n|---|---|")
    print(f"| patch by patch | {mpx / naive:.0f} |\n| by chunk | {mpx / once:.0f} |")
    print(f"ratio {ratio:.2f} (median of {repeat})")


if __name__ == "__main__":
    main()
