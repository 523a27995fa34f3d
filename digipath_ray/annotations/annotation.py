"""What an annotation answers, whatever it was read from; and one made of outlines."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath_ray.annotations.edges import Edges
from digipath_ray.annotations.outlines import Outlines, Shape, areas_of
from digipath_ray.annotations.window import SlideSize, Window

Bools = NDArray[np.bool_]


class Annotation(Protocol):
    """Where a slide's tumor is, level-0 px counted from its scanned bounds.

    A pixel is the same in whatever window it is read, and never tumor and ignored.
    Nothing lies beyond the slide.
    """

    @property
    def skipped(self) -> Mapping[str, int]:
        """How often something in the file was left out, by the reason."""

    @property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px."""

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given the um per level-0 px."""

    def tumor(self, window: Window) -> Bools:
        """Which pixels of a window are tumor, bool [height, width]."""

    def ignored(self, window: Window) -> Bools:
        """Which pixels of a window are neither tumor nor normal, as :meth:`tumor`."""

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """The whole slide, bool [rows, cols]: pixels that hold any tumor at all.

        No lesion is too small to show. The last row and column may reach beyond the
        slide. Pixels that tumor only touches from outside may be true as well.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class PolygonAnnotation:
    """An :class:`Annotation` of outlines; a pixel is tumor if its center is inside.

    Attributes:
        geometry: the tumor, a valid shapely MultiPolygon of level-0 px, inside the
            slide, its holes and what is ignored cut out.
        ignored_geometry: what is ignored, likewise.
        width: of the slide, level-0 px.
        height: of the slide, level-0 px.
        skipped: how often something in the file was left out, by the reason.
    """

    geometry: Shape
    ignored_geometry: Shape
    width: int
    height: int
    skipped: Mapping[str, int]

    @classmethod
    def of(cls, outlines: Outlines, slide: SlideSize) -> Self:
        """All tumor outlines together, minus all holes, minus all that is ignored.

        A tumor outline inside a hole is gone with the hole: the challenges' own
        conversions paint the holes last.
        """
        frame = shapely.box(0, 0, slide.width, slide.height)
        ignored = shapely.union_all(outlines.ignored)
        holes = shapely.union_all([*outlines.holes, ignored])
        tumor = shapely.difference(shapely.union_all(outlines.tumor), holes)
        return cls(
            geometry=areas_of(shapely.intersection(tumor, frame)),
            ignored_geometry=areas_of(shapely.intersection(ignored, frame)),
            width=slide.width,
            height=slide.height,
            skipped=dict(outlines.skipped),
        )

    @property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px."""
        return float(self.geometry.area)

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given the um per level-0 px."""
        return self.area_px * mpp_x * mpp_y / 1e6

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom of the tumor, level-0 px; None without tumor."""
        if self.geometry.is_empty:
            return None
        left, top, right, bottom = (float(v) for v in self.geometry.bounds)
        return left, top, right, bottom

    def tumor(self, window: Window) -> Bools:
        """See :meth:`Annotation.tumor`."""
        return self._edges.inside(window)

    def ignored(self, window: Window) -> Bools:
        """See :meth:`Annotation.ignored`."""
        return self._ignored_edges.inside(window)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """See :meth:`Annotation.tumor_map`: centers inside, or outlines that pass.

        A pixel with tumor in it is either all tumor, and so is its center, or an
        outline passes through it.
        """
        window = Window.over(self, l0_per_px_x, l0_per_px_y)
        return self._edges.inside(window) | self._edges.touched(window)

    @cached_property
    def _edges(self) -> Edges:
        return Edges.of(self.geometry)

    @cached_property
    def _ignored_edges(self) -> Edges:
        return Edges.of(self.ignored_geometry)
