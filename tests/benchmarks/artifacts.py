"""Artifacts put into real tissue, and how much of them is found.

    python -m tests.benchmarks.artifacts DATA [--fields N]

DATA holds glas/ and wsi/ of the shared data. A field is one GlaS image, mirrored to 3 x
3, with glass around it, so that its stain is one slide's. Into it goes one artifact of
one strength, then a camera's noise and JPEG. Per kind: the part of its tissue that is
found, as that kind and as any; the median of the fields and the lowest. Below: what is
found on the same fields without an artifact, and on the real slide, per kind. Last, why
tears are no kind: long, narrow gaps put into the fields, and those that are there.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from digipath_ray.artifacts.find import find_artifacts
from digipath_ray.artifacts.kinds import KINDS, ArtifactMap
from digipath_ray.artifacts.read import read_detail
from digipath_ray.config.run import TissueSpec
from digipath_ray.demo.drawing import DemoSlide, draw_slide
from digipath_ray.figures.figure import (
    add_panel,
    open_figure,
    show_artifacts,
    show_thumbnail,
    write_figure,
)
from digipath_ray.slide.open import Slide, open_slide
from digipath_ray.tissue.find import Tissue, find_tissue
from digipath_ray.tissue.mask import Mask, at_centers
from tests.benchmarks.glas import print_head
from tests.flaws import (
    Bools,
    Pixels,
    band,
    defocused,
    disk,
    folded,
    gray,
    overlaid,
    ring,
    scanned,
    stained,
)

MPP = 0.62
SIDES, GLASS_PX = 3, 320
GLASS = 243
CELL_UM, GAP_UM, LUMEN = 8.0, 160.0, 215
Flawed = tuple[str, str, Pixels, Bools]
"""Kind, strength, image, where."""


def field(path: Path) -> Pixels:
    """An image mirrored to SIDES x SIDES on glass."""
    with Image.open(path) as image:
        one = np.asarray(image.convert("RGB"))
    row = np.hstack([one[:, :: 1 - 2 * (i % 2)] for i in range(SIDES)])
    block = np.vstack([row[:: 1 - 2 * (i % 2)] for i in range(SIDES)])
    margin = ((GLASS_PX, GLASS_PX), (GLASS_PX, GLASS_PX), (0, 0))
    return np.pad(block, margin, constant_values=GLASS)


def flaws(rgb: Pixels, seed: int) -> Iterator[Flawed]:
    """Every artifact in every strength, each in a copy of the field."""
    shape, x, y = rgb.shape[:2], rgb.shape[1] / 2, rgb.shape[0] / 2
    blurred = disk(shape, x=x, y=y, radius_px=400 / MPP)
    for um in (1, 2, 4, 8, 16):
        spread = defocused(rgb, blurred, radius_px=um / MPP)
        yield "blur", f"disk of {um} um", spread, blurred
    for width in (60, 120):
        lying = band(shape, width_px=width / MPP, length_px=900 / MPP, seed=seed)
        for times in (1.5, 2, 2.5, 3):
            title = f"{width} um wide, x {times:g}"
            yield "fold", title, folded(rgb, lying, times=times), lying
        over = overlaid(rgb, lying, shift=(130, 210))
        yield "fold", f"{width} um wide, another part over it", over, lying
    for width in (12, 24):
        rim = ring(shape, x=x, y=y, radius_px=350 / MPP, width_px=width / MPP)
        for density in (0.3, 0.6, 1.2):
            title = f"rim {width} um wide, density {density:g}"
            yield "bubble", title, stained(rgb, rim, color=gray(density)), rim
    stroke = band(shape, width_px=300 / MPP, length_px=1100 / MPP, seed=seed)
    for name, color in (
        ("blue", (60, 90, 190)),
        ("green", (60, 150, 90)),
        ("black", (40, 40, 44)),
        ("pale blue", (150, 170, 225)),
    ):
        yield "pen", name, stained(rgb, stroke, color=color), stroke
    for width in (40, 100, 400):
        spot = disk(shape, x=x, y=y, radius_px=width / 2 / MPP)
        for density in (0.4, 0.8, 1.2):
            title = f"{width} um wide, density {density:g}"
            yield "blot", title, stained(rgb, spot, color=gray(density)), spot


def gaps(rgb: Pixels) -> Bools:
    """Cells of long, narrow gaps in the tissue of a field, as tears are."""
    rows, cols = (side * MPP / CELL_UM for side in rgb.shape[:2])
    small = Image.fromarray(rgb).resize((int(cols), int(rows)), Image.Resampling.BOX)
    stained_there = Mask(
        array=np.asarray(small).min(axis=2) < LUMEN, mpp_x=CELL_UM, mpp_y=CELL_UM
    )
    open_there = stained_there.closed(GAP_UM).array & ~stained_there.array
    labels, number = ndimage.label(open_there, np.ones((3, 3)))
    every = np.arange(1, number + 1)
    depth = ndimage.distance_transform_edt(np.pad(open_there, 1))[1:-1, 1:-1]
    width = 2 * ndimage.maximum(depth, labels, every) - 1
    area = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    good = area / width * CELL_UM >= np.maximum(300, 4 * width * CELL_UM)
    return np.asarray(np.concatenate([[False], good])[labels])


def score_gaps(rgb: Pixels, seed: int) -> tuple[float, float, float]:
    """Of a tear 40 um wide the part that is found; areas of tears found with it and
    without it, percent of the field's tissue."""
    shape = rgb.shape[:2]
    where = band(shape, width_px=40 / MPP, length_px=700 / MPP, seed=seed)
    torn = rgb.copy()
    torn[where] = GLASS
    found, clean = gaps(scanned(torn)), gaps(scanned(rgb))
    there = at_centers(where, found.shape, mpp=(MPP, MPP), onto=(CELL_UM, CELL_UM))
    px = (SIDES * 522) * (SIDES * 775) * (MPP / CELL_UM) ** 2
    return float(found[there].mean()), 100 * found.sum() / px, 100 * clean.sum() / px


