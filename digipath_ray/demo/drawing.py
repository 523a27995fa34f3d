"""One synthetic slide: its description, pixels and ground-truth mask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from digipath_ray.demo.anatomy import (
    FIELD_MPP,
    Anatomy,
    Label,
    lay_anatomy,
    smooth_noise,
)
from digipath_ray.demo.nuclei import Field
from digipath_ray.demo.painting import (
    PX_PER_FIELD,
    InkColor,
    Pixels,
    Window,
    digitize,
    draw_stain,
    expose,
    fiber_direction,
    find_tissues,
    fold_over,
    lay_eosin,
    lay_hematoxylin,
    sample_up,
)

LEVEL_STEPS = (1, 4, 16)
"""Downsamples of the pyramid's levels; must divide a slide's sides."""


@dataclass(frozen=True, kw_only=True)
class DemoSlide:
    """Description of a slide to draw; sizes in px of 1 um.

    Attributes:
        tissue_mm: long and short axis of the node.
        ink: color of a marker stroke next to the node, or None.
        fold: the section is folded along a line.
        damaged: part of the file is zero bytes, as after a broken copy: it opens, but
            cannot be read.
    """

    slide_id: str
    patient_id: str
    node: int
    label: Label
    seed: int
    width: int = 4608
    height: int = 4096
    tissue_mm: tuple[float, float] = (2.7, 2.1)
    ink: InkColor | None = None
    fold: bool = False
    damaged: bool = False

    def __post_init__(self) -> None:
        """Validate the size."""
        for side in (self.width, self.height):
            if side % LEVEL_STEPS[-1]:
                step = LEVEL_STEPS[-1]
                raise ValueError(f"{side} px: sides must be multiples of {step}")


def draw_slide(slide: DemoSlide) -> tuple[Pixels, NDArray[np.bool_]]:
    """RGB [height, width, 3] at 1.0 um/px and the true tumor mask at 4 um/px."""
    rng = np.random.default_rng(slide.seed)
    stain = draw_stain(rng)
    shape = (slide.height // PX_PER_FIELD, slide.width // PX_PER_FIELD)
    anatomy = lay_anatomy(shape, tissue_mm=slide.tissue_mm, label=slide.label, rng=rng)
    stroke = _draw_stroke(anatomy, rng) if slide.ink else None
    window = _window(anatomy, stroke)
    hematoxylin, eosin = _lay_dyes(anatomy, window, rng)
    if slide.fold:
        crease = sample_up(_draw_crease(anatomy, rng), window)
        hematoxylin = fold_over(hematoxylin, crease, shift=(37, 23))
        eosin = fold_over(eosin, crease, shift=(37, 23))
    ink = None if stroke is None else sample_up(stroke, window)
    light = expose(hematoxylin, eosin, stain=stain, ink=ink, color=slide.ink or "blue")
    origin = (window[0].start * PX_PER_FIELD, window[1].start * PX_PER_FIELD)
    size = (slide.height, slide.width)
    rgb = digitize(light, origin, size, stain=stain, rng=rng)
    return rgb, (anatomy.lesion > 0) & (anatomy.node > 0)


def _lay_dyes(
    anatomy: Anatomy, window: Window, rng: np.random.Generator
) -> tuple[Field, Field]:
    codes = find_tissues(anatomy, window, rng)
    eosin = lay_eosin(codes, rng)
    hematoxylin = lay_hematoxylin(codes, fiber_direction(anatomy, window), rng)
    # Nuclei take up little eosin.
    eosin *= 1 - 0.45 * np.clip(hematoxylin - 0.2, 0, 1)
    return hematoxylin, eosin


def _window(anatomy: Anatomy, stroke: Field | None) -> Window:
    """Rows and columns of the fields that contain anything but glass."""
    drawn = np.maximum(anatomy.node, anatomy.fat) > -30
    if stroke is not None:
        drawn |= stroke > 0
    rows, cols = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def _draw_stroke(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Density of a marker stroke along one side of the node."""
    ring = np.argwhere(np.abs(anatomy.node + 230) < 2.5)
    middle = np.argwhere(anatomy.node > 0).mean(0)
    angles = np.arctan2(ring[:, 0] - middle[0], ring[:, 1] - middle[1])
    start = rng.uniform(-np.pi, np.pi)
    turn = np.mod(angles - start, 2 * np.pi)
    kept = turn < 1.5
    path = ring[kept][np.argsort(turn[kept])][::12, ::-1]
    image = Image.new("L", anatomy.node.shape[::-1])
    ImageDraw.Draw(image).line([tuple(p) for p in path.tolist()], fill=255, width=3)
    away = ndimage.distance_transform_edt(np.asarray(image) == 0) * FIELD_MPP
    streaks = smooth_noise(anatomy.node.shape, 5, rng)
    edge = np.clip((95 + 4 * streaks - away) / 14, 0, 1)
    return (edge * (0.8 + 0.1 * streaks)).astype(np.float32)


def _draw_crease(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Distance [um] inside a fold across the node, tapering at its ends."""
    rows, cols = np.indices(anatomy.node.shape) * FIELD_MPP
    middle = np.argwhere(anatomy.node > 0).mean(0) * FIELD_MPP
    angle = rng.uniform(0.9, 1.9)
    dy, dx = rows - middle[0] - 300, cols - middle[1] - 350
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = dy * np.cos(angle) - dx * np.sin(angle) + 60 * np.sin(along / 420)
    half_width = 55 * np.sqrt(np.clip(1 - (along / 850) ** 2, 0, 1)) - 3
    half_width = half_width * (1 + 0.2 * np.sin(along / 137 + 1))
    return (half_width - np.abs(across)).astype(np.float32)
