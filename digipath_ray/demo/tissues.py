"""Tissues of a synthetic lymph node and their appearance, as a table."""

from dataclasses import dataclass
from enum import IntEnum

from digipath_ray.demo.nuclei import BLAST, LYMPHOCYTE, SPINDLE, TUMOR, NucleusKind


class Tissue(IntEnum):
    """Tissue type of a pixel."""

    GLASS = 0
    LYMPHOID = 1
    MANTLE = 2
    CENTER = 3
    SINUS = 4
    CAPSULE = 5
    NEST = 6
    SEPTUM = 7
    LUMEN = 8
    WALL = 9
    BLOOD = 10
    FAT = 11
    SCAR = 12


@dataclass(frozen=True, kw_only=True)
class Look:
    """Appearance of one tissue.

    Attributes:
        eosin, hematoxylin: background densities, between the nuclei.
        grain, cloud, fiber: amplitude of fine, coarse and stretched noise in the eosin.
        lymphocytes, blasts, spindles, tumor: fraction of the possible positions
            (:data:`CELLS`) occupied by each kind of cell.
    """

    eosin: float = 0.0
    hematoxylin: float = 0.0
    grain: float = 0.0
    cloud: float = 0.0
    fiber: float = 0.0
    lymphocytes: float = 0.0
    blasts: float = 0.0
    spindles: float = 0.0
    tumor: float = 0.0


CELLS: dict[str, tuple[NucleusKind, float]] = {
    "tumor": (TUMOR, 17.5),
    "spindles": (SPINDLE, 15.0),
    "blasts": (BLAST, 12.0),
    "lymphocytes": (LYMPHOCYTE, 7.9),
}
"""Kind of nucleus and distance between neighbors [um], by attribute of Look."""

LOOKS: dict[Tissue, Look] = {
    Tissue.GLASS: Look(),
    Tissue.LYMPHOID: Look(
        eosin=0.36, hematoxylin=0.12, grain=0.05, cloud=0.05,
        lymphocytes=0.74, blasts=0.06, spindles=0.03,
    ),
    Tissue.MANTLE: Look(
        eosin=0.34, hematoxylin=0.14, grain=0.05, cloud=0.03, lymphocytes=0.98,
    ),
    Tissue.CENTER: Look(
        eosin=0.48, hematoxylin=0.13, grain=0.06, cloud=0.05,
        lymphocytes=0.2, blasts=0.8,
    ),
    Tissue.SINUS: Look(
        eosin=0.2, hematoxylin=0.04, grain=0.1, cloud=0.06,
        lymphocytes=0.14, blasts=0.22, spindles=0.1,
    ),
    Tissue.CAPSULE: Look(
        eosin=0.8, hematoxylin=0.08, grain=0.06, cloud=0.08, fiber=0.18,
        lymphocytes=0.02, spindles=0.55,
    ),
    Tissue.NEST: Look(
        eosin=0.6, hematoxylin=0.22, grain=0.07, cloud=0.08,
        lymphocytes=0.02, tumor=0.94,
    ),
    Tissue.SEPTUM: Look(
        eosin=0.78, hematoxylin=0.08, grain=0.06, cloud=0.08, fiber=0.18,
        lymphocytes=0.1, spindles=0.6,
    ),
    Tissue.LUMEN: Look(eosin=0.08, hematoxylin=0.01, grain=0.01, cloud=0.03),
    Tissue.WALL: Look(
        eosin=0.85, hematoxylin=0.08, grain=0.05, fiber=0.14,
        lymphocytes=0.02, spindles=0.8,
    ),
    Tissue.BLOOD: Look(eosin=0.75, hematoxylin=0.01, grain=0.42, lymphocytes=0.01),
    Tissue.FAT: Look(eosin=0.02),
    Tissue.SCAR: Look(
        eosin=0.62, hematoxylin=0.1, grain=0.06, cloud=0.1, fiber=0.16,
        lymphocytes=0.13, spindles=0.45,
    ),
}  # fmt: skip
