"""A heatmap's file: a pyramidal OME-TIFF of float32 that QuPath reads, and we again."""

import contextlib
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import cast
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
from defusedxml import DefusedXmlException, ElementTree

from digipath_ray.config.classes import kept_classes
from digipath_ray.heatmap.classes import WHITE, channel_colors, packed
from digipath_ray.heatmap.heatmap import Heatmap, Map
from digipath_ray.slide.check import BROKEN
from digipath_ray.storage.files import open_file

DAMAGED = (*BROKEN, RuntimeError, zlib.error)
"""What imagecodecs and tifffile raise of a damaged file."""
MOST_EXPANDED = 1100
"""Bytes that a byte of deflate stands for, at most; its own limit is 1032."""
MOST_SIDE = 1 << 31
"""Px, or um per px, far beyond any heatmap's."""
TILE_PX = 256
MICROMETER = "µm"
NOTES = "digipath_ray/provenance"
"""Namespace of what a heatmap was made with, in its OME-XML."""
WEIGHT = "weight"
"""Name of the last channel of a file: summed blending weight, 0 = not predicted."""
CLASSIC_TIFF_BYTES = (1 << 32) - (1 << 25)
"""Beyond this much uncompressed data a file is BigTIFF, whose offsets are 64-bit."""


def halve(plane: Map) -> Map:
    """Means of 2 x 2 pixels; of an odd side's last row or column, what there is.

    Pixels that were not estimated (NaN) are left out, and so is a mean of four of them.
    skimage's downscale_local_mean would average an odd last row or column with zeros.
    """
    height, width = plane.shape
    even = plane
    if height % 2 or width % 2:
        even = np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
    top, bottom = even[::2], even[1::2]
    four = top[:, ::2], top[:, 1::2], bottom[:, ::2], bottom[:, 1::2]
    # Into one array: new memory for each step takes longer than the sums.
    mean = four[0] + four[1]
    mean += four[2]
    mean += four[3]
    mean *= np.float32(0.25)
    gaps = np.isnan(mean)
    if gaps.any():
        parts = np.stack([part[gaps] for part in four])
        known = ~np.isnan(parts)
        total = np.where(known, parts, 0).sum(axis=0)
        count = known.sum(axis=0)
        mean[gaps] = np.divide(total, count, out=total * np.nan, where=count > 0)
    return np.asarray(mean, np.float32)


