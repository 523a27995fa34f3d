"""Size rule: metastasis type of a slide from the extent of its largest lesion.

Needs neither labels nor a model. Nearby fragments are one metastasis; groups that are
too short or too uncertain are ignored; the largest remaining one decides (Table 2).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from digipath_ray.annotations.outlines import Shape
from digipath_ray.outcome.lesions import Lesion, Lesions
from digipath_ray.outcome.staging import Metastasis

MAX_ITC_UM = 200.0
"""Maximum extent of isolated tumor cells (Table 2)."""
MAX_MICRO_UM = 2000.0
"""Maximum extent of a micro-metastasis (Table 2)."""
TAIL_UM = 1e-6
"""Tolerance, um, so that rounding never decides whether lesions are closer."""


def type_of_size(largest_um: float) -> Metastasis:
    """Type of a slide from the extent of its largest metastasis; 0 if none."""
    if largest_um <= 0:
        return Metastasis.NEGATIVE
    if largest_um <= MAX_ITC_UM:
        return Metastasis.ITC
    if largest_um <= MAX_MICRO_UM:
        return Metastasis.MICRO
    return Metastasis.MACRO


@dataclass(frozen=True, kw_only=True)
class LesionGroup:
    """Lesions that are fragments of one metastasis.

    Attributes:
        numbers: lesion numbers, largest area first.
        extent_um: Feret diameter of all their pixels.
        max_p: maximum probability.
    """

    numbers: tuple[int, ...]
    extent_um: float
    max_p: float


@dataclass(frozen=True, kw_only=True)
class SizedLesions:
    """Result of the size rule for a slide.

    Attributes:
        largest_um: extent of the largest counted group; 0.0 if none.
        score: maximum probability of the counted groups; 0.0 if none.
        counted: lesion numbers of each counted group, longest first.
    """

    largest_um: float
    score: float
    counted: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Criteria of counted lesions: lesions are merged, then groups are filtered.

    Attributes:
        min_extent_um: shorter groups are ignored.
        min_p: groups with a maximum probability below this are ignored.
        merge_um: lesions closer than this, edge to edge, are one group.
    """

    min_extent_um: float
    min_p: float
    merge_um: float

    def measure(self, lesions: Lesions) -> SizedLesions:
        """Apply the rule to a slide's lesions."""
        return self.apply(merge_lesions(lesions, self.merge_um))

    def apply(self, groups: Sequence[LesionGroup]) -> SizedLesions:
        """Apply the rule to lesions merged by :func:`merge_lesions`."""
        counting = sorted(
            (
                group
                for group in groups
                if group.extent_um >= self.min_extent_um and group.max_p >= self.min_p
            ),
            key=lambda group: -group.extent_um,
        )
        return SizedLesions(
            largest_um=max((group.extent_um for group in counting), default=0.0),
            score=max((group.max_p for group in counting), default=0.0),
            counted=tuple(group.numbers for group in counting),
        )


def merge_lesions(lesions: Lesions, merge_um: float) -> tuple[LesionGroup, ...]:
    """Group lesions closer than ``merge_um``, edge to edge, transitively.

    Edges are pixel edges, distances are exact. A group may extend further than
    ``merge_um`` through a chain of lesions.
    """
    groups = defaultdict(list)
    for lesion, group in zip(lesions.lesions, _groups(lesions, merge_um), strict=True):
        groups[group].append(lesion)
    return tuple(_group(lesions, members) for members in groups.values())


def _group(lesions: Lesions, members: Sequence[Lesion]) -> LesionGroup:
    numbers = tuple(lesion.number for lesion in members)
    alone = len(members) == 1
    return LesionGroup(
        numbers=numbers,
        extent_um=members[0].feret_um if alone else lesions.feret_um(numbers),
        max_p=max(lesion.max_p for lesion in members),
    )


def _groups(lesions: Lesions, merge_um: float) -> list[int]:
    """Group of each lesion."""
    n = len(lesions.lesions)
    if n < 2 or merge_um <= TAIL_UM:
        return list(range(n))
    shapes = np.array([_outline_um(lesions, lesion) for lesion in lesions.lesions])
    bounds = shapely.bounds(shapes)
    near_by = shapely.box(*(bounds[:, :2] - merge_um).T, *(bounds[:, 2:] + merge_um).T)
    one, other = shapely.STRtree(shapes).query(near_by)
    # The first of a pair is the larger: prepared once, it answers fast.
    once = one < other
    one, other = one[once], other[once]
    shapely.prepare(shapes)
    close = shapely.dwithin(shapes[one], shapes[other], merge_um - TAIL_UM)
    one, other = one[close], other[close]
    near = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(n, n))
    _, group = connected_components(near, directed=False)
    return [int(number) for number in group]


def _outline_um(lesions: Lesions, lesion: Lesion) -> Shape:
    """Outline of a lesion, um from the slide's corner."""
    top, left, _, _ = lesion.box
    corner, mpp = np.array([left, top]), np.array([lesions.mpp_x, lesions.mpp_y])
    return shapely.transform(
        lesions.outlines[lesion.number - 1],
        lambda points: (points + corner) * mpp,
    )
