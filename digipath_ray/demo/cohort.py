"""Cohorts of synthetic slides: the demo's five slides of two patients, or others.

H&E-stained lymph nodes with planted metastases, written as tiled pyramids for
OpenSlide, with a manifest and ground-truth masks. One of the demo's files is damaged on
purpose.
"""

import csv
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from digipath_ray.demo.drawing import LEVEL_STEPS, DemoSlide, draw_slide
from digipath_ray.demo.painting import Pixels
from digipath_ray.machine import allowance, available_memory, keep_freed_memory

DEMO_MPP = 1.0
MANIFEST = "cohort.csv"
COLUMNS = ("slide_id", "path", "patient_id", "node", "label", "annotation")
TILE_PX = 256
DRAWING_BYTES = 2 << 30
"""Free memory for each process that draws: more than twice what it takes."""
DAMAGED_SHARE = 0.4
"""Fraction of pixels lost in the damaged file."""


DEMO_SEED = 7


def demo_slides(seed: int = DEMO_SEED) -> tuple[DemoSlide, ...]:
    """The demo's five slides: patient_1 is pN1, patient_2 pN1mi (one slide unreadable).

    Every seed gives different nodes, lesions and stains of the same composition.
    """
    seeds = np.random.SeedSequence(seed).generate_state(5).tolist()
    return (
        DemoSlide(
            slide_id="patient_1_node_1",
            patient_id="patient_1",
            node=1,
            label="macro",
            seed=seeds[0],
            width=4864,
            tissue_mm=(3.7, 2.8),
        ),
        DemoSlide(
            slide_id="patient_1_node_2",
            patient_id="patient_1",
            node=2,
            label="negative",
            seed=seeds[1],
            fold=True,
        ),
        DemoSlide(
            slide_id="patient_2_node_1",
            patient_id="patient_2",
            node=1,
            label="micro",
            seed=seeds[2],
            ink="blue",
        ),
        DemoSlide(
            slide_id="patient_2_node_2",
            patient_id="patient_2",
            node=2,
            label="itc",
            seed=seeds[3],
        ),
        DemoSlide(
            slide_id="patient_2_node_3",
            patient_id="patient_2",
            node=3,
            label="negative",
            seed=seeds[4],
            tissue_mm=(2.2, 1.7),
            damaged=True,
        ),
    )


def build_demo_cohort(folder: Path, *, seed: int = DEMO_SEED) -> Path:
    """Draw the demo's slides into ``folder``; returns the manifest path."""
    return build_cohort(folder, demo_slides(seed))


def build_cohort(folder: Path, slides: Sequence[DemoSlide]) -> Path:
    """Draw slides into ``folder``; returns the manifest path.

    Writes ``slides/<slide_id>.tif``, for those with tumor ``truth/<slide_id>.png`` (255
    = tumor, 4 um/px), and ``cohort.csv``, whose paths are relative to it. Equal seeds
    give equal bytes.
    """
    for slide in slides:
        write_slide(slide, folder)
    return write_manifest(folder / MANIFEST, slides)


@contextmanager
def building(folder: Path, slides: Sequence[DemoSlide]) -> Iterator[Callable[[], Path]]:
    """:func:`build_cohort` in processes beside this one.

    Yields what waits for them and gives the manifest.
    """
    allowed = allowance(None)
    memory = min(available_memory(), allowed.memory)
    fit = min(int(allowed.cores), int(memory / DRAWING_BYTES), len(slides))
    pool = ProcessPoolExecutor(
        max(1, fit),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_drawing,
    )
    drawn = [pool.submit(write_slide, slide, folder) for slide in slides]

    def wait() -> Path:
        for one in drawn:
            one.result()
        return write_manifest(folder / MANIFEST, slides)

    try:
        yield wait
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_drawing() -> None:
    # An interrupt of the terminal ends the process that waits, and so this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def write_slide(slide: DemoSlide, folder: Path) -> None:
    """Draw a slide and its truth into ``folder``."""
    for name in ("slides", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rgb, truth = draw_slide(slide)
    path = folder / _slide_path(slide)
    write_pyramid(path, rgb)
    if slide.damaged:
        damage(path)
    if slide.label != "negative":
        mask = Image.fromarray(truth.astype(np.uint8) * 255)
        mask.save(folder / _truth_path(slide), optimize=True)


def _slide_path(slide: DemoSlide) -> str:
    return f"slides/{slide.slide_id}.tif"


def _truth_path(slide: DemoSlide) -> str:
    """Path of the truth mask; empty for a slide without tumor."""
    return "" if slide.label == "negative" else f"truth/{slide.slide_id}.png"


def write_manifest(path: Path, slides: Sequence[DemoSlide]) -> Path:
    """Write the cohort's CSV: one row per slide, paths relative to the CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for s in slides:
            row = (s.slide_id, _slide_path(s), s.patient_id, s.node, s.label)
            rows.writerow((*row, _truth_path(s)))
    return path


def write_pyramid(path: Path, rgb: Pixels, *, mpp: float = DEMO_MPP) -> None:
    """Write a tiled JPEG pyramid (levels 1, 4, 16) with its mpp in the tags."""
    per_cm = 10_000 / mpp
    with tifffile.TiffWriter(path) as tiff:
        for step in LEVEL_STEPS:
            tiff.write(
                _shrink(rgb, step),
                photometric="rgb",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                compressionargs={"level": 88},
                resolution=(per_cm / step, per_cm / step),
                resolutionunit="CENTIMETER",
                subfiletype=0 if step == 1 else 1,
                software="digipath_ray demo",
                metadata=None,
            )


def _shrink(rgb: Pixels, step: int) -> Pixels:
    height, width = rgb.shape[:2]
    return np.asarray(
        Image.fromarray(rgb).resize(
            (width // step, height // step), Image.Resampling.BOX
        )
    )


def damage(path: Path) -> None:
    """Overwrite the middle of a slide's finest level with zero bytes."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        start, stop = page.dataoffsets[0], page.dataoffsets[-1]
    length = int((stop - start) * DAMAGED_SHARE)
    with path.open("r+b") as file:
        file.seek(start + (stop - start - length) // 2)
        file.write(bytes(length))