def pyramid_levels(width: int, height: int) -> int:
    """How often a map is halved until its longer side has at most 256 px."""
    levels, side = 0, max(width, height)
    while side > TILE_PX:
        levels, side = levels + 1, -(-side // 2)
    return levels


def write_heatmap(
    path: Path,
    heatmap: Heatmap,
    *,
    name: str,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a pyramidal OME-TIFF of float32, named ``name`` inside.

    Tiles of 256 px, levels in SubIFDs, deflate, the channels' names and um per px in
    the OME-XML (and colors, where classes are kept), the weight as the last channel,
    and ``notes`` as an OME MapAnnotation. Equal heatmaps and notes give equal bytes.
    The levels are made one from the other, so about a third more memory than the
    heatmap is needed.
    """
    planes = [*heatmap.data, heatmap.weight]
    # Deflate WITHOUT a predictor: TIFF's floating-point predictor (3) would save a
    # third, but Bio-Formats, and so QuPath, refuses it: "Unknown Predictor (3)".
    with tifffile.TiffWriter(path, bigtiff=_needs_bigtiff(planes), ome=True) as tiff:
        levels = pyramid_levels(heatmap.width, heatmap.height)
        for level in range(levels + 1):
            if level:
                planes = [halve(plane) for plane in planes]
            tiff.write(
                _tiles(planes),
                shape=(len(planes), *planes[0].shape),
                dtype=np.float32,
                photometric="minisblack",
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                # Noise does not compress: level 6 takes half as long again, for a file
                # that is no smaller.
                compressionargs={"level": 1},
                # One thread: slides are written beside tasks that use the cores.
                maxworkers=1,
                software="digipath_ray",
                subfiletype=1 if level else 0,
                subifds=None if level else levels,
                metadata=None if level else _ome_metadata(heatmap, name, notes),
                resolution=(
                    1e4 / (heatmap.mpp_x * 2**level),
                    1e4 / (heatmap.mpp_y * 2**level),
                ),
                resolutionunit="CENTIMETER",
            )


def _needs_bigtiff(planes: Sequence[Map]) -> bool:
    # Tiles are stored whole, also at the edges.
    rows, cols = (-(-int(n) // TILE_PX) * TILE_PX for n in planes[0].shape)
    # 4 bytes a pixel, and a third more for the pyramid.
    return len(planes) * rows * cols * 4 * 4 / 3 > CLASSIC_TIFF_BYTES


def _tiles(planes: Sequence[Map]) -> Iterator[Map]:
    """The tiles of all planes in the order of the file; edge tiles are smaller."""
    for plane in planes:
        for row in range(0, plane.shape[0], TILE_PX):
            for col in range(0, plane.shape[1], TILE_PX):
                yield plane[row : row + TILE_PX, col : col + TILE_PX]


def _ome_metadata(
    heatmap: Heatmap, name: str, notes: Mapping[str, str] | None
) -> dict[str, object]:
    channels: dict[str, object] = {"Name": [*heatmap.channels, WEIGHT]}
    if kept_classes(heatmap.channels):
        colors = [*channel_colors(heatmap.channels), WHITE]
        channels["Color"] = [packed(color) for color in colors]
    annotation = {"Namespace": NOTES, "Value": dict(notes)} if notes else None
    return {
        "MapAnnotation": annotation,
        "axes": "CYX",
        "Name": name,
        "Channel": channels,
        "PhysicalSizeX": heatmap.mpp_x,
        "PhysicalSizeXUnit": MICROMETER,
        "PhysicalSizeY": heatmap.mpp_y,
        "PhysicalSizeYUnit": MICROMETER,
        "Creator": "digipath_ray",
        "UUID": _uuid(heatmap, name),
    }


def _uuid(heatmap: Heatmap, name: str) -> str:
    """An identity that follows from the content, so that a rerun writes the same."""
    identity = f"{name} {heatmap.channels} {heatmap.mpp_x} {heatmap.mpp_y}"
    digest = blake2b(identity.encode(), digest_size=16)
    for plane in [*heatmap.data, heatmap.weight]:
        digest.update(np.ascontiguousarray(plane).data)
    return str(uuid.UUID(bytes=digest.digest(), version=5))


def read_heatmap(path: Path) -> Heatmap:
    """The heatmap of a file that :func:`write_heatmap` wrote, exactly.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a heatmap's OME-TIFF.
    """
    with explained(path), open_file(path) as file, tifffile.TiffFile(file) as tiff:
        text, planes = tiff.ome_metadata, None
        if text is not None:
            level = tiff.series[0].levels[0]
            if level.keyframe.is_tiled:
                check_stored(level, tiff.filehandle.size)
                planes = level.asarray()
    header = read_header(path, text)
    if planes is None or planes.dtype != np.float32:
        raise ValueError(f"{path}: not a heatmap: no float32 in tiles")
    # tifffile drops axes of length 1: a heatmap of one pixel comes back as [channels].
    shape = (len(header.channels) + 1, header.height, header.width)
    with explained(path):
        stack = cast(Map, planes.reshape(shape))
    return Heatmap(
        channels=header.channels,
        data=stack[:-1],
        weight=stack[-1],
        mpp_x=header.mpp_x,
        mpp_y=header.mpp_y,
    )


def check_stored(level: tifffile.TiffPageSeries, size: int) -> None:
    """Refuse a level that lists too few tiles, or is too large for ``size`` bytes.

    Raises:
        ValueError: names the numbers.
    """
    if level.nbytes > MOST_EXPANDED * size:
        raise ValueError(f"{level.nbytes:,} bytes of values in a file of {size:,}")
    for page in level.pages:
        if page is None:
            raise ValueError("a channel is missing")
        key = page.keyframe
        if (key.tilewidth, key.tilelength) != (TILE_PX, TILE_PX):
            raise ValueError(f"tiles of {key.tilewidth} x {key.tilelength} px")
        across, down = -(-key.imagewidth // TILE_PX), -(-key.imagelength // TILE_PX)
        listed = min(len(page.dataoffsets), len(page.databytecounts))
        if listed < across * down:
            raise ValueError(f"{across * down} tiles, of which the file lists {listed}")
        pieces = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(int(start) + int(count) > size for start, count in pieces):
            raise ValueError("cut short: its tiles go on beyond its end")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What libraries raise of a file that is none, or damaged, as a ValueError."""
    try:
        yield
    except tifffile.TiffFileError as e:
        raise ValueError(f"{path}: not a TIFF: {e}") from e
    except DAMAGED as e:
        raise ValueError(f"{path}: damaged: {e}: have its slide run again") from e


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a heatmap's OME-XML says: channels without the weight, px, um per px."""

    channels: tuple[str, ...]
    width: int
    height: int
    mpp_x: float
    mpp_y: float


def read_header(path: Path, text: str | None) -> Header:
    """What the OME-XML of a heatmap's file says.

    Raises:
        ValueError: it has none, or another image's.
    """
    if text is None:
        raise ValueError(f"{path}: not an OME-TIFF: write it with digipath run")
    try:
        pixels = ElementTree.fromstring(text).find(".//{*}Pixels")
    except (ParseError, DefusedXmlException) as e:
        raise ValueError(f"{path}: damaged: {e}: have its slide run again") from e
    if pixels is None:
        raise ValueError(f"{path}: not a heatmap: no image in its OME-XML")
    names = [str(c.get("Name")) for c in pixels.findall("{*}Channel")]
    if names[-1:] != [WEIGHT]:
        raise ValueError(f"{path}: not a heatmap: its channels are {names}")
    with explained(path):
        header = Header(
            channels=tuple(names[:-1]),
            width=int(pixels.attrib["SizeX"]),
            height=int(pixels.attrib["SizeY"]),
            mpp_x=float(pixels.attrib["PhysicalSizeX"]),
            mpp_y=float(pixels.attrib["PhysicalSizeY"]),
        )
        sides = (header.width, header.height, header.mpp_x, header.mpp_y)
        if not all(0 < side < MOST_SIDE for side in sides):
            raise ValueError(f"sides of {sides}, px and um per px")
    return header
