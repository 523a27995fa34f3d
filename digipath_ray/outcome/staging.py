"""Metastasis types of lymph nodes, and a patient's pN stage from them (Tables 2 and 3).

A node with isolated tumor cells does not count as metastatic; one with a micro- or
macro-metastasis does. Label files and submissions are CAMELYON17's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Self

from digipath_ray.cohort.manifest import NEGATIVE


class Metastasis(IntEnum):
    """What a lymph node holds; the higher the graver (Table 2)."""

    NEGATIVE = 0
    ITC = 1
    MICRO = 2
    MACRO = 3

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The type that a label names, in any case; as negative also ``normal``.

        Raises:
            ValueError: it names none.
        """
        name = text.strip().lower()
        if name in NEGATIVE:
            name = "negative"
        for member in cls:
            if member.label == name:
                return member
        known = ", ".join(m.label for m in cls)
        raise ValueError(f"metastasis type {text!r}: must be one of {known}")

    @property
    def label(self) -> str:
        """The type as CAMELYON17's label files spell it."""
        return self.name.lower()


class PnStage(StrEnum):
    """Pathologic stage of the lymph nodes; the lower down the graver (Table 3)."""

    N0 = "pN0"
    N0_ITC = "pN0(i+)"
    N1_MICRO = "pN1mi"
    N1 = "pN1"
    N2 = "pN2"
    N3A = "pN3a"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The stage that a label names, in any case.

        Raises:
            ValueError: it names none.
        """
        for member in cls:
            if member.value.lower() == text.strip().lower():
                return member
        raise ValueError(f"pN stage {text!r}: must be one of {', '.join(cls)}")


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """A row of Table 3: the gravest node, and how many are metastatic at least."""

    stage: PnStage
    gravest: Metastasis
    metastatic: int


TABLE_3: tuple[StageRule, ...] = (
    StageRule(stage=PnStage.N0, gravest=Metastasis.NEGATIVE, metastatic=0),
    StageRule(stage=PnStage.N0_ITC, gravest=Metastasis.ITC, metastatic=0),
    StageRule(stage=PnStage.N1_MICRO, gravest=Metastasis.MICRO, metastatic=1),
    StageRule(stage=PnStage.N1, gravest=Metastasis.MACRO, metastatic=1),
    StageRule(stage=PnStage.N2, gravest=Metastasis.MACRO, metastatic=4),
    StageRule(stage=PnStage.N3A, gravest=Metastasis.MACRO, metastatic=10),
)
"""Table 3; the last row is not in it but AJCC's (8th edition): the challenge's patients
have 5 nodes each."""


@dataclass(frozen=True, kw_only=True)
class PatientStage:
    """A row of the PATIENTS table; ``schema.PATIENTS`` says what its columns mean."""

    patient_id: str
    nodes: int
    missing: int
    n_itc: int
    n_micro: int
    n_macro: int
    pn_stage: PnStage | None
    complete: bool
    note: str | None


def stage_nodes(types: Sequence[Metastasis]) -> PnStage:
    """The stage of a patient with these nodes (Table 3).

    Raises:
        ValueError: there is no node.
    """
    if not types:
        raise ValueError("no lymph node has a type, so there is no stage")
    gravest = max(types)
    metastatic = sum(t >= Metastasis.MICRO for t in types)
    fitting = [
        rule.stage
        for rule in TABLE_3
        if rule.gravest == gravest and rule.metastatic <= metastatic
    ]
    return fitting[-1]


def stage_patient(
    patient_id: str, types: Sequence[Metastasis | None], *, expected: int | None = None
) -> PatientStage:
    """A patient's stage; at least it where nodes are missing, as more can only add.

    Args:
        patient_id: the patient.
        types: of each slide there is; None of one that failed.
        expected: slides that there should be; None: those there are.
    """
    known = [t for t in types if t is not None]
    absent = max(0, expected - len(types)) if expected is not None else 0
    missing = len(types) - len(known) + absent
    stage = stage_nodes(known) if known else None
    return PatientStage(
        patient_id=patient_id,
        nodes=len(known),
        missing=missing,
        n_itc=known.count(Metastasis.ITC),
        n_micro=known.count(Metastasis.MICRO),
        n_macro=known.count(Metastasis.MACRO),
        pn_stage=stage,
        complete=bool(known) and missing == 0,
        note="; ".join(_notes(stage, len(known), missing, expected)) or None,
    )


def _notes(
    stage: PnStage | None, nodes: int, missing: int, expected: int | None
) -> Iterator[str]:
    """What a reader must know of a stage."""
    if stage is None:
        yield "no stage: no node has a type"
    elif missing:
        yield f"at least {stage}: {missing} of {nodes + missing} nodes have no type"
    if stage is PnStage.N3A:
        yield "pN3a by AJCC 8: the challenge's table ends at 9 metastatic nodes"
    if expected is not None and nodes + missing > expected:
        yield f"{nodes + missing} nodes, where {expected} were expected"
