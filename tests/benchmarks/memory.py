"""Memory of a whole run against the size of its slide, the tissue being the same.

    python -m tests.benchmarks.memory [--sides 32768 57344 100352]
    python -m tests.benchmarks.memory --slides SLIDE...    # of your own

Makes slides of side x side px at 0.25 um/px: one synthetic lymph node of the demo, 4.6
x 4.1 mm, on empty glass, in JPEG tiles with levels 1, 4 and 16. ``digipath run``
segments each with the demo's members, in a process of its own and on the CPU. Meanwhile
the memory of all its processes is read: the proportional set (PSS, where a page that n
processes share counts 1/n for each), parted into actors, finish tasks and other
workers, the driver and Ray's own processes, all without the object store's shared
memory, and the store. Prints the highest of each, and of their sum. Needs Linux.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import psutil
import tifffile
from PIL import Image

from digipath_ray.demo.cohort import demo_slides
from digipath_ray.demo.drawing import LEVEL_STEPS, draw_slide
from digipath_ray.demo.painting import Pixels
from digipath_ray.run.directory import RunDirectory
from digipath_ray.slide.open import open_slide

MPP, DRAWN_MPP = 0.25, 1.0
TILE_PX = 512
SAMPLE_S = 0.5
KINDS = (
    ("ray::MapWorker", "actors"),
    ("ray::try_finish", "finishing"),
    ("ray::try_prepare", "preparing"),
    ("ray::MapBatches(read_shard", "readers"),
)
OTHERS = ("driver", "Ray itself")
STORE = "object store"


def encode(tile: Pixels) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=88, colorspace="RGB", outcolorspace="YCBCR", subsampling="444"
        )
    )


def tiles_of(drawn: Pixels, side: int, step: int) -> Iterator[bytes]:
    """JPEG of a level's tiles, row by row: the drawing in the middle of empty glass."""
    glass = np.empty((TILE_PX, TILE_PX, 3), np.uint8)
    glass[:] = drawn[0, 0]
    empty = encode(glass)
    scale = DRAWN_MPP / MPP / step
    image = Image.fromarray(drawn)
    width, height = (int(n * scale) for n in image.size)
    sizes = (int(n * DRAWN_MPP / MPP) for n in image.size)
    last = LEVEL_STEPS[-1]
    left, top = ((side - n) // 2 // last * last // step for n in sizes)
    for y in range(0, side // step, TILE_PX):
        for x in range(0, side // step, TILE_PX):
            box = np.array([x - left, y - top, x - left + TILE_PX, y - top + TILE_PX])
            if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
                yield empty
                continue
            # Beyond the drawing's edge it is the glass of its corner.
            tile = glass.copy()
            shown = box.clip(0, [width, height, width, height])
            size = (int(shown[2] - shown[0]), int(shown[3] - shown[1]))
            part = image.resize(size, box=tuple((shown / scale).tolist()))
            tile[: size[1], : size[0]] = np.asarray(part)
            yield encode(tile)


def write_slide(path: Path, drawn: Pixels, side: int) -> None:
    per_cm = 10_000 / MPP
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step in LEVEL_STEPS:
            tiff.write(
                tiles_of(drawn, side, step),
                shape=(side // step, side // step, 3),
                dtype=np.uint8,
                photometric="ycbcr",
                subsampling=(1, 1),
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                resolution=(per_cm / step, per_cm / step),
                resolutionunit="CENTIMETER",
                subfiletype=0 if step == 1 else 1,
                metadata=None,
            )


def memory_of(pid: int) -> tuple[int, int]:
    """PSS without shared memory, and PSS of shared memory, bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in text.splitlines()[1:])
    pss, shared = (int(fields[n].split()[0]) << 10 for n in ("Pss", "Pss_Shmem"))
    return pss - shared, shared


def watch(process: subprocess.Popen[bytes]) -> Counter[str]:
    """Highest bytes of each kind of process, and of all at one time."""
    highest: Counter[str] = Counter()
    kinds: dict[int, str] = {process.pid: "driver"}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        now: Counter[str] = Counter()
        with contextlib.suppress(psutil.Error):
            tree = [root, *root.children(recursive=True)]
        for one in tree:
            with contextlib.suppress(psutil.Error, OSError, KeyError):
                title = " ".join(one.cmdline())
                found = [kind for start, kind in KINDS if title.startswith(start)]
                # A worker keeps the name of what it did last while it is idle.
                kind = found[0] if found else kinds.get(one.pid, "Ray itself")
                kinds[one.pid] = kind
                own, shared = memory_of(one.pid)
                now[kind] += own
                now[STORE] += shared
        for kind, size in now.items():
            highest[kind] = max(highest[kind], size)
        highest["all"] = max(highest["all"], now.total())
        time.sleep(SAMPLE_S)
    return highest


def measure(slide: Path, out: Path) -> None:
    digipath = "from digipath_ray.cli import main; main()"
    command = [sys.executable, "-c", digipath, "run", str(slide), "--preset", "demo"]
    started = time.perf_counter()
    command += ["--out", str(out)]
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        highest = watch(process)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with {process.returncode}")
    seconds = time.perf_counter() - started
    (record,) = RunDirectory(out).read_done().values()
    names = [*(kind for _, kind in KINDS), *OTHERS, STORE, "all"]
    cells = [f"{highest[name] / 1e9:.2f}" for name in names]
    with open_slide(slide) as opened:
        width, height = opened.info.width, opened.info.height
    row = [f"{width:,} x {height:,}", f"{width * height / 1e9:.1f}"]
    row.append(f"{record.slide.patches:,}")
    print("| " + " | ".join([*row, *cells, f"{seconds:.0f}"]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[32768, 57344, 100352])
    parser.add_argument("--slides", type=Path, nargs="+", default=[])
    given = parser.parse_args()
    drawn, _ = draw_slide(demo_slides()[3])
    names = [*(kind for _, kind in KINDS), *OTHERS, STORE, "all at one time"]
    columns = ["px", "gigapixels", "patches", *(f"{n}, GB" for n in names), "s"]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for i, slide in enumerate(given.slides):
            measure(slide, Path(folder) / f"run{i}")
        for side in [] if given.slides else given.sides:
            slide = Path(folder) / f"{side}.tif"
            write_slide(slide, drawn, side)
            measure(slide, Path(folder) / f"run{side}")
            slide.unlink()
    print(f"\n{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
