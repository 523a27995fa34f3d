"""Annotations that somebody has corrected in frames, and what stands around them.

A correction is a GeoJSON file with frames of QuPath's class ``Region*``. Inside them it
is the whole truth; outside them the slide's own annotation stands, or nothing is known.
"""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from digipath_ray.annotations.annotation import (
    Annotation,
    Bools,
    PolygonAnnotation,
)
from digipath_ray.annotations.geojson import KNOWN_CLASSES, parse_geojson
from digipath_ray.annotations.outlines import Meanings, Outlines, Shape
from digipath_ray.annotations.window import SlideSize, Window
from digipath_ray.slide.info import SlideError

log = logging.getLogger(__name__)

FRAME_CLASS = "Region*"
SUFFIX = ".geojson"
UNTOUCHED = "digipath_ray_untouched"
"""Key of a file that holds the digest of its features as they were exported.

QuPath does not write it. A file whose features still have this digest shows what a run
predicted, and nobody's correction.
"""
COUNT_PX = 2048
"""Side of the largest window in which an area is counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedAnnotation:
    """An :class:`~digipath_ray.annotations.Annotation` corrected inside frames.

    Attributes:
        correction: the truth inside the frames.
        frames: the frames, as if they were tumor.
        outside: the rest of the slide, likewise.
        base: the truth outside; None where there is no tumor.
        known: whether anything is known outside; else all there is ignored.
    """

    correction: PolygonAnnotation
    frames: PolygonAnnotation
    outside: PolygonAnnotation
    base: Annotation | None
    known: bool

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often something was left out of both files, by the reason."""
        before = {} if self.base is None else self.base.skipped
        return dict(Counter(self.correction.skipped) + Counter(before))

    @cached_property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px.

        What lies in a frame of the tumor annotated before is counted, in pixels of up
        to a 2048th of the frame.
        """
        frames = self.frames.geometry
        corrected = shapely.intersection(self.correction.geometry, frames).area
        if self.base is None:
            return float(corrected)
        gone = sum(
            _area_within(self.base, _within([frame], self.frames))
            for frame in shapely.get_parts(frames)
        )
        return float(corrected + self.base.area_px - gone)

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given the um per level-0 px."""
        return self.area_px * mpp_x * mpp_y / 1e6

    def tumor(self, window: Window) -> Bools:
        """See :meth:`Annotation.tumor`."""
        before = np.zeros(window.shape, np.bool_)
        if self.base is not None:
            before = self.base.tumor(window)
        corrected = self.correction.tumor(window)
        return np.where(self.frames.tumor(window), corrected, before)

    def ignored(self, window: Window) -> Bools:
        """See :meth:`Annotation.ignored`."""
        before = np.full(window.shape, not self.known)
        if self.base is not None:
            before = self.base.ignored(window)
        corrected = self.correction.ignored(window)
        return np.where(self.frames.tumor(window), corrected, before)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """See :meth:`Annotation.tumor_map`; at a frame's edge more may be true."""
        scale = (l0_per_px_x, l0_per_px_y)
        found = self.correction.tumor_map(*scale) & self.frames.tumor_map(*scale)
        if self.base is not None:
            found |= self.base.tumor_map(*scale) & self.outside.tumor_map(*scale)
        return found


def _area_within(annotation: Annotation, frame: PolygonAnnotation) -> float:
    """Tumor inside a frame, level-0 px, by the pixels of a window around it."""
    if frame.bounds is None:
        return 0.0
    left, top, right, bottom = frame.bounds
    scale = max(1.0, (right - left) / COUNT_PX, (bottom - top) / COUNT_PX)
    width = math.ceil((right - left) / scale)
    height = math.ceil((bottom - top) / scale)
    window = Window(left, top, width, height, l0_per_px_x=scale, l0_per_px_y=scale)
    both = annotation.tumor(window) & frame.tumor(window)
    return float(both.sum() * scale**2)


def read_corrected(
    path: Path,
    *,
    slide: SlideSize,
    base: Annotation | None,
    known: bool,
    classes: Meanings | None = None,
) -> CorrectedAnnotation:
    """A slide's annotation with a file of corrections laid over it.

    Args:
        path: GeoJSON with frames of the class ``Region*``.
        slide: its width and height, level-0 px.
        base: what was annotated before.
        known: where there is no base, whether the slide is known to hold no tumor.
        classes: as for :func:`digipath_ray.annotations.read_annotation`.

    Raises:
        SlideError: the file is damaged, has an unknown class, or no frame.
    """
    outlines = parse_geojson(path, classes)
    others = {*KNOWN_CLASSES, *(classes or {})}
    only_frames: Meanings = {**dict.fromkeys(others, "skip"), FRAME_CLASS: "tumor"}
    frames = _within(parse_geojson(path, only_frames).tumor, slide)
    if frames.geometry.is_empty:
        raise SlideError(
            f"{path.name}: no frame of the class {FRAME_CLASS}, so nothing says where "
            "it is the truth",
            f"draw a rectangle of the class {FRAME_CLASS} around what was corrected",
        )
    edge = shapely.box(0, 0, slide.width, slide.height)
    return CorrectedAnnotation(
        correction=PolygonAnnotation.of(outlines, slide),
        frames=frames,
        outside=_within([shapely.difference(edge, frames.geometry)], slide),
        base=base,
        known=known or base is not None,
    )


def _within(shapes: Sequence[Shape], slide: SlideSize) -> PolygonAnnotation:
    """Shapes as something that can be asked for pixels."""
    return PolygonAnnotation.of(Outlines(tumor=list(shapes)), slide)


def find_correction(folder: str | Path, slide_id: str) -> Path | None:
    """The correction of a slide, if there is one that is not as it was exported."""
    path = Path(folder) / f"{slide_id}{SUFFIX}"
    return path if path.is_file() and not is_untouched(path) else None


def list_corrections(folder: str | Path, slide_ids: Iterable[str]) -> list[Path]:
    """The corrected files of a folder; those still as exported are left out.

    Raises:
        ValueError: no such folder, nothing corrected in it, or a file of a slide that
            is not among the ``slide_ids``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"extra annotations {folder}: no such folder")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    known = set(slide_ids)
    unknown = [f.name for f in files if f.name.removesuffix(SUFFIX) not in known]
    if unknown:
        raise ValueError(
            f"extra annotations {folder}: {', '.join(unknown[:3])}"
            f"{' ...' if len(unknown) > 3 else ''}: no such slide in the cohort: "
            f"files must be called <slide_id>{SUFFIX}; move the others away"
        )
    corrected = [f for f in files if not is_untouched(f)]
    if not corrected:
        raise ValueError(
            f"extra annotations {folder}: none of its {len(files)} files was corrected "
            f"since it was exported: export them from QuPath as <slide_id>{SUFFIX}"
        )
    if len(corrected) < len(files):
        count = len(files) - len(corrected)
        log.warning("%s: %d files are as exported, and left out", folder, count)
    return corrected


def untouched_note(features: Sequence[Any]) -> dict[str, str]:
    """What an exported collection of features says beside them."""
    text = json.dumps(list(features), sort_keys=True)
    return {UNTOUCHED: hashlib.sha256(text.encode()).hexdigest()}


def is_untouched(path: Path) -> bool:
    """Whether a file's features are as they were exported."""
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:  # gzipped or damaged: it is told of when it is read
        return False
    note = tree.get(UNTOUCHED) if isinstance(tree, dict) else None
    return note is not None and untouched_note(tree["features"])[UNTOUCHED] == note
