"""Hard examples: patches of annotated slides that a run predicted wrong.

Heatmap and truth are cut into training-sized patches, half a patch apart. Hard patches
are those with tumor whose outline was missed, and those without tumor where tumor was
predicted (``auto_hardmine.py`` and ``hardmine_from_heatmap.py`` of the released code).
Only an out-of-fold run shows errors on unseen slides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from skimage.transform import integral_image

from digipath_ray.mining.spec import MiningSpec
from digipath_ray.run.finished import FinishedSlide
from digipath_ray.run.truth import Truth
from digipath_ray.schema import SAMPLES

Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Square windows on a heatmap, half a side apart, flush with its far edges.

    Attributes:
        side: heatmap px.
        tops: first row of each row of windows.
        lefts: first column of each column of windows.
    """

    side: int
    tops: Indices
    lefts: Indices

    @classmethod
    def over(cls, shape: tuple[int, int], side: int) -> "Windows":
        """Windows of an even ``side`` over a map [H, W]; at least one."""
        tops, lefts = (_starts(length, side) for length in shape)
        return cls(side=side, tops=tops, lefts=lefts)

    def sums(self, values: NDArray[np.generic]) -> Values:
        """Sum of a map [H, W] in each window, [tops, lefts]."""
        height, width = values.shape
        # A row and a column of zeros first: windows start at the edges.
        total = np.pad(integral_image(values, dtype=np.float64), ((1, 0), (1, 0)))
        # A map smaller than a window has one window, cut at its edges.
        bottoms = (self.tops + self.side).clip(max=height)
        rights = (self.lefts + self.side).clip(max=width)
        return np.asarray(
            total[np.ix_(bottoms, rights)]
            - total[np.ix_(self.tops, rights)]
            - total[np.ix_(bottoms, self.lefts)]
            + total[np.ix_(self.tops, self.lefts)]
        )


def _starts(length: int, side: int) -> Indices:
    last = max(0, length - side)
    return np.unique(np.append(np.arange(0, last + 1, side // 2), last))


@dataclass(frozen=True, kw_only=True, eq=False)
class HardPatches:
    """The hard patches of a slide.

    Attributes:
        table: SAMPLES, the hardest first.
        hardness: [n]; 1 - Dice of a patch with tumor; mean probability of the known
            pixels of a false alarm.
        looked_at: number of patches of the slide.
        tumor: number of hard patches with tumor, before limiting.
        alarms: number of false alarms, before limiting.
    """

    table: pa.Table
    hardness: Values
    looked_at: int
    tumor: int
    alarms: int


def window_px(fit_patch_px: int, downsample: int) -> int:
    """Side of a patch in heatmap px.

    Raises:
        ValueError: half a patch is not a whole number of heatmap px.
    """
    if fit_patch_px % (2 * downsample):
        raise ValueError(
            f"fit_patch_px = {fit_patch_px}: the run's heatmaps have one px per "
            f"{downsample} model px; give a multiple of {2 * downsample}"
        )
    return fit_patch_px // downsample


def find_hard(
    slide: FinishedSlide, truth: Truth, *, downsample: int, spec: MiningSpec
) -> HardPatches:
    """Find the patches of a slide that the run predicted wrong.

    Ignored and unpredicted pixels are excluded, and so are patches of glass only. If
    the annotation is not exhaustive
    (:attr:`~digipath_ray.cohort.manifest.SlideRow.gives_normal`), only the tumor is
    known: there are no false alarms, and Dice is over the tumor's pixels.

    Args:
        slide: slide of the run.
        truth: truth on the heatmap's grid.
        downsample: model px per heatmap px.
        spec: criteria.

    Raises:
        ValueError: half a patch is not a whole number of heatmap px.
    """
    windows = Windows.over(slide.tissue.shape, window_px(spec.fit_patch_px, downsample))
    found = _measure(slide, truth, windows, spec)
    missed = found.looked_at & found.holds_tumor & (found.dice < spec.dice)
    alarm = found.looked_at & ~missed & found.alarmed & (found.share < spec.max_tumor)
    kept = [
        (at, hardness[tuple(at.T)])
        for chosen, hardness in ((missed, 1 - found.dice), (alarm, found.mean))
        for at in [_hardest(chosen, hardness, found.share, spec.per_slide)]
    ]
    at, hardness = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    order = np.argsort(-hardness, kind="stable")
    return HardPatches(
        table=_samples(slide, windows, at[order], found.share),
        hardness=hardness[order],
        looked_at=int(found.looked_at.sum()),
        tumor=int(missed.sum()),
        alarms=int(alarm.sum()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measures:
    """Measures of each window [tops, lefts] of a slide."""

    looked_at: Bools
    holds_tumor: Bools
    dice: Values
    """Dice over the known pixels."""
    share: Values
    """Tumor fraction."""
    alarmed: Bools
    mean: Values
    """Mean probability of the known pixels."""


def _measure(
    slide: FinishedSlide, truth: Truth, windows: Windows, spec: MiningSpec
) -> _Measures:
    known = slide.heatmap.covered & ~truth.ignored
    if not slide.record.gives_normal:
        known &= truth.tumor
    p, sums = slide.heatmap.probability, windows.sums
    tumor, called = truth.tumor & known, (p >= spec.dice_at) & known
    tumor_px = sums(tumor)
    # At least 1, where a window has neither tumor nor a call: its Dice is not used.
    both = np.maximum(tumor_px + sums(called), 1)
    return _Measures(
        looked_at=sums(known & (slide.tissue | truth.tumor)) > 0,
        holds_tumor=tumor_px > 0,
        dice=2 * sums(tumor & called) / both,
        share=sums(truth.tumor) / windows.side**2,
        alarmed=sums(known & ~truth.tumor & (p >= spec.alarm_at)) > 0,
        mean=sums(np.where(known, p, 0)) / np.maximum(sums(known), 1),
    )


def _hardest(chosen: Bools, hardness: Values, share: Values, limit: int) -> Indices:
    """Hardest of the chosen windows [n, 2]; ties go to those with more tumor."""
    at = np.argwhere(chosen)
    where = tuple(at.T)
    # The last key of lexsort is the first criterion.
    order = np.lexsort((-share[where], -hardness[where]))
    return at[order[:limit]]


def _samples(
    slide: FinishedSlide, windows: Windows, at: Indices, share: Values
) -> pa.Table:
    """SAMPLES table of windows [n, 2]; each represents half its side squared."""
    half_mm2 = slide.heatmap.mpp_x * slide.heatmap.mpp_y * windows.side**2 / 4e6
    x, y = windows.lefts[at[:, 1]], windows.tops[at[:, 0]]
    columns = {
        "slide_id": [slide.record.slide_id] * len(at),
        "x": np.rint(x * slide.l0_per_hm_x).astype(np.int64),
        "y": np.rint(y * slide.l0_per_hm_y).astype(np.int64),
        "tumor": share[tuple(at.T)].astype(np.float32),
        "area_mm2": np.full(len(at), half_mm2),
    }
    return pa.table(columns, schema=SAMPLES)


def merge_hard(found: Sequence[HardPatches]) -> pa.Table:
    """Merge hard patches of several slides into one SAMPLES table, hardest first."""
    table = pa.concat_tables([SAMPLES.empty_table(), *(part.table for part in found)])
    hardness = np.concatenate([np.empty(0), *(part.hardness for part in found)])
    return table.take(np.argsort(-hardness, kind="stable"))
