"""Thumbnails at 8 um/px whose tissue is known: pale and vivid on all kinds of glass.

Drawn ones, and real H&E of colon laid on glass, thinner or with vivid color on it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

Color = tuple[int, int, int]
SIDE = 256
"""Of a thumbnail, in px of 8 um."""
WHITE: Color = (243, 242, 243)
GLASS: dict[str, Color] = {
    "white": WHITE,
    "saturated": (255, 255, 255),
    "cream": (238, 233, 221),
    "blue": (222, 230, 238),
    "gray": (204, 205, 206),
}
PALE: dict[str, Color] = {
    "pink": (235, 210, 226),
    "very pale": (236, 220, 231),
    "hematoxylin": (205, 204, 224),
    "stroma": (226, 190, 214),
    "fat and stroma": (232, 212, 224),
}
VIVID: dict[str, Color] = {
    "blood": (176, 24, 40),
    "DAB": (112, 66, 38),
    "muscle": (208, 74, 128),
    "orange dye": (236, 140, 40),
    "dense nuclei": (84, 44, 122),
}
GLAS_MPP = 0.62
LUMEN = 215
"""A pixel of real tissue is a hole in it if no channel is darker."""
SHARES = (0.0, 0.01, 0.04, 0.12, 0.3)
"""Of the tissue's area that is vivid."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A thumbnail uint8 [SIDE, SIDE, 3] and which of its pixels are tissue.

    Attributes:
        name: what it shows.
        rgb: [SIDE, SIDE, 3].
        tissue: [SIDE, SIDE].
        hole: [SIDE, SIDE], where tissue has a lumen, which may count as either.
    """

    name: str
    rgb: NDArray[np.uint8] = field(repr=False)
    tissue: NDArray[np.bool_] = field(repr=False)
    hole: NDArray[np.bool_] | None = field(repr=False, default=None)


def draw(
    *,
    glass: Color = WHITE,
    pale: Color = PALE["pink"],
    vivid: Color = VIVID["blood"],
    share: float = 0.0,
    vignette: float = 0.0,
    border: int = 0,
    radius: float = 0.4,
    noise: float = 3.0,
    quality: int = 80,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A thumbnail and its tissue.

    Args:
        glass: color of the bare slide.
        pale: mean color of the tissue, whose texture is its own.
        vivid: color of disks in it.
        share: of the tissue that these cover.
        vignette: by how much (0..1) the light falls towards the corners.
        border: px of unscanned black on two sides.
        radius: of the tissue, in sides; 0: none; 1: everywhere.
        noise: standard deviation of the camera's, in gray levels.
        quality: of the JPEG that it went through.
    """
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    tissue = (x / 1.2) ** 2 + y**2 < radius**2
    if radius == 0:
        tissue[:] = False
    grain = scipy.ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 2)
    grain *= 0.15 / grain.std()
    # Stain absorbs: its density varies, and the glass's light is what it weakens.
    density = -np.log((np.array(pale) + 0.5) / 255.5)
    stained = np.array(glass) * np.exp(-density * (1 + grain[..., None]))
    image = np.where(tissue[..., None], stained, np.array(glass, float))
    image[tissue & disks(share * tissue.sum(), x, y)] = vivid
    image *= 1 - vignette * (2 * (x**2 + y**2))[..., None]
    image += rng.normal(0, noise, image.shape)
    if border:
        image[:, :border] = image[:border] = 0
        tissue[:, :border] = tissue[:border] = False
    return compressed(image, quality), tissue


