"""Which pixels an annotation is asked for."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, Self


class SlideSize(Protocol):
    """What an annotation needs of a slide; ``SlideInfo`` has it."""

    @property
    def width(self) -> int:
        """Level-0 px."""

    @property
    def height(self) -> int:
        """Level-0 px."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels of any size somewhere on a slide or beside it.

    Attributes:
        x: left edge, level-0 px.
        y: top edge, level-0 px.
        width: pixels.
        height: pixels.
        l0_per_px_x: level-0 px per pixel.
        l0_per_px_y: as ``l0_per_px_x``.
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
        """The whole slide (as ``Frame.md_size`` has it); it may reach beyond it."""
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
        """Of an array [rows, cols] of its pixels."""
        return self.height, self.width