def look(slide: Slide) -> tuple[Tissue, ArtifactMap, float]:
    """A slide's tissue and artifacts, and the seconds that these took."""
    thumbnail, mpp_x, mpp_y = slide.thumbnail(8.0)
    tissue = find_tissue(thumbnail, mpp_x=mpp_x, mpp_y=mpp_y, spec=TissueSpec())
    started = time.perf_counter()
    found = find_artifacts(thumbnail, tissue, read_detail(slide, tissue.mask))
    return tissue, found, time.perf_counter() - started


def look_at(rgb: Pixels, folder: Path) -> tuple[Tissue, ArtifactMap]:
    """The same of pixels, as a scanner's file."""
    path = folder / "field.png"
    Image.fromarray(scanned(rgb)).save(path, compress_level=0)
    with open_slide(path, mpp=MPP) as slide:
        return look(slide)[:2]


def shares(tissue: Tissue, found: ArtifactMap) -> str:
    """Percent of the tissue by kind."""
    return " ".join(f"{k} {100 * v:.2f}" for k, v in found.shares(tissue.mask).items())


def draw_picture(path: Path, scratch: Path) -> None:
    """A slide drawn with five artifacts, and beside it the map of them."""
    slide = DemoSlide(
        slide_id="drawn",
        patient_id="p",
        node=1,
        label="micro",
        seed=11,
        width=2304,
        height=1792,
        tissue_mm=(1.9, 1.4),
        fold=True,
        ink="blue",
    )
    rgb, _ = draw_slide(slide)
    shape = rgb.shape[:2]
    rgb = defocused(rgb, disk(shape, x=780, y=900, radius_px=220), radius_px=5)
    rim = ring(shape, x=1550, y=520, radius_px=260, width_px=22)
    rgb = stained(rgb, rim, color=gray(0.7))
    rgb = stained(rgb, disk(shape, x=1300, y=1180, radius_px=45), color=gray(1.0))
    file = scratch / "drawn.png"
    Image.fromarray(rgb).save(file)
    with open_slide(file, mpp=1.0) as opened:
        tissue, found, _ = look(opened)
    print(path.name, shares(tissue, found))
    um = {"width_um": float(shape[1]), "height_um": float(shape[0])}
    figure, layout = open_figure(
        2, **um, title="Artifacts", subtitle="drawn, and the map of them", notes=[]
    )
    left, right = (
        add_panel(figure, layout, i, title=name, **um)
        for i, name in enumerate(("slide", "artifacts"))
    )
    show_thumbnail(left, rgb, (1.0, 1.0))
    show_thumbnail(right, rgb, (1.0, 1.0), fade=0.35)
    show_artifacts(figure, right, found.indexes, (found.mpp_x, found.mpp_y))
    write_figure(path, figure)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--scratch", type=Path, default=Path())
    parser.add_argument("--picture", type=Path, help="draw docs/artifacts.png only")
    arguments = parser.parse_args()
    if arguments.picture:
        draw_picture(arguments.picture, arguments.scratch)
        return
    print_head()
    paths = sorted((arguments.data / "glas" / "images").glob("*.jpg"))
    step = len(paths) // arguments.fields
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    clean, torn = [], []
    for seed, path in enumerate(paths[::step][: arguments.fields]):
        rgb = field(path)
        tissue, found = look_at(rgb, arguments.scratch)
        torn.append(score_gaps(rgb, seed))
        clean.append(list(found.shares(tissue.mask).values()))
        print(path.stem, "clean, % of tissue:", shares(tissue, found), flush=True)
        for kind, strength, image, where in flaws(rgb, seed):
            _, found = look_at(image, arguments.scratch)
            onto = (found.mpp_x, found.mpp_y)
            there = at_centers(where, found.indexes.shape, mpp=(MPP, MPP), onto=onto)
            there &= tissue.mask.array
            own, any_kind = found.where(kind)[there], found.indexes[there] > 0
            pair = float(own.mean()), float(any_kind.mean())
            rows.setdefault((kind, strength), []).append(pair)
    for (kind, strength), pairs in rows.items():
        own, any_kind = np.array(pairs).T * 100
        print(
            f"| {kind} | {strength} | {np.median(own):.0f} ({own.min():.0f}) "
            f"| {np.median(any_kind):.0f} ({any_kind.min():.0f}) |"
        )
    for of_kind, values in zip(KINDS, np.array(clean).T * 100, strict=True):
        print(f"| {of_kind.name} | {values.mean():.2f} | {values.max():.2f} |")
    of_gaps = np.array(torn).T
    print(
        f"tears: {100 * np.median(of_gaps[0]):.0f} % of one found; gaps like it are "
        f"{of_gaps[2].mean():.2f} % of clean tissue, at most {of_gaps[2].max():.2f} %"
    )
    path = arguments.data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        tissue, found, seconds = look(slide)
    area = tissue.mask.area_mm2
    print(path.name, shares(tissue, found), f"{seconds:.2f} s for {area:.2f} mm2")


if __name__ == "__main__":
    main()
