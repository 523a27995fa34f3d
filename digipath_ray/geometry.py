"""Coordinate frames and units, and conversions between level 0 and model pixels.

Four frames, each with its prefix: ``l0_`` level-0 pixels, ``lv_`` pixels of the pyramid
level that is read, ``md_`` model pixels (what the network sees, at the EFFECTIVE mpp)
and ``hm_`` heatmap pixels (``md_ // downsample``). Physical ones end in ``_um``,
``_mm``. Level-0 px count from the scanned bounds, as in QuPath.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

MPP_TOLERANCE = 0.05
"""Relative mpp difference within which a level is read without resampling."""
COARSER_TOLERANCE = 0.07
"""The same where no level is finer, so that it could only be interpolated. A common
scanner has 0.2639 um/px: to networks of 0.25, nuclei are 5.6 % smaller there."""
NEAR = 0.3
"""How much coarser a slide may be for interpolation to be worth naming its scale."""


class NoLevelFineEnough(ValueError):  # noqa: N818 - named after the condition, not "Error"
    """The slide's finest level is coarser than the requested mpp."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The model frame of one slide: which level is read, and how it is scaled.

    Attributes:
        level: pyramid level that is read, 0 = finest.
        lv_per_md_x, lv_per_md_y: level px per model px; exactly 1.0 if native.
        l0_per_md_x, l0_per_md_y: level-0 px per model px.
        mpp_x, mpp_y: EFFECTIVE um per model px; all physical sizes derive from these.
        upsampled: no level was fine enough, so pixels are interpolated.
    """

    level: int
    lv_per_md_x: float
    lv_per_md_y: float
    l0_per_md_x: float
    l0_per_md_y: float
    mpp_x: float
    mpp_y: float
    upsampled: bool = False

    @property
    def native(self) -> bool:
        """Whether stored pixels are used without resampling."""
        return self.lv_per_md_x == 1.0 and self.lv_per_md_y == 1.0

    def md_size(self, l0_width: int, l0_height: int) -> tuple[int, int]:
        """Width and height of the slide, model px; a partial last pixel counts."""
        # Rounded first: float error in 2048 / (0.5 / 0.25) must not give 1025.
        return (
            max(1, math.ceil(round(l0_width / self.l0_per_md_x, 3))),
            max(1, math.ceil(round(l0_height / self.l0_per_md_y, 3))),
        )


def mpp_from_magnification(magnification: float) -> float:
    """Um per px of an objective by convention: 40x is 0.25, 20x is 0.5."""
    if not magnification > 0:
        raise ValueError(f"magnification must be positive, not {magnification}")
    return 10.0 / magnification


def model_frame(
    *,
    level_downsamples: tuple[float, ...],
    mpp_x: float,
    mpp_y: float,
    mpp: float,
    allow_upsampling: bool = False,
) -> Frame:
    """Frame that reads a slide of ``mpp_x``, ``mpp_y`` (um per level-0 px) at ``mpp``.

    A level within 5 % of ``mpp`` on both axes is read without resampling (the effective
    mpp is then the level's own); otherwise the nearest finer level is resampled to
    ``mpp``. Where none is finer, a level up to 7 % coarser is read without resampling
    too, unless ``allow_upsampling`` asks for ``mpp`` itself.

    Raises:
        NoLevelFineEnough: every level is coarser and ``allow_upsampling`` is False.
    """

    def off(downsample: float) -> float:
        return max(abs(m * downsample / mpp - 1) for m in (mpp_x, mpp_y))

    nearest = min(
        range(len(level_downsamples)), key=lambda i: off(level_downsamples[i])
    )
    finer = [i for i, d in enumerate(level_downsamples) if max(mpp_x, mpp_y) * d <= mpp]
    only = not finer and not allow_upsampling
    tolerance = COARSER_TOLERANCE if only else MPP_TOLERANCE
    if off(level_downsamples[nearest]) <= tolerance:
        d = level_downsamples[nearest]
        return Frame(
            level=nearest,
            lv_per_md_x=1.0,
            lv_per_md_y=1.0,
            l0_per_md_x=d,
            l0_per_md_y=d,
            mpp_x=mpp_x * d,
            mpp_y=mpp_y * d,
        )
    if only:
        coarsest = max(mpp_x, mpp_y)
        cost = ""
        if coarsest <= mpp * (1 + NEAR):
            cost = (
                f", which interpolates 1:{coarsest / mpp:.3g} (no detail is gained, "
                "and the slide is flagged)"
            )
        raise NoLevelFineEnough(
            f"the finest level has {coarsest:.4g} um/px, coarser than the "
            f"requested {mpp:g} um/px: give --mpp {coarsest:.3g} with "
            f"weights trained at that mpp, or --allow-upsampling{cost}"
        )
    level = max(finer, key=lambda i: level_downsamples[i]) if finer else 0
    d = level_downsamples[level]
    return Frame(
        level=level,
        lv_per_md_x=mpp / (mpp_x * d),
        lv_per_md_y=mpp / (mpp_y * d),
        l0_per_md_x=mpp / mpp_x,
        l0_per_md_y=mpp / mpp_y,
        mpp_x=mpp,
        mpp_y=mpp,
        upsampled=not finer,
    )


def top_left_from_center(center: tuple[int, int], patch_px: int) -> tuple[int, int]:
    """Convert the paper's patch center (Fig. 4) to our top-left corner, same frame."""
    return center[0] - patch_px // 2, center[1] - patch_px // 2


def lattice(start: int, stop: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Yield the multiples of ``step`` whose cells overlap [start, stop), and where."""
    for origin in range(start // step * step, stop, step):
        yield origin, max(start, origin), min(stop, origin + step)
