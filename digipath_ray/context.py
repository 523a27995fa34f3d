"""The surroundings of patches: concentric squares of as many, but coarser px.

A member may ask for context: with each patch of P px at mpp m the P px around the same
center at ``factor * m``. For a chunk of patches they are read as blocks of their own,
which overlapping contexts share, so that each stored pixel is read once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from digipath_ray.config.fields import check
from digipath_ray.config.run import Edge, GridSpec
from digipath_ray.geometry import Frame
from digipath_ray.patches import Cells, Grid, read_squares, share_blocks
from digipath_ray.slide.open import Pixels, Slide, SlideInfo

DRIFT_PX = 0.25
"""Level px by which a level that is used as it is may drift over its whole width."""


Contexts = Mapping[int, tuple[Pixels, NDArray[np.int64]]]
"""Factor -> blocks [nb, s, s, 3] and index [n, k, k] of a chunk's contexts."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """Lattice of a slide's context blocks; sizes in context px.

    Attributes:
        frame: of the context px.
        stride_px: side of a block, the patches' stride.
        blocks_per_side: blocks that a context spans.
        margin_px: from the left (top) edge of a context to that of its patch.
    """

    frame: Frame
    stride_px: int
    blocks_per_side: int
    margin_px: int


def check_context(spec: GridSpec, factor: int) -> None:
    """Refuse a grid whose contexts would start between two px.

    Raises:
        ValueError: names the setting and the next value that fits.
    """
    check_multiple("grid.stride_px", spec.stride_px, factor, factor)
    check_multiple("grid.patch_px", spec.patch_px, 2 * factor, factor)


def check_multiple(name: str, value: int, step: int, factor: int) -> None:
    """Refuse a length that is no multiple of what contexts ask for."""
    check(
        value % step == 0,
        name,
        value,
        f"with context {factor} times as wide it must be a multiple of {step}, "
        f"for instance {-(-value // step) * step}",
    )


def blocks_across(spec: GridSpec, factor: int) -> int:
    """Blocks that a context spans from left to right."""
    return -(-spec.patch_px // (spec.stride_px // factor))


def context_frame(
    frame: Frame,
    factor: int,
    dimensions: tuple[tuple[int, int], ...],
    downsamples: tuple[float, ...],
) -> Frame:
    """The frame whose px are EXACTLY ``factor`` model px wide, from the best level.

    The coarsest level that is not coarser is read; resampled, unless its px are these
    (to :data:`DRIFT_PX` at its far edge).

    Args:
        frame: of the model px.
        factor: model px per context px.
        dimensions: width and height of the levels.
        downsamples: level-0 px per px of the levels.
    """
    wide = (frame.l0_per_md_x * factor, frame.l0_per_md_y * factor)

    def drift(level: int) -> float:
        return max(
            abs(w / downsamples[level] - 1) * side
            for w, side in zip(wide, dimensions[level], strict=True)
        )

    fine = [
        i for i, d in enumerate(downsamples) if d <= min(wide) or drift(i) <= DRIFT_PX
    ]
    level = max(fine, key=lambda i: downsamples[i], default=0)
    native = drift(level) <= DRIFT_PX
    return replace(
        frame,
        level=level,
        lv_per_md_x=1.0 if native else wide[0] / downsamples[level],
        lv_per_md_y=1.0 if native else wide[1] / downsamples[level],
        l0_per_md_x=wide[0],
        l0_per_md_y=wide[1],
        mpp_x=frame.mpp_x * factor,
        mpp_y=frame.mpp_y * factor,
    )


def frame_of_context(info: SlideInfo, frame: Frame, factor: int) -> Frame:
    """:func:`context_frame` of a slide."""
    return context_frame(frame, factor, info.level_dimensions, info.level_downsamples)


def margin_px(patch_px: int, factor: int) -> int:
    """Context px from the left (top) edge of a context to that of its patch."""
    return patch_px * (factor - 1) // (2 * factor)


def lay_context(info: SlideInfo, grid: Grid, factor: int) -> Context:
    """The lattice of a slide's context blocks, for patches of ``grid``."""
    check_context(grid.spec, factor)
    spec = grid.spec
    return Context(
        frame=frame_of_context(info, grid.frame, factor),
        stride_px=spec.stride_px // factor,
        blocks_per_side=blocks_across(spec, factor),
        margin_px=margin_px(spec.patch_px, factor),
    )


def read_context(
    slide: Slide, context: Context, cells: Cells, *, edge: Edge
) -> tuple[Pixels, NDArray[np.int64]]:
    """The context of a chunk's patches: shared blocks, and which each patch takes.

    Args:
        slide: open slide.
        context: its lattice.
        cells: [n, 2], the patches.
        edge: what lies beyond the slide.

    Returns:
        Pixels [nb, stride, stride, 3] and index [n, k, k], as of the patches' blocks.
    """
    blocks, index = share_blocks(cells, context.blocks_per_side)
    pixels = read_squares(
        slide,
        context.frame,
        blocks,
        side=context.stride_px,
        origin=-context.margin_px,
        edge=edge,
    )
    return pixels, index
