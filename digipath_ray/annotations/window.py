"""Windows in which annotations are rasterized."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, Self


class SlideSize(Protocol):
    """Size of a slide, level-0 px; implemented by ``SlideInfo``."""

    @property
    def width(self) -> int:
        """Level-0 px."""

    @property
    def height(self) -> int:
        """Level-0 px."""


@dataclass(frozen=True)
class Window:
    """A pixel rectangle of any scale, on the slide or beyond it.

    Attributes:
        x: left edge, level-0 px.
        y: top edge, level-0 px.
        width: pixels.
        height: pixels.
        l0_per_px_x: level-0 px per pixel.
        l0_per_px_y: level-0 px per pixel.
    """

    x: float
    y: float
    width: int
    height: int
    _: KW_ONLY
    l0_per_px_x: float
    l0_per_px_y: float

    @classmethod
    def over(cls, slide: SlideSize, l0_per_px_x: float, l0_per_px_y: float) -> Self:
        """Window over the whole slide, sized as ``Frame.md_size``; may overhang."""
        width, height = (
            max(1, math.ceil(round(length / l0_per_px, 3)))
            for length, l0_per_px in (
                (slide.width, l0_per_px_x),
                (slide.height, l0_per_px_y),
            )
        )
        return cls(
            0, 0, width, height, l0_per_px_x=l0_per_px_x, l0_per_px_y=l0_per_px_y
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Array shape [rows, cols]."""
        return self.height, self.width
