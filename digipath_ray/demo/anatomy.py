"""Layout of a synthetic lymph node as distance fields, um.

Fields are float32 [rows, cols] at :data:`FIELD_MPP`; drawing upsamples them, which
keeps borders sharp.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull, cKDTree
from scipy.spatial.distance import pdist

from digipath_ray.demo.nuclei import Field, scatter

FIELD_MPP = 4.0
FAR_UM = 1e4
"""Distance to absent structures, um."""

Label = Literal["negative", "itc", "micro", "macro"]
EXTENT_MM: dict[Label, tuple[float, float]] = {
    "itc": (0.11, 0.14),
    "micro": (0.6, 0.9),
    "macro": (2.45, 2.85),
}
"""Range of the extent of a planted lesion, far from TNM's limits of 0.2 and 2 mm."""
DEPTH_UM = {
    "itc": (90.0, 130.0),
    "micro": (480.0, 620.0),
}
"""Depth of a small lesion's center below the capsule."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Fields of one node; distances in um, positive inside.

    Attributes:
        node, lesion, fat: signed distance to the outline.
        follicle: distance to the nearest follicle's center, in radii.
        sinus, septum: distance to the center lines of sinuses and tumor septa.
        scar: noise that is high where fibers replace lymphoid tissue.
        vessel: distance outside the nearest vessel's lumen.
    """

    node: Field
    lesion: Field
    fat: Field
    follicle: Field
    sinus: Field
    septum: Field
    scar: Field
    vessel: Field


def lay_anatomy(
    shape: tuple[int, int],
    *,
    tissue_mm: tuple[float, float],
    label: Label,
    rng: np.random.Generator,
) -> Anatomy:
    """Lay a node of about ``tissue_mm`` (long, short axis) on a field of ``shape``."""
    turn = rng.uniform(-0.35, 0.35)
    middle = np.array(shape) * FIELD_MPP / 2 + rng.uniform(-80, 80, 2)
    ring = _outline(rng, aspect=tissue_mm[1] / tissue_mm[0], turn=turn, wobble=0.1)
    node = _signed_distance(shape, middle + ring * tissue_mm[0] * 1000 / _extent(ring))
    lesion = _lay_lesion(node, middle, label=label, turn=turn, rng=rng)
    return Anatomy(
        node=node,
        lesion=lesion,
        fat=_lay_fat(node, middle, turn=turn, rng=rng),
        follicle=_lay_follicles(node, lesion, rng),
        sinus=_center_line(shape, wave_um=260.0, rng=rng),
        septum=_center_line(shape, wave_um=210.0, rng=rng),
        scar=smooth_noise(shape, 110.0 / FIELD_MPP, rng),
        vessel=_lay_vessels(node, lesion, rng),
    )


def smooth_noise(
    shape: tuple[int, int], sigma: float, rng: np.random.Generator
) -> Field:
    """Periodic noise, mean 0, standard deviation 1, smooth over ``sigma`` px."""
    rows = np.fft.fftfreq(shape[0])[:, None]
    cols = np.fft.rfftfreq(shape[1])[None, :]
    low = np.exp(-2 * (np.pi * sigma) ** 2 * (rows**2 + cols**2))
    white = np.fft.rfft2(rng.standard_normal(shape))
    noise = np.fft.irfft2(white * low, s=shape)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _outline(
    rng: np.random.Generator, *, aspect: float, turn: float, wobble: float
) -> NDArray[np.float64]:
    """Irregular ellipse as points (row, col) around the origin."""
    theta = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    radius = np.ones_like(theta)
    for k in range(2, 8):
        swing = wobble * rng.uniform(0.3, 1) / (k - 1)
        radius += swing * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    x, y = radius * np.cos(theta), radius * aspect * np.sin(theta)
    return np.stack(
        [
            y * np.cos(turn) + x * np.sin(turn),
            x * np.cos(turn) - y * np.sin(turn),
        ],
        axis=1,
    )


def _extent(points: NDArray[np.float64]) -> float:
    """Largest distance between two points (Feret diameter)."""
    return float(pdist(points[ConvexHull(points).vertices]).max())


def _signed_distance(shape: tuple[int, int], points: NDArray[np.float64]) -> Field:
    """Signed distance [um] to a closed outline of (row, col) in um, positive inside."""
    image = Image.new("1", (shape[1], shape[0]))
    corners = [(float(x), float(y)) for y, x in points / FIELD_MPP]
    ImageDraw.Draw(image).polygon(corners, fill=1)
    inside = np.asarray(image)
    deep = ndimage.distance_transform_edt(inside)
    away = ndimage.distance_transform_edt(~inside)
    # Minus half a pixel on each side, or the zero line would be a pixel wide.
    signed = np.where(inside, deep - 0.5, 0.5 - away)
    return (signed * FIELD_MPP).astype(np.float32)


