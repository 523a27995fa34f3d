"""Reading Mpx per CPU-second: JPEG tiles or OpenSlide, a chunk at once or its patches.

    python -m tests.benchmarks.reading [SLIDE] [--mpp 0.5] [--repeat 3]
    python -m tests.benchmarks.reading [SLIDE] --hs2p FOLDER

Without a slide it draws one of the demo's. All read the same kept patches, 1024 px at
50 % overlap, at the mpp of level 0 unless another is given, and count the pixels the
NETWORK sees: decoding one four times is no gain. CPU seconds of this process, in turn;
medians, and the median of each round's ratio to OpenSlide by chunk.

With ``--hs2p`` also hs2p reads them, the reader of slide2vec, by OpenSlide and by vips,
in processes of an environment of its own in that folder (made with pip if there is
none). Patches that reach over the slide's edge are left out then, and the sums of all
pixels are compared.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from digipath_ray.config.toml import from_tree
from digipath_ray.demo.cohort import demo_slides, write_pyramid
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.demo.painting import Pixels
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

BY_OPENSLIDE = "by chunk, OpenSlide alone"
PEER = Path(__file__).parent / "peers" / "hs2p_read.py"
PACKAGES = ("hs2p[openslide,vips]==6.1.0", "pyvips-binary==8.18.7")


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
    parser.add_argument("--hs2p", type=Path, help="folder of its environment")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.slide
        if path is None:
            path = Path(folder) / "slide.tif"
            write_pyramid(path, draw_slide(demo_slides()[0])[0])
        measure(path, arguments)


def measure(path: Path, arguments: argparse.Namespace) -> None:
    repeat, patch_px, mpp = arguments.repeat, arguments.patch_px, arguments.mpp
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
        if arguments.hs2p:
            last = np.array((slide.info.height, slide.info.width)) - patch_px
            cells = cells[(cells * (patch_px // 2) <= last).all(1)]
    chunks = cut_chunks(cells, chunk_cells=64)
    mpx = len(cells) * patch_px**2 / 1e6
    corners = [(int(x), int(y)) for y, x in cells * (patch_px // 2)]

    def by_chunk() -> None:
        with open_slide(path) as slide:
            for chunk in chunks:
                blocks, _ = share_blocks(chunk, grid.spec.blocks_per_side)
                read_blocks(slide, grid, blocks, edge="white")

    def by_openslide() -> None:
        with mock.patch.object(JpegTiles, "knows", return_value=False):
            by_chunk()

    def patches() -> Iterator[Pixels]:
        with open_slide(path) as slide:
            for x, y in corners:
                yield slide.read(grid.frame, x, y, patch_px, patch_px, edge="white")

    def by_patch() -> None:
        for _ in patches():
            pass

    ways = {
        "by chunk": partial(cpu_seconds, by_chunk),
        BY_OPENSLIDE: partial(cpu_seconds, by_openslide),
        "patch by patch": partial(cpu_seconds, by_patch),
    }
    if arguments.hs2p:
        task = {
            "slide": str(path.absolute()),
            "corners": corners,
            "patch_px": patch_px,
            "stride_px": patch_px // 2,
            "mpp": mpp,
        }
        total = sum(int(pixels.sum(dtype=np.int64)) for pixels in patches())
        for backend in ("openslide", "vips"):
            peer = partial(ask_hs2p, arguments.hs2p, {**task, "backend": backend})
            print(
                f"sum of pixels by hs2p, {backend}: {peer(sum=True) / total:.6f} x ours"
            )
            ways[f"hs2p, {backend}"] = partial(peer, sum=False)
    rounds = [{name: way() for name, way in ways.items()} for _ in range(repeat)]
    print(f"{path.name}: {len(cells)} patches of {patch_px} px, {len(chunks)} chunks")
    print("| reading | Mpx per CPU-second | x OpenSlide |\n|---|---|---|")
    for name in ways:
        rate = mpx / statistics.median(r[name] for r in rounds)
        times = statistics.median(r[BY_OPENSLIDE] / r[name] for r in rounds)
        print(f"| {name} | {rate:.0f} | {times:.2f} |")


def ask_hs2p(environment: Path, task: dict[str, Any], *, sum: bool) -> float:
    """CPU seconds of hs2p for the task, or the sum of all pixels that it reads."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    done = subprocess.run(
        [python, PEER],
        input=json.dumps({**task, "sum": sum}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
