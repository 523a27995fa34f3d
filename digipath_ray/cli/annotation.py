"""``digipath info --annotation``: what an annotation would count as, and a picture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from digipath_ray.annotations import (
    Annotation,
    PolygonAnnotation,
    Window,
)
from digipath_ray.annotations.account import ClassUse
from digipath_ray.annotations.outlines import Meaning, Outlines
from digipath_ray.cohort.drawn import read_row
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.config.recipe import AnnotationSpec
from digipath_ray.slide.open import Pixels, Slide
from digipath_ray.storage.files import publish
from digipath_ray.tissue.mask import Mask

PICTURE_PX = 1600
"""Longer side of the picture, about."""
COLORS: dict[Meaning, tuple[int, int, int]] = {
    "tumor": (255, 0, 200),
    "hole": (0, 90, 255),
    "ignored": (255, 170, 0),
}
COLOR_NAMES = "tumor magenta, holes blue, ignored orange"
STRENGTH = 0.35
"""Of a color over the slide."""
TITLES: dict[Meaning, str] = {
    "tumor": "tumor",
    "hole": "holes",
    "ignored": "ignored",
}


def describe_annotation(
    row: SlideRow, slide: Slide, spec: AnnotationSpec, *, picture: Path | None
) -> Iterator[tuple[str, str]]:
    """What a slide's annotation holds, line by line, with areas in mm2.

    Args:
        row: the slide with its annotation.
        slide: the same slide, open.
        spec: how annotations are understood.
        picture: PNG to draw it to; None for none.

    Raises:
        SlideError: the annotation cannot be used.
    """
    info = slide.info
    mpp_x, mpp_y = info.need_mpp()
    found = read_row(row, info, spec)
    account = found.account
    yield "annotation", f"{row.annotation}: {account.kind}"
    yield (
        "tumor",
        f"{_mm2(found.area_mm2(mpp_x, mpp_y))}"
        + ("" if account.classes or account.skipped else ", as the file is empty"),
    )
    for meaning, title in TITLES.items():
        for use in account.of(meaning):
            yield title, _describe_use(use, mpp_x * mpp_y)
    for concern in account.concerns:
        yield "note", concern
    if picture is not None:
        with publish(picture) as path:
            Image.fromarray(draw_annotation(slide, found)).save(path, format="PNG")
        yield "drawn", f"{picture}: {COLOR_NAMES}"


def _describe_use(use: ClassUse, px_um2: float) -> str:
    area = "" if use.area_px is None else f", {_mm2(use.area_px * px_um2 / 1e6)}"
    return f"{use.shapes} x {use.name}{area}"


def _mm2(area: float) -> str:
    return f"{area:.3f} mm2" if area >= 0.001 or area == 0 else f"{area:.2g} mm2"


def draw_annotation(slide: Slide, annotation: Annotation) -> Pixels:
    """The slide with what its annotation counts as, uint8 [rows, cols, 3]."""
    info = slide.info
    mpp_x, mpp_y = info.need_mpp()
    longer_um = max(info.width * mpp_x, info.height * mpp_y)
    pixels, um_x, um_y = slide.thumbnail(max(longer_um / PICTURE_PX, mpp_x, mpp_y))
    rows, cols = pixels.shape[:2]
    window = Window(
        0,
        0,
        cols,
        rows,
        l0_per_px_x=info.width / cols,
        l0_per_px_y=info.height / rows,
    )
    layers = {
        "ignored": annotation.ignored(window),
        "hole": _holes(annotation, window),
        "tumor": annotation.tumor(window),
    }
    out = pixels.astype(np.float32)
    for meaning, inside in layers.items():
        color = np.array(COLORS[meaning], np.float32)  # type: ignore[index]
        out[inside] += STRENGTH * (color - out[inside])
        mask = Mask(array=inside, mpp_x=um_x, mpp_y=um_y)
        beside = mask.like(~inside).dilated(1.5 * max(um_x, um_y)).array
        out[inside & beside] = color
    return out.astype(np.uint8)


def _holes(annotation: Annotation, window: Window) -> NDArray[np.bool_]:
    if not isinstance(annotation, PolygonAnnotation):
        return np.zeros(window.shape, np.bool_)
    drawn = annotation.outlines
    holes = Outlines(tumor=[*drawn.holes, *drawn.cut])
    return PolygonAnnotation.of(holes, annotation).tumor(window)