def _lay_lesion(
    node: Field,
    middle: NDArray[np.float64],
    *,
    label: Label,
    turn: float,
    rng: np.random.Generator,
) -> Field:
    if label == "negative":
        return np.full(node.shape, -FAR_UM, np.float32)
    center, spin = middle, turn
    if label in DEPTH_UM:
        low, high = DEPTH_UM[label]
        places = np.argwhere((node >= low) & (node <= high))
        if not len(places):
            raise ValueError(
                f"label {label!r}: no tissue at {low:g} to {high:g} um depth; use a "
                "larger tissue_mm"
            )
        center = places[rng.integers(len(places))] * FIELD_MPP
        spin = rng.uniform(0, np.pi)
    ring = _outline(rng, aspect=0.55, turn=spin, wobble=0.18)
    extent_um = rng.uniform(*EXTENT_MM[label]) * 1000
    return _signed_distance(node.shape, center + ring * extent_um / _extent(ring))


def _lay_fat(
    node: Field,
    middle: NDArray[np.float64],
    *,
    turn: float,
    rng: np.random.Generator,
) -> Field:
    """Lay fat along one side of the node, about 150 to 250 um thick."""
    rows, cols = np.indices(node.shape) * FIELD_MPP
    side = rng.choice([-1, 1]) * np.pi / 2 + turn + rng.uniform(-0.6, 0.6)
    toward = np.arctan2(rows - middle[0], cols - middle[1]) - side
    facing = np.clip(np.cos(toward), 0, 1) ** 2
    bumps = 45 * smooth_noise(node.shape, 22, rng)
    thickness = np.where(facing > 0, 260 * facing - 40 + bumps, -40)
    return np.minimum(thickness + node, -node).astype(np.float32)


def _lay_follicles(node: Field, lesion: Field, rng: np.random.Generator) -> Field:
    """Distance in radii to follicles, separate from each other, in the cortex."""
    places = np.argwhere((node > 190) & (node < 560) & (lesion < -60))
    found = np.full(node.shape, FAR_UM, np.float32)
    centers: list[NDArray[np.float64]] = []
    for place in rng.permutation(places)[:4000]:
        center = place * FIELD_MPP
        if all(np.hypot(*(center - c)) > 430 for c in centers):
            centers.append(center)
    for center in centers:
        row, col = (center / FIELD_MPP).astype(int)
        box = (slice(max(row - 60, 0), row + 60), slice(max(col - 60, 0), col + 60))
        found[box] = np.minimum(found[box], _follicle(found[box].shape, rng))
    return found


def _follicle(shape: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Distance in radii to an oval follicle in the center of a field."""
    long, angle = rng.uniform(120, 200), rng.uniform(0, np.pi)
    rows, cols = np.indices(shape) * FIELD_MPP
    dy, dx = rows - rows.mean(), cols - cols.mean()
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = (dy * np.cos(angle) - dx * np.sin(angle)) / rng.uniform(0.75, 1)
    return (np.hypot(along, across) / long).astype(np.float32)


def _center_line(
    shape: tuple[int, int], *, wave_um: float, rng: np.random.Generator
) -> Field:
    """Distance [um] to a network of winding lines about ``wave_um`` / 2 apart.

    The lines are the zero crossings of smooth noise; dividing by its gradient gives a
    distance.
    """
    noise = smooth_noise(shape, wave_um / FIELD_MPP / 5, rng)
    slope = np.hypot(*np.gradient(noise)) / FIELD_MPP
    floor = 0.3 * float(slope.mean())
    return (np.abs(noise) / np.maximum(slope, floor)).astype(np.float32)


def _lay_vessels(node: Field, lesion: Field, rng: np.random.Generator) -> Field:
    places = np.argwhere((node > 350) & (lesion < -80))
    count = int(rng.integers(3, 6))
    rows, cols = np.indices(node.shape) * FIELD_MPP
    found = np.full(node.shape, FAR_UM, np.float32)
    for place in rng.permutation(places)[:count]:
        y, x = place * FIELD_MPP
        oval = np.hypot(rows - y, (cols - x) * rng.uniform(0.6, 1))
        away = (oval - rng.uniform(12, 38)).astype(np.float32)
        found = np.minimum(found, away)
    return found


def lay_fat_cells(fat: NDArray[np.bool_], rng: np.random.Generator) -> Field:
    """Distance [um] of each fat px (1.0 um/px) to the membrane between two cells."""
    found = np.full(fat.shape, FAR_UM, np.float32)
    rows, cols = scatter(fat.shape, 62.0, rng)
    points = np.argwhere(fat)
    seeds = np.stack([rows, cols], axis=1)
    near, _ = cKDTree(seeds).query(points, k=2)
    found[fat] = (near[:, 1] - near[:, 0]) / 2
    return found
