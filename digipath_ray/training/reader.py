"""Reads draws as batches of patches with their truth, from many slides.

A batch may touch as many slides as it has patches, in random order, so slides and
annotations are kept open in an LRU cache.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from digipath_ray.annotations import Annotation, LayeredAnnotation, Window
from digipath_ray.annotations.corrected import find_correction, read_corrected
from digipath_ray.cohort.drawn import read_row
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import Recipe
from digipath_ray.context import frame_of_context, margin_px
from digipath_ray.geometry import Frame
from digipath_ray.pipeline.prepare import grid_of, open_cohort_slide
from digipath_ray.slide.open import Pixels, Slide, SlideError
from digipath_ray.training.augment import augment_views
from digipath_ray.training.inputs import check_inputs

Columns = dict[str, NDArray[Any]]
"""A batch: pixels uint8 [n, side, side, 3] and such of each context (context<factor>),
tumor bool [n, side, side], weight bool [n, side, side] (False: unknown or unreadable),
of a fit of several classes, classes uint8 [n, side, side],
area_mm2 float64 [n] that a patch represents, slide_id and error [n] ("" if
readable)."""
OPEN_SLIDES = 12
"""Maximum open slides per process."""
CACHE_BYTES = 16 << 20
"""Tile cache per slide: patches in random order hardly ever share a tile."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedSlide:
    """An open slide with its frame and annotation, None if all is normal."""

    slide: Slide
    frame: Frame
    md_size: tuple[int, int]
    annotation: Annotation | None

    def truth(self, x: int, y: int, side: int) -> NDArray[np.bool_]:
        """Tumor and unknown px of a patch at a model px, bool [2, side, side]."""
        if self.annotation is None:
            return np.zeros((2, side, side), np.bool_)
        window = self._window(x, y, side)
        return np.stack(
            [self.annotation.tumor(window), self.annotation.ignored(window)]
        )

    def classes(self, x: int, y: int, side: int) -> NDArray[np.uint8]:
        """The class of each px of a patch at a model px, [side, side]."""
        if not isinstance(self.annotation, LayeredAnnotation):  # all is the first
            return np.zeros((side, side), np.uint8)
        return self.annotation.classes(self._window(x, y, side))

    def tumor_share(self, x: int, y: int, side: int) -> float:
        """Tumor fraction of a patch, clamped to the slide like the patch itself."""
        if self.annotation is None:
            return 0.0
        window = self._window(*self.held(x, y, side), side)
        return float(self.annotation.tumor(window).mean())

    def held(self, x: int, y: int, side: int) -> tuple[int, int]:
        """Clamp the model px of a patch so that it fits on the slide, if possible."""
        width, height = self.md_size
        return max(0, min(x, width - side)), max(0, min(y, height - side))

    def _window(self, x: int, y: int, side: int) -> Window:
        """Window of a patch at a model px."""
        scale_x, scale_y = self.frame.l0_per_md_x, self.frame.l0_per_md_y
        return Window(
            x * scale_x,
            y * scale_y,
            side,
            side,
            l0_per_px_x=scale_x,
            l0_per_px_y=scale_y,
        )


def open_annotated(
    row: SlideRow, recipe: Recipe, *, trusted: bool = False
) -> AnnotatedSlide:
    """Open a slide with its annotation and any corrections of the recipe.

    Args:
        row: the slide.
        recipe: how its annotation is understood.
        trusted: the values of a mask were found to be clear before.

    Raises:
        SlideError: the slide or its annotation cannot be read, or the annotation has no
            tumor against the label.
    """
    slide = open_cohort_slide(row.path, row.mpp, recipe, cache_bytes=CACHE_BYTES)
    grid = grid_of(slide, recipe)
    spec = recipe.annotations
    annotation: Annotation | None = None
    if row.annotation is not None:
        classes = recipe.classes if recipe.classes.names else None
        annotation = read_row(row, slide.info, spec, trusted=trusted, classes=classes)
    folder = recipe.sampling.extra_annotations
    correction = None if folder is None else find_correction(folder, row.slide_id)
    if correction is not None:
        annotation = read_corrected(
            correction,
            slide=slide.info,
            base=annotation,
            known=row.is_negative,
            classes=spec.meanings,
        )
    return AnnotatedSlide(
        slide=slide,
        frame=grid.frame,
        md_size=(grid.md_width, grid.md_height),
        annotation=annotation,
    )


