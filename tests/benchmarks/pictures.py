"""Pictures of the documentation that the product's own functions draw.

    python -m tests.benchmarks.pictures context docs/context.jpg SLIDE
    python -m tests.benchmarks.pictures refinement docs/refinement.jpg RUN
    python -m tests.benchmarks.pictures stains docs/stains.jpg

SLIDE is CMU-1-Small-Region.svs of OpenSlide's test data (CC0); RUN is the run that
``digipath demo --out`` leaves.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from digipath_ray.config.run import GridSpec
from digipath_ray.context import lay_context, read_context
from digipath_ray.demo.cohort import demo_slides
from digipath_ray.demo.drawing import draw_slide
from digipath_ray.geometry import model_frame
from digipath_ray.outcome.refine import refine_heatmap
from digipath_ray.patches import lay_grid
from digipath_ray.pipeline.prepare import open_cohort_slide
from digipath_ray.run.directory import RunDirectory
from digipath_ray.run.finished import read_run
from digipath_ray.slide.open import open_slide
from digipath_ray.stain.estimate import METHODS as STAIN_METHODS
from digipath_ray.stain.estimate import estimate_stains
from digipath_ray.stain.normalize import map_stains, normalize_pixels
from tests.benchmarks.refine import METHODS, NONE
from tests.benchmarks.stains import LABORATORIES, restain

FACTOR = 4
PATCH = GridSpec(mpp=0.5, patch_px=256, stride_px=128, downsample=16)
CELL = (12, 9)
SLIDE, SHOWN_PX = "patient_2_node_1", 100


def draw_context(out: Path, path: Path) -> None:
    """Where a patch and its context lie, and the two as a network is given them."""
    with open_slide(path) as slide:
        info = slide.info
        x, y = info.need_mpp()
        frame = model_frame(
            level_downsamples=info.level_downsamples, mpp_x=x, mpp_y=y, mpp=PATCH.mpp
        )
        context = lay_context(info, lay_grid(info, frame, PATCH), FACTOR)
        left, top = (cell * PATCH.stride_px for cell in CELL[::-1])
        near = slide.read(frame, left, top, 256, 256, edge="white")
        cells = np.array([CELL], np.int32)
        pixels, index = read_context(slide, context, cells, edge="white")
        far = pixels[index[0]].swapaxes(1, 2).reshape(256, 256, 3)
        across = (round(side / frame.l0_per_md_x) for side in info.level_dimensions[0])
        whole = slide.read(frame, 0, 0, *across, edge="white")[::4, ::4]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    shown = {
        "the slide, and where both lie": whole,
        f"the patch: {PATCH.patch_px} px at {PATCH.mpp} um/px": near,
        f"its context: as many px at {PATCH.mpp * FACTOR:g} um/px": far,
    }
    for axes, (name, image) in zip(panels, shown.items(), strict=True):
        show(axes, name, image)
    side, margin = PATCH.patch_px / 4, context.margin_px
    square(panels[0], left / 4, top / 4, side, "black")
    square(panels[0], left / 4 - margin, top / 4 - margin, side * FACTOR, "tab:blue")
    square(panels[2], margin, margin, PATCH.patch_px / FACTOR, "black")
    figure.savefig(out, dpi=110)


def draw_refinement(out: Path, run_folder: Path) -> None:
    """Outlines of a lesion by the threshold and by each method."""
    run = read_run(RunDirectory(run_folder))
    slide = run.slide(SLIDE)
    heatmap, record = slide.heatmap, slide.record
    spec = replace(run.config.outcome, refine_um=20.0)
    plain = heatmap.above(spec.threshold)
    height, width = plain.shape
    found = ndimage.find_objects(ndimage.label(plain)[0])
    rows, cols = max(found, key=lambda box: plain[box].sum())
    middle = ((s.start + s.stop) // 2 for s in (rows, cols))
    box = tuple(slice(max(m - SHOWN_PX, 0), m + SHOWN_PX) for m in middle)
    with open_cohort_slide(record.path, record.mpp, run.config) as opened:
        scale = (slide.l0_per_hm_x, slide.l0_per_hm_y)
        colors = opened.means(scale, (slice(0, height), slice(0, width)))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, method in zip(figure.subplots(1, 4), (NONE, *METHODS), strict=True):
        found = plain
        if method != NONE:
            own = replace(spec, refine=method)
            found = refine_heatmap(heatmap, lambda box: colors[box], own)
        name = "the threshold" if method == NONE else f"--refine {method}"
        show(axes, name, np.rint(colors[box]).astype(np.uint8))
        axes.contour(found[box], [0.5], colors="black", linewidths=1.2)
    figure.savefig(out, dpi=110)


def draw_stains(out: Path) -> None:
    """A patch of a demo slide, re-stained, and brought back by both methods."""
    drawn, _ = draw_slide(demo_slides()[0])
    center = np.array(drawn.shape[:2]) // 2
    y, x = center - 512
    pixels = drawn[y : y + 1024, x : x + 1024]
    by = LABORATORIES[1]
    other = restain(
        pixels, estimate_stains(pixels.reshape(-1, 3), "macenko"), by, seed=0
    )
    shown = {"as stained by one laboratory": pixels, "by another": other}
    for method in STAIN_METHODS:
        one, reference = (
            estimate_stains(p.reshape(-1, 3), method) for p in (other, pixels)
        )
        shown[f'brought back: stain = "{method}"'] = normalize_pixels(
            other, map_stains(one, reference)
        )
    figure = Figure(figsize=(11, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, image) in zip(
        figure.subplots(1, len(shown)), shown.items(), strict=True
    ):
        show(axes, name, image[:512, :512])
    figure.savefig(out, dpi=110)


def show(axes: Any, name: str, image: np.ndarray) -> None:
    """An image under its name."""
    axes.imshow(image, interpolation="none")
    axes.set_title(name, fontsize=9)
    axes.set_axis_off()


def square(axes: Any, left: float, top: float, side: float, color: str) -> None:
    """A square's outline."""
    corner = (left - 0.5, top - 0.5)
    axes.add_patch(Rectangle(corner, side, side, fill=False, ec=color, lw=1.6))


def main() -> None:
    """Draw the picture that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for what in ("context", "refinement", "stains"):
        own = commands.add_parser(what)
        own.add_argument("out", type=Path)
        if what != "stains":
            own.add_argument("source", type=Path)
    asked = parser.parse_args()
    if asked.what == "context":
        draw_context(asked.out, asked.source)
    elif asked.what == "refinement":
        draw_refinement(asked.out, asked.source)
    else:
        draw_stains(asked.out)


if __name__ == "__main__":
    main()
