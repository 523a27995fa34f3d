"""Fixture slides, written so that every pixel value is known.

All are lossless (deflate) and open in OpenSlide. The pattern ``paint`` maps a
probability to an H&E-like color, and ``probability_of`` is a "network" that reads it
back, so a heatmap's expected values can be written down.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
SCN_NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
MAX_GREEN = 160
"""Green of a pixel whose probability is 0, so that tissue is always saturated."""


def paint(probability: NDArray[np.floating]) -> Pixels:
    """RGB [height, width, 3] whose color holds a probability in steps of 1/160."""
    green = np.rint((1 - np.asarray(probability)) * MAX_GREEN).astype(np.uint8)
    return np.stack(
        [np.full_like(green, 220), green, np.full_like(green, 200)], axis=-1
    )


def probability_of(pixels: Pixels) -> NDArray[np.float32]:
    """The probability that a color of ``paint`` holds, float32 [...]; white is 0."""
    green = pixels[..., 1].astype(np.float32)
    return np.clip((MAX_GREEN - green) / MAX_GREEN, 0, 1).astype(np.float32)


def noise(width: int, height: int, *, seed: int = 0) -> Pixels:
    """RGB [height, width, 3] of independent random pixels: any shift shows."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def block_mean(pixels: Pixels, factor: int) -> Pixels:
    """Pixels averaged over factor x factor blocks, what does not fill one cut off."""
    height, width = (n // factor for n in pixels.shape[:2])
    blocks = pixels[: height * factor, : width * factor].astype(np.float64)
    blocks = blocks.reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def write_pyramid(
    path: Path,
    pixels: Pixels,
    *,
    mpp: float | tuple[float, float] | None,
    downsamples: Sequence[int] = (1, 2, 4),
    tile: int = 64,
) -> Path:
    """A tiled pyramid that OpenSlide opens as generic-tiff.

    Args:
        path: file to write.
        pixels: level 0, RGB [height, width, 3]; other levels are block means of it.
        mpp: um per level-0 px, (x, y) if they differ; None writes no resolution.
        downsamples: of the levels, the first 1. A side that a downsample does not
            divide makes OpenSlide's own downsample a fraction.
        tile: side of the stored tiles, a multiple of 16.
    """
    levels = [block_mean(pixels, d) if d > 1 else pixels for d in downsamples]
    return write_levels(path, levels, mpp=mpp, tile=tile)


def write_levels(
    path: Path,
    levels: Sequence[Pixels],
    *,
    mpp: float | tuple[float, float] | None,
    tile: int = 64,
) -> Path:
    """A tiled pyramid of the levels as they are, finest first."""
    options: dict[str, object] = {}
    if mpp is not None:
        mpp_x, mpp_y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        options["resolution"] = (1e4 / mpp_x, 1e4 / mpp_y)
        options["resolutionunit"] = "CENTIMETER"
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            _write(tiff, level, tile, subfiletype=int(number > 0), **options)
    return path


def write_scn(
    path: Path,
    pixels: Pixels,
    *,
    mpp: float,
    offset: tuple[int, int],
    canvas: tuple[int, int],
    downsamples: Sequence[int] = (1, 2, 4),
    tile: int = 64,
) -> Path:
    """A Leica SCN: the scanned part lies at ``offset`` (x, y) in a larger ``canvas``.

    OpenSlide opens it as leica, with bounds and transparent pixels around them.

    Args:
        path: file to write.
        pixels: the scanned part at level 0, RGB [height, width, 3]; other levels are
            block means of it.
        mpp: um per level-0 px.
        offset: (x, y) of the scanned part in the canvas, level-0 px.
        canvas: (width, height) of the whole, level-0 px.
        downsamples: of the levels, the first 1.
        tile: side of the stored tiles, a multiple of 16.
    """
    levels = [block_mean(pixels, d) if d > 1 else pixels for d in downsamples]
    macro: Pixels = np.full((32, 32, 3), 255, np.uint8)
    xml = _scn_xml(levels, mpp=mpp, offset=offset, canvas=canvas)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        _write(tiff, macro, 16, description=xml)
        for level in levels:
            scale = pixels.shape[1] / level.shape[1]
            resolution = (1e4 / (mpp * scale), 1e4 / (mpp * scale))
            _write(
                tiff, level, tile, resolution=resolution, resolutionunit="CENTIMETER"
            )
    return path


def _write(
    tiff: tifffile.TiffWriter, pixels: Pixels, tile: int, **options: object
) -> None:
    tiff.write(
        pixels,
        tile=(tile, tile),
        photometric="rgb",
        compression="deflate",
        metadata=None,
        software=False,
        **options,
    )


def _scn_xml(
    levels: Sequence[Pixels],
    *,
    mpp: float,
    offset: tuple[int, int],
    canvas: tuple[int, int],
) -> str:
    def nm(px: int) -> int:
        return round(px * mpp * 1000)

    def image(sizes: list[tuple[int, int]], first: int, view: str) -> str:
        dimensions = "".join(
            f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{first + r}"/>'
            for r, (w, h) in enumerate(sizes)
        )
        width, height = sizes[0]
        return (
            "<image><creationDate>2026-01-01T00:00:00Z</creationDate>"
            '<device model="fixture" version="1"/>'
            f'<pixels sizeX="{width}" sizeY="{height}">{dimensions}</pixels>{view}'
            "<scanSettings><objectiveSettings><objective>20</objective>"
            "</objectiveSettings><illuminationSettings>"
            "<illuminationSource>brightfield</illuminationSource>"
            "<numericalAperture>0.75</numericalAperture>"
            "</illuminationSettings></scanSettings></image>"
        )

    def view(size: tuple[int, int], at: tuple[int, int]) -> str:
        return (
            f'<view sizeX="{nm(size[0])}" sizeY="{nm(size[1])}" '
            f'offsetX="{nm(at[0])}" offsetY="{nm(at[1])}" spacingZ="0"/>'
        )

    sizes = [(level.shape[1], level.shape[0]) for level in levels]
    return (
        f'<?xml version="1.0"?><scn xmlns="{SCN_NAMESPACE}">'
        f'<collection name="" sizeX="{nm(canvas[0])}" sizeY="{nm(canvas[1])}">'
        "<barcode></barcode>"
        + image([(32, 32)], 0, view(canvas, (0, 0)))
        + image(sizes, 1, view(sizes[0], offset))
        + "</collection></scn>"
    )


def write_jpeg(
    path: Path,
    pixels: Pixels,
    *,
    downsamples: tuple[int, ...] = (1, 2),
    tile: tuple[int, int] = (64, 64),
    photometric: str = "ycbcr",
    subsampling: tuple[int, int] | None = (2, 2),
    description: str | None = None,
    bigtiff: bool = False,
) -> Path:
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for d in downsamples:
            tiff.write(
                block_mean(pixels, d),
                tile=tile,
                photometric=photometric,
                compression="jpeg",
                compressionargs={"level": 80},
                subsampling=subsampling if photometric == "ycbcr" else None,
                description=description,
                resolution=(20_000, 20_000),
                resolutionunit="CENTIMETER",
                subfiletype=int(d > 1),
                metadata=None,
                software=False,
            )
    return path


def texture(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth colors with sharp grains: chroma that upsampling would blur."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 250, (height // 8 + 1, width // 8 + 1, 3))
    smooth = np.kron(coarse, np.ones((8, 8, 1)))[:height, :width]
    grains = rng.integers(-40, 40, (height, width, 3))
    return np.clip(smooth + grains, 0, 255).astype(np.uint8)
