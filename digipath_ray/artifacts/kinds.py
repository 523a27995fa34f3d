"""The kinds of artifacts in the order of their indexes, and the map of a slide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from digipath_ray.tissue.mask import Bools, Mask

Indexes = NDArray[np.uint8]
"""Index of a kind at every pixel [rows, cols], 0 where there is no artifact."""

FLAG_SHARE = 0.05
"""Part of the tissue from which a kind raises a flag."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of artifact.

    Attributes:
        name: as in ``[artifacts] exclude`` and the columns ``artifact_<name>``.
        index: in the map.
        color: red, green, blue of maps and outlines, 0..255.
        meaning: in a line.
        said: of tissue, in a sentence: it "is ...".
    """

    name: str
    index: int
    color: tuple[int, int, int]
    meaning: str
    said: str

    @property
    def label(self) -> str:
        """Name of its flag, and of its class in QuPath."""
        return f"artifact: {self.name}"


KINDS = (
    Kind(
        name="blur",
        index=1,
        color=(86, 180, 233),
        meaning="out of focus",
        said="out of focus",
    ),
    Kind(
        name="fold",
        index=2,
        color=(213, 94, 0),
        meaning="tissue lying double",
        said="folded",
    ),
    Kind(
        name="bubble",
        index=3,
        color=(0, 158, 115),
        meaning="rim of an air bubble, edge of a coverslip, a hair: a thin dark line",
        said="below a dark line",
    ),
    Kind(
        name="pen",
        index=4,
        color=(204, 121, 167),
        meaning="ink over tissue or touching it",
        said="below ink or touched by it",
    ),
    Kind(
        name="blot",
        index=5,
        color=(0, 0, 0),
        meaning="dark and without color: dirt, carbon, a drop of ink",
        said="below dark blots",
    ),
)
"""Where two kinds lie over each other, the later one is in the map."""
BY_NAME = {kind.name: kind for kind in KINDS}
LABELS = {kind.label: kind for kind in KINDS}


@dataclass(frozen=True, kw_only=True, eq=False)
class ArtifactMap:
    """Artifacts of a whole slide.

    Attributes:
        indexes: uint8 [rows, cols], of the kinds; on the tissue mask's grid.
        mpp_x, mpp_y: um per px.
    """

    indexes: Indexes
    mpp_x: float
    mpp_y: float

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.indexes.dtype != np.uint8 or self.indexes.ndim != 2:
            raise ValueError(
                f"a map of artifacts is uint8 [rows, cols], not {self.indexes.dtype} "
                f"{list(self.indexes.shape)}"
            )
        highest = int(self.indexes.max(initial=0))
        if highest > KINDS[-1].index:
            raise ValueError(
                f"a map of artifacts holds {highest}, which is no kind's index: made "
                "by a newer version?"
            )
        if not (self.mpp_x > 0 and self.mpp_y > 0):
            raise ValueError(f"mpp {self.mpp_x} x {self.mpp_y}: must be positive")

    def where(self, *names: str) -> Bools:
        """Bool [rows, cols]: pixels of these kinds."""
        return np.isin(self.indexes, [BY_NAME[name].index for name in names])

    def shares(self, tissue: Mask) -> dict[str, float]:
        """Kind -> its part of the tissue and of what hides it, 0 to 1 in all.

        Args:
            tissue: on the same grid; ink is mostly not in it, and counts all the same.
        """
        all_of_it = np.count_nonzero(tissue.array | (self.indexes > 0))
        counts = np.bincount(self.indexes.ravel(), minlength=KINDS[-1].index + 1)
        return {k.name: float(counts[k.index] / max(all_of_it, 1)) for k in KINDS}


def flags(shares: dict[str, float]) -> list[str]:
    """Labels of the kinds on FLAG_SHARE of the tissue and more."""
    return [k.label for k in KINDS if shares[k.name] >= FLAG_SHARE]
