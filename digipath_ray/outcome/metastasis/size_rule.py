"""The size rule: a slide's metastasis type from the extent of its largest lesion.

It needs no labels and no model. Fragments that lie close together are one metastasis;
what is too short or nowhere sure is passed over; the largest of the rest decides
(Table 2).
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
from digipath_ray.outcome.qupath import trace
from digipath_ray.outcome.staging import Metastasis

MAX_ITC_UM = 200.0
"""Isolated tumor cells reach at most so far (Table 2)."""
MAX_MICRO_UM = 2000.0
"""A micro-metastasis reaches at most so far (Table 2)."""
TAIL_UM = 1e-6
"""Lesions closer than a distance are so by this at least, and not by a float's tail."""


def type_of_size(largest_um: float) -> Metastasis:
    """The type of a slide whose largest metastasis extends so far; 0: it has none."""
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
        numbers: of the lesions, the largest area first.
        extent_um: Feret diameter of all their pixels together.
        max_p: highest probability in them.
    """

    numbers: tuple[int, ...]
    extent_um: float
    max_p: float


@dataclass(frozen=True, kw_only=True)
class SizedLesions:
    """What the size rule says of a slide.

    Attributes:
        largest_um: extent of the largest group that counts; 0.0 if none does.
        score: highest probability in the groups that count; 0.0 if none does.
        counted: numbers of the lesions of each group that counts, the longest first.
    """

    largest_um: float
    score: float
    counted: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class SizeRule:
    """Which lesions count: first they are merged, then each group is looked at.

    Attributes:
        min_extent_um: a group shorter than this is passed over.
        min_p: so is one whose highest probability is below this.
        merge_um: lesions closer than this, edge to edge, are one group.
    """

    min_extent_um: float
    min_p: float
    merge_um: float

    def measure(self, lesions: Lesions) -> SizedLesions:
        """The extent and the score of a slide's lesions."""
        return self.apply(merge_lesions(lesions, self.merge_um))

    def apply(self, groups: Sequence[LesionGroup]) -> SizedLesions:
        """The same of lesions merged before, by :func:`merge_lesions`."""
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
    """Lesions in groups: closer than ``merge_um`` to another of it, edge to edge.

    The edges are those of the pixels, and the distances exact. A group may well reach
    further than ``merge_um``, from one lesion to the next.
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
    """The group of each lesion."""
    n = len(lesions.lesions)
    if n < 2 or merge_um <= TAIL_UM:
        return list(range(n))
    shapes = np.array([_outline_um(lesions, lesion) for lesion in lesions.lesions])
    one, other = shapely.STRtree(shapes).query(
        shapes, predicate="dwithin", distance=merge_um - TAIL_UM
    )
    near = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(n, n))
    _, group = connected_components(near, directed=False)
    return [int(number) for number in group]


def _outline_um(lesions: Lesions, lesion: Lesion) -> Shape:
    """A lesion's outline, um from the slide's corner."""
    top, left, _, _ = lesion.box
    corner, mpp = np.array([left, top]), np.array([lesions.mpp_x, lesions.mpp_y])
    return shapely.transform(
        trace(lesions.pixels(lesion.number)),
        lambda points: (points + corner) * mpp,
    )
