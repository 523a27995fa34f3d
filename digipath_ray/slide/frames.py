"""The two frames of a slide that is part of a larger canvas, told apart.

Our level-0 px count from the scanned bounds, as QuPath's do. ASAP, ImageScope, HALO and
OpenSlide itself count from the canvas. Everything is moved into the slide's frame here.
"""

from typing import Any, get_args

from digipath_ray.config.run import Origin
from digipath_ray.slide.info import Canvas, SlideError

EDGE_PX = 2.0
"""Outlines may reach this far over an edge, level-0 px: programs round outwards."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, level-0 px."""


def canvas_of(slide: object) -> Canvas | None:
    """The canvas of a ``SlideInfo`` or what stands for one; None if it is its own."""
    found: Any = getattr(slide, "canvas", None)
    return found if isinstance(found, Canvas) else None


def check_origin(origin: str | None) -> None:
    """Refuse what is no origin.

    Raises:
        ValueError: it names the choices.
    """
    if origin is not None and origin not in get_args(Origin):
        raise ValueError(
            f"origin {origin!r}: choose from {', '.join(get_args(Origin))}"
        )


def outline_shift(
    drawn: Box,
    *,
    canvas: Canvas,
    width: int,
    height: int,
    usual: Origin,
    origin: Origin | None,
    name: str,
) -> tuple[int, int]:
    """What to add to outlines so that they count from the scanned bounds, (x, y).

    Args:
        drawn: box around all outlines, as the file counts.
        canvas: of the slide.
        width: of the scanned bounds, level-0 px.
        height: likewise.
        usual: what files of this format count from.
        origin: what the user says; None goes by ``usual``.
        name: of the file, for the message.

    Raises:
        SlideError: nobody said, and the outlines would lie beyond the scanned bounds as
            the format counts, but on them as others do.
    """
    shifts: dict[Origin, tuple[int, int]] = {
        "canvas": (-canvas.offset_x, -canvas.offset_y),
        "bounds": (0, 0),
    }
    if origin is not None:
        return shifts[origin]

    def is_inside(by: Origin) -> bool:
        x, y = shifts[by]
        left, top, right, bottom = drawn
        return (
            min(left + x, top + y) >= -EDGE_PX
            and right + x <= width + EDGE_PX
            and bottom + y <= height + EDGE_PX
        )

    other: Origin = "bounds" if usual == "canvas" else "canvas"
    if not is_inside(usual) and is_inside(other):
        raise SlideError(
            f"{name}: files of this kind count from the {_named(usual)}, but its "
            f"outlines would then leave the scanned part ({width} x {height} px at "
            f"({canvas.offset_x}, {canvas.offset_y}) of {canvas.width} x "
            f"{canvas.height}); counted from the {_named(other)} they lie on it",
            f"say which is meant: --origin {other} or --origin {usual}",
        )
    return shifts[usual]


def _named(origin: Origin) -> str:
    return "whole canvas" if origin == "canvas" else "scanned bounds"


def mask_origin(
    size: tuple[int, int],
    bounds: tuple[int, int],
    canvas: Canvas | None,
    *,
    tolerance: float,
    origin: Origin | None = None,
) -> Origin | None:
    """What a mask of ``size`` (width, height) covers; None if it fits neither.

    Args:
        size: of the mask, px.
        bounds: (width, height) of the scanned bounds, level-0 px.
        canvas: of the slide; None if it is its own.
        tolerance: relative difference of aspect ratios that is still the same.
        origin: what the user says.

    Raises:
        SlideError: both fit at this size, and nobody said which.
    """
    if canvas is None:
        return "bounds" if _fits(size, bounds, tolerance) else None
    whole = (canvas.width, canvas.height)
    if origin is not None:
        kept = bounds if origin == "bounds" else whole
        return origin if _fits(size, kept, tolerance) else None
    if size in (bounds, whole):
        return "bounds" if size == bounds else "canvas"
    for allowed in (0.0, tolerance):
        as_bounds, as_canvas = _fits(size, bounds, allowed), _fits(size, whole, allowed)
        if as_bounds != as_canvas:
            return "bounds" if as_bounds else "canvas"
        if as_bounds:
            raise SlideError(
                f"a mask of {size[0]} x {size[1]} px may cover the whole canvas "
                f"({whole[0]} x {whole[1]} px) or its scanned part "
                f"({bounds[0]} x {bounds[1]} px)",
                "save it at the full size of what it covers",
            )
    return None


def _fits(size: tuple[int, int], frame: tuple[int, int], tolerance: float) -> bool:
    expected = frame[1] * size[0] / frame[0]
    return abs(size[1] - expected) <= max(tolerance * expected, 1.0)
