"""Interface of annotations, and the implementation for polygons."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from digipath_ray.annotations.account import Account, account_of
from digipath_ray.annotations.edges import Edges
from digipath_ray.annotations.outlines import Outlines, Shape, areas_of
from digipath_ray.annotations.window import SlideSize, Window

Bools = NDArray[np.bool_]


class Annotation(Protocol):
    """Tumor of a slide, level-0 px relative to the scanned bounds.

    A pixel has the same value in every window, and is never both tumor and ignored.
    Pixels outside the slide are neither.
    """

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of skipped elements of the file, by reason."""

    @property
    def account(self) -> Account:
        """What the file holds and what of it is used."""

    @property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px."""

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given um per level-0 px."""

    def tumor(self, window: Window) -> Bools:
        """Tumor pixels of a window, bool [height, width]."""

    def ignored(self, window: Window) -> Bools:
        """Pixels that are neither tumor nor normal, bool [height, width]."""

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """Pixels of the whole slide that contain any tumor, bool [rows, cols].

        No lesion is lost, however small. The last row and column may extend past the
        slide. Pixels whose border the tumor touches may be true too.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class PolygonAnnotation:
    """An :class:`Annotation` of polygons; a pixel is tumor if its center is inside.

    Attributes:
        geometry: tumor as a valid shapely MultiPolygon, level-0 px, clipped to the
            slide, without holes and ignored areas.
        ignored_geometry: ignored areas, same format.
        width: slide width, level-0 px.
        height: slide height, level-0 px.
        skipped: number of skipped elements of the file, by reason.
        outlines: what the file holds.
    """

    geometry: Shape
    ignored_geometry: Shape
    width: int
    height: int
    skipped: Mapping[str, int]
    outlines: Outlines = field(default_factory=Outlines)

    @classmethod
    def of(cls, outlines: Outlines, slide: SlideSize) -> Self:
        """Union of tumor outlines minus the holes minus the ignored areas.

        A tumor outline inside a hole is removed too: the challenges' own conversion
        scripts paint holes last.
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
            outlines=outlines,
        )

    @cached_property
    def account(self) -> Account:
        """What the file holds and what of it is used."""
        return account_of(self.outlines, self)

    @property
    def area_px(self) -> float:
        """Area of the tumor, level-0 px."""
        return float(self.geometry.area)

    def area_mm2(self, mpp_x: float, mpp_y: float) -> float:
        """Area of the tumor, mm2, given um per level-0 px."""
        return self.area_px * mpp_x * mpp_y / 1e6

    @property
    def bounds(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom of the tumor, level-0 px; None if no tumor."""
        if self.geometry.is_empty:
            return None
        left, top, right, bottom = (float(v) for v in self.geometry.bounds)
        return left, top, right, bottom

    def tumor(self, window: Window) -> Bools:
        """Tumor pixels (centers inside) of a window, bool [height, width]."""
        return self._edges.inside(window)

    def ignored(self, window: Window) -> Bools:
        """Ignored pixels of a window, bool [height, width]."""
        return self._ignored_edges.inside(window)

    def tumor_map(self, l0_per_px_x: float, l0_per_px_y: float) -> Bools:
        """Pixels of the whole slide that contain any tumor, bool [rows, cols].

        A pixel with tumor is either all tumor, so its center is inside, or an outline
        passes through it.
        """
        window = Window.over(self, l0_per_px_x, l0_per_px_y)
        return self._edges.inside(window) | self._edges.touched(window)

    @cached_property
    def _edges(self) -> Edges:
        return Edges.of(self.geometry)

    @cached_property
    def _ignored_edges(self) -> Edges:
        return Edges.of(self.ignored_geometry)