def compressed(image: NDArray[np.float64], quality: int) -> NDArray[np.uint8]:
    """The image after it went through JPEG."""
    buffer = io.BytesIO()
    pixels = image.clip(0, 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as stored:
        return np.asarray(stored.convert("RGB"))


def disks(
    area: float, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Seven disks around the middle that cover ``area`` px together."""
    radius = np.sqrt(area / 7 / np.pi) / SIDE
    turns = np.arange(6) * np.pi / 3
    centers = [
        (0.0, 0.0),
        *zip(np.cos(turns) * 0.22, np.sin(turns) * 0.22, strict=True),
    ]
    found = np.zeros(x.shape, np.bool_)
    for cx, cy in centers:
        found |= (x - cx) ** 2 + (y - cy) ** 2 < radius**2
    return found


def scenes() -> Iterator[Scene]:
    """All that the method is held against."""
    for pale_name, pale in PALE.items():
        for name, vivid in VIVID.items():
            for share in SHARES:
                drawn = draw(pale=pale, vivid=vivid, share=share)
                title = f"{pale_name} with {name} on {share:.0%}"
                yield Scene(name=title, rgb=drawn[0], tissue=drawn[1])
    for name, glass in GLASS.items():
        for share in (0.0, 0.08):
            for vignette in (0.0, 0.15):
                for radius in (0.0, 0.1, 0.4):
                    drawn = draw(
                        glass=glass, share=share, vignette=vignette, radius=radius
                    )
                    title = (
                        f"{name} glass, {share:.0%}, light -{vignette:.0%}, {radius}"
                    )
                    yield Scene(name=title, rgb=drawn[0], tissue=drawn[1])
    for share in (0.0, 0.15):
        drawn = draw(share=share, border=26)
        yield Scene(name=f"black border, {share:.0%}", rgb=drawn[0], tissue=drawn[1])
    for quality in (30, 60):
        drawn = draw(share=0.04, quality=quality, noise=4)
        yield Scene(name=f"JPEG {quality}", rgb=drawn[0], tissue=drawn[1])
    for name, color in {**VIVID, "stroma": (214, 150, 190)}.items():
        if name == "orange dye":
            continue
        drawn = draw(pale=color, radius=1.0)
        yield Scene(name=f"all {name}", rgb=drawn[0], tissue=drawn[1])


def real_scenes(glas: Path) -> Iterator[Scene]:
    """Mosaics of 16 real images of GlaS on glass, their stain full or a third of it."""
    names = sorted((glas / "images").glob("*.jpg"))
    images = [i for i in map(thumbnail, names) if i.shape == (40, 60, 3)]
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5
    where = np.zeros((SIDE, SIDE), np.bool_)
    where[48:208, 8:248] = True
    rng = np.random.default_rng(0)
    vivid = [("", WHITE, 0.0), *((f" with {n}", c, 0.1) for n, c in VIVID.items())]
    for stain in (1.0, 0.35):
        for glass, light in GLASS.items():
            chosen = rng.permutation(len(images))[:16].reshape(4, 4)
            block = np.vstack([np.hstack([images[i] for i in row]) for row in chosen])
            density = -np.log((block + 0.5) / 255.5) * stain
            for title, color, share in vivid:
                image = np.full((SIDE, SIDE, 3), np.array(light, float))
                image[where] *= np.exp(-density).reshape(-1, 3)
                colored = where & disks(share * where.sum(), x, y)
                image[colored] *= np.array(color) / 255
                image += rng.normal(0, 3, image.shape)
                hole = np.zeros_like(where)
                hole[where] = (block.min(axis=2) >= LUMEN).ravel()
                name = f"colon, {stain:.0%} of its stain, on {glass} glass{title}"
                yield Scene(
                    name=name,
                    rgb=compressed(image, 80),
                    tissue=where,
                    hole=hole & ~colored,
                )


def thumbnail(path: Path) -> NDArray[np.uint8]:
    """A real image at 8 um/px."""
    with Image.open(path) as image:
        width, height = (round(side * GLAS_MPP / 8) for side in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
        return np.asarray(small)


def agreement(found: NDArray[np.bool_], scene: Scene) -> tuple[float, float]:
    """Share of the tissue that was found, and of the glass that was taken for it.

    The last 24 um on either side of an edge are not counted: colors are averaged so
    wide before anything is decided. Nor are holes in real tissue.
    """
    tissue = scene.tissue
    inside = scipy.ndimage.binary_erosion(tissue, iterations=3, border_value=1)
    if scene.hole is not None:
        inside &= ~scene.hole
    outside = ~scipy.ndimage.binary_dilation(tissue, iterations=3)
    return (
        float(found[inside].mean()) if inside.any() else 1.0,
        float(found[outside].mean()) if outside.any() else 0.0,
    )
