"""Annotations corrected by hand inside frames.

A correction is a GeoJSON file with frames of QuPath's class ``Region*``. Inside the
frames it replaces the slide's annotation; outside, the slide's own annotation applies,
or, if there is none, the tissue is ignored.
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

from digipath_ray.annotations.account import Account
from digipath_ray.annotations.annotation import (
    Annotation,
    Bools,
    PolygonAnnotation,
)
from digipath_ray.annotations.drawing import FRAME_CLASS, is_frame, sort_by_meaning
from digipath_ray.annotations.geojson import read_geojson
from digipath_ray.annotations.outlines import Meanings, Outlines, Shape
from digipath_ray.annotations.window import SlideSize, Window
from digipath_ray.slide.info import SlideError

log = logging.getLogger(__name__)

SUFFIX = ".geojson"
UNTOUCHED = "digipath_ray_untouched"
"""GeoJSON key that stores the digest of the features at export.

QuPath drops it. A file whose features still match the digest is an unedited prediction,
not a correction.
"""
COUNT_PX = 2048
"""Maximum side, px, of the window in which an area is counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedAnnotation:
    """An :class:`~digipath_ray.annotations.Annotation` with corrected frames.

    Attributes:
        correction: annotation inside the frames.
        frames: the frames, encoded as tumor.
        outside: the rest of the slide, encoded as tumor.
        base: annotation outside the frames; None if there is no tumor.
        known: whether the outside is annotated; if not, it is all ignored.
    """

    correction: PolygonAnnotation
    frames: PolygonAnnotation
    outside: PolygonAnnotation
    base: Annotation | None
    known: bool

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of skipped elements of both files, by reason."""
        before = {} if self.base is None else self.base.skipped
        return dict(Counter(self.correction.skipped) + Counter(before))

    @property
    def account(self) -> Account:
        """What both files hold and what of it is used."""
        if self.base is None:
            return self.correction.account
        return self.base.account.with_correction(self.correction.account)

    @cached_property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px.

        The base tumor inside a frame is measured by counting pixels of up to 1/2048 of
        the frame's side.
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
        """Tumor pixels of a window, bool [height, width]."""
        before = np.zeros(window.shape, np.bool_)
        if self.base is not None:
            before = self.base.tumor(window)
        corrected = self.correction.tumor(window)
        return np.where(self.frames.tumor(window), corrected, before)

    def ignored(self, window: Window) -> Bools:
        """Ignored pixels of a window, bool [height, width]."""
        before = np.full(window.shape, not self.known)
        if self.base is not None:
            before = self.base.ignored(window)
        corrected = self.correction.ignored(window)
        return np.where(self.frames.tumor(window), corrected, before)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """Pixels with tumor, bool [rows, cols]; more may be true at frame edges."""
        scale = (l0_per_px_x, l0_per_px_y)
        found = self.correction.tumor_map(*scale) & self.frames.tumor_map(*scale)
        if self.base is not None:
            found |= self.base.tumor_map(*scale) & self.outside.tumor_map(*scale)
        return found


def _area_within(annotation: Annotation, frame: PolygonAnnotation) -> float:
    """Tumor area inside a frame, level-0 px, counted in a window around it."""
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
    """Overlay a file of corrections on a slide's annotation.

    Args:
        path: GeoJSON with frames of the class ``Region*``.
        slide: width and height, level-0 px.
        base: the annotation before the correction.
        known: if there is no base, whether the slide is known to be tumor-free.
        classes: as for :func:`digipath_ray.annotations.read_annotation`.

    Raises:
        SlideError: the file is damaged, has an unknown class or no frame.
    """
    drawing = read_geojson(path)
    outlines = sort_by_meaning(drawing, path, classes)
    frames = _within([d.shape for d in drawing.shapes if is_frame(d)], slide)
    if frames.geometry.is_empty:
        raise SlideError(
            f"{path.name}: no frame of class {FRAME_CLASS}, so the corrected area is "
            "not defined",
            f"draw a rectangle of class {FRAME_CLASS} around the corrected area",
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
    """Rasterizable annotation of the shapes, encoded as tumor."""
    return PolygonAnnotation.of(Outlines(tumor=list(shapes)), slide)


def find_correction(folder: str | Path, slide_id: str) -> Path | None:
    """Find the correction of a slide; unedited exports do not count."""
    path = Path(folder) / f"{slide_id}{SUFFIX}"
    return path if path.is_file() and not is_untouched(path) else None


def list_corrections(folder: str | Path, slide_ids: Iterable[str]) -> list[Path]:
    """List the corrected files of a folder; unedited exports are skipped.

    Raises:
        ValueError: the folder does not exist, has no corrected file, or has a file of a
            slide not in ``slide_ids``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"extra annotations {folder}: folder not found")
    files = sorted(folder.glob(f"*{SUFFIX}"))
    known = set(slide_ids)
    unknown = [f.name for f in files if f.name.removesuffix(SUFFIX) not in known]
    if unknown:
        raise ValueError(
            f"extra annotations {folder}: "
            f"{', '.join(unknown[:3])}{' ...' if len(unknown) > 3 else ''}: slide "
            f"not in the cohort: name the files <slide_id>{SUFFIX} and move others "
            "out of the folder"
        )
    corrected = [f for f in files if not is_untouched(f)]
    if not corrected:
        raise ValueError(
            f"extra annotations {folder}: none of the {len(files)} files was edited "
            f"after export: correct them in QuPath and export as <slide_id>{SUFFIX}"
        )
    if len(corrected) < len(files):
        count = len(files) - len(corrected)
        log.warning(
            "%s: skipped %d files that were not edited after export", folder, count
        )
    return corrected


def untouched_note(features: Sequence[Any]) -> dict[str, str]:
    """Extra GeoJSON members that mark features as exported and unedited."""
    text = json.dumps(list(features), sort_keys=True)
    return {UNTOUCHED: hashlib.sha256(text.encode()).hexdigest()}


def is_untouched(path: Path) -> bool:
    """Whether a file's features are unchanged since export."""
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # gzipped or damaged: reported when it is read
        return False
    note = tree.get(UNTOUCHED) if isinstance(tree, dict) else None
    return (
        note is not None and untouched_note(tree.get("features", []))[UNTOUCHED] == note
    )
