"""A small annotated cohort: pink tissue, with a purple disc where a slide has tumor."""

import json
from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from digipath_ray.cohort.inputs import SlideRow, read_cohort
from digipath_ray.config.toml import Tree
from digipath_ray.training.reader import Columns
from tests.slides import write_pyramid

GLASS = 245
SIDE, MARGIN, RADIUS = 320, 32, 60
FIT: Tree = {
    "grid": {"mpp": 1.0, "patch_px": 64, "stride_px": 32, "downsample": 4},
    "tissue": {
        "mask_mpp": 4.0,
        "close_um": 10.0,
        "open_um": 5.0,
        "margin_um": 10.0,
        "min_tissue_mm2": 0.0005,
    },
    "sampling": {
        "fit_patch_px": 64,
        "tumor_per_slide": 24,
        "normal_per_slide": 24,
        "jitter_px": 16.0,
        "validation_patches": 32,
    },
    "fit": {
        "folds": 2,
        "epochs": 2,
        "batch_size": 8,
        "learning_rates": [0.002],
        "decay_epochs": [],
    },
    "members": [
        {
            "name": "a",
            "architecture": "tests.tiny:Tiny",
            "weights": "random",
            "options": {"width": 16},
        },
    ],
}
"""One small network, two epochs of a few patches."""


def write_annotated_slide(path: Path, *, tumor: bool, seed: int = 0) -> Path:
    """A slide of SIDE px at 1 um/px; the tumor's disc lies in its middle."""
    rng = np.random.default_rng(seed)
    grain = scipy.ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.5) * 60
    pixels = np.full((SIDE, SIDE, 3), GLASS, np.float64)
    inside = (slice(MARGIN, SIDE - MARGIN),) * 2
    pixels[inside] = (225, 150, 190)
    if tumor:
        y, x = np.indices((SIDE, SIDE)) + 0.5
        disc = (x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 < RADIUS**2
        pixels[disc] = (150, 90, 170)
    pixels[inside] += grain[inside][..., None]
    return write_pyramid(path, pixels.clip(0, 255).astype(np.uint8), mpp=1.0)


def write_disc(path: Path) -> Path:
    """The disc as QuPath writes it."""
    turn = np.linspace(0, 2 * np.pi, 129)[:-1]
    ring = np.stack([np.cos(turn), np.sin(turn)], axis=1) * RADIUS + SIDE / 2
    points = [*ring.tolist(), ring[0].tolist()]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [points]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
        },
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def write_annotated_cohort(folder: Path, *, patients: int = 4) -> list[SlideRow]:
    """A slide with tumor and a negative one of each patient."""
    folder.mkdir(parents=True)
    write_disc(folder / "disc.geojson")
    lines = ["slide_id,path,annotation,label,patient_id"]
    for i in range(patients):
        for kind in ("tumor", "negative"):
            name = f"p{i}_{kind}"
            write_annotated_slide(
                folder / f"{name}.tif", tumor=kind == "tumor", seed=len(lines)
            )
            annotation = "disc.geojson" if kind == "tumor" else ""
            label = "macro" if kind == "tumor" else "negative"
            lines.append(f"{name},{name}.tif,{annotation},{label},p{i}")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return read_cohort([folder / "cohort.csv"])


def batch_of(tumor: NDArray[np.bool_], **views: NDArray[np.uint8]) -> Columns:
    """A batch of a fit: all of it known, of one slide."""
    n = len(tumor)
    return {
        **views,
        "tumor": tumor,
        "weight": np.ones_like(tumor),
        "area_mm2": np.ones(n),
        "slide_id": np.array(["s"] * n),
        "error": np.array([""] * n),
    }