class PatchReader:
    """Reads the patches of draws, keeping slides open between calls."""

    def __init__(
        self,
        slides: Mapping[str, SlideRow],
        recipe: Recipe,
        *,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Remember the slides; nothing is opened yet.

        Args:
            slides: slide_id -> row.
            recipe: of the fit.
            digests: of the files that they must be
                (:func:`digipath_ray.training.inputs.check_inputs`).
        """
        self.slides = slides
        self.digests = digests or {}
        self.recipe = recipe
        self.side = recipe.sampling.fit_patch_px
        self._open: OrderedDict[str, AnnotatedSlide] = OrderedDict()
        self._broken: dict[str, str] = {}

    def read(self, draws: pa.Table, contexts: Sequence[int] = ()) -> Columns:
        """Read the batch of a DRAWS table; unreadable patches have weight 0.

        Args:
            draws: as above.
            contexts: how many times coarser surroundings to read too, each a column
                ``context<factor>`` of the shape of ``pixels``. The patches then start
                at multiples of these, so that their centers are the contexts'.
        """
        rows = draws.to_pylist()
        shape = (len(rows), self.side, self.side, 3)
        views = {factor: np.zeros(shape, np.uint8) for factor in (1, *contexts)}
        # Tumor, what is not known, and the class where there are several.
        several = self.recipe.classes.several
        truth = np.zeros((len(rows), 2 + several, *shape[1:3]), np.uint8)
        errors = []
        for i, row in enumerate(rows):
            try:
                found, truth[i] = self._read_draw(row, contexts)
                for factor, pixels in found.items():
                    views[factor][i] = pixels
                errors.append("")
            except SlideError as e:
                self._broken[row["slide_id"]] = str(e)
                self._close(row["slide_id"])
                truth[i, 1] = 1
                errors.append(str(e))
        return {
            "pixels": views[1],
            **{f"context{factor}": views[factor] for factor in contexts},
            "tumor": truth[:, 0] > 0,
            "weight": truth[:, 1] == 0,
            **({"classes": truth[:, 2]} if several else {}),
            "area_mm2": draws["area_mm2"].to_numpy(),
            "slide_id": np.array(draws["slide_id"].to_pylist()),
            "error": np.array(errors),
        }

    def _read_draw(
        self, draw: Mapping[str, Any], contexts: Sequence[int]
    ) -> tuple[dict[int, Pixels], NDArray[np.uint8]]:
        """Read the patch, its contexts and truth of a draw, jittered and augmented."""
        slide_id = draw["slide_id"]
        if slide_id in self._broken:  # after an error OpenSlide fails all later reads
            raise SlideError(self._broken[slide_id], "mend it")
        source = self._find(slide_id)
        frame = source.frame
        x, y = source.held(
            round(draw["x"] / frame.l0_per_md_x) + draw["dx"],
            round(draw["y"] / frame.l0_per_md_y) + draw["dy"],
            self.side,
        )
        step = math.lcm(*contexts)
        x, y = x // step * step, y // step * step
        views = {1: self._read_view(source, frame, (x, y))}
        for factor in contexts:
            wide = frame_of_context(source.slide.info, frame, factor)
            margin = margin_px(self.side, factor)
            left, top = x // factor - margin, y // factor - margin
            views[factor] = self._read_view(source, wide, (left, top))
        truth = source.truth(x, y, self.side).astype(np.uint8)
        if self.recipe.classes.several:
            classes = source.classes(x, y, self.side)
            truth = np.concatenate([truth, classes[None]])
        if draw["seed"] < 0:
            return views, truth
        rng = np.random.default_rng(draw["seed"])
        return augment_views(views, truth, spec=self.recipe.augment, rng=rng)

    def _read_view(
        self, source: AnnotatedSlide, frame: Frame, corner: tuple[int, int]
    ) -> Pixels:
        side, edge = self.side, self.recipe.slide.edge
        return source.slide.read(frame, *corner, side, side, edge=edge)

    def _find(self, slide_id: str) -> AnnotatedSlide:
        if slide_id in self._open:
            self._open.move_to_end(slide_id)
            return self._open[slide_id]
        if len(self._open) >= OPEN_SLIDES:
            self._close(next(iter(self._open)))
        check_inputs(self.slides[slide_id], self.digests)
        self._open[slide_id] = open_annotated(
            self.slides[slide_id], self.recipe, trusted=True
        )
        return self._open[slide_id]

    def _close(self, slide_id: str) -> None:
        source = self._open.pop(slide_id, None)
        if source is not None:
            source.slide.close()

    def close(self) -> None:
        """Close all slides."""
        for slide_id in list(self._open):
            self._close(slide_id)
