"""Folds by patient: which slides a member is fitted on, and on which it is validated.

Patients are dealt like cards, the gravest first, so the folds have equal numbers of
patients of every kind, give or take one. (Scikit-learn's StratifiedGroupKFold balances
slides, and may leave a fold without any tumor where there is enough for all.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from digipath_ray.cohort.manifest import SPLITS, SlideRow

Patient = tuple[str, str]
"""("patient", patient_id), or ("slide", slide_id) of a slide without patient."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The slides of one member, sorted: fitted on, and validated on."""

    fit: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Which fold each slide lies in.

    Attributes:
        k: member i is validated on fold i mod k and fitted on all others.
        fold_of: slide_id -> fold; None = no member sees it (the test split). Of a
            cohort with a validation split k is 1, fold 0 that split, fold 1 the rest.
        warnings: what is amiss with the folds, in sentences.
    """

    k: int
    fold_of: Mapping[str, int | None]
    warnings: tuple[str, ...] = ()

    def split_of(self, member_index: int) -> Split:
        """The slides of the member with this index, counted from 0."""
        held_out = member_index % self.k
        seen = sorted(s for s, fold in self.fold_of.items() if fold is not None)
        return Split(
            fit=tuple(s for s in seen if self.fold_of[s] != held_out),
            validation=tuple(s for s in seen if self.fold_of[s] == held_out),
        )


def assign_folds(
    rows: Sequence[SlideRow], strata: Mapping[str, int], *, k: int, seed: int
) -> Folds:
    """Folds of whole patients, stratified; the order of the rows plays no part.

    Slides of the test split lie in no fold. Where the rows state a validation split,
    no folds are cut, and every member is fitted and validated on the same slides.

    Args:
        rows: the cohort.
        strata: slide_id -> 0 without tumor, the higher the graver; a patient counts
            as its gravest slide.
        k: how many folds.
        seed: which patients of a stratum go where.

    Raises:
        ValueError: a patient's slides lie in different splits, a split is unknown, a
            slide has no stratum, or there are fewer patients than folds.
    """
    slides = _slides_of_patients(rows)
    split_of = {patient: _split_of(patient, slides[patient]) for patient in slides}
    stratum_of = {p: max(_stratum(r, strata) for r in slides[p]) for p in slides}
    if "validation" in split_of.values():
        k = 1
        places = {"validation": 0, "train": 1}
        fold_of_patient = {p: places.get(split) for p, split in split_of.items()}
    else:
        fitted = {p: s for p, s in stratum_of.items() if split_of[p] == "train"}
        fold_of_patient = dict.fromkeys(slides) | _deal(fitted, k=k, seed=seed)
    _check_fitted(fold_of_patient)
    return Folds(
        k=k,
        fold_of={r.slide_id: fold_of_patient[patient_of(r)] for r in rows},
        warnings=_warn(fold_of_patient, stratum_of),
    )


def patient_of(row: SlideRow) -> Patient:
    """Whose slide it is; a slide without patient_id is its own patient."""
    if row.patient_id is None:
        return ("slide", row.slide_id)
    return ("patient", row.patient_id)


def _slides_of_patients(rows: Sequence[SlideRow]) -> dict[Patient, list[SlideRow]]:
    slides: dict[Patient, list[SlideRow]] = {}
    for row in rows:
        slides.setdefault(patient_of(row), []).append(row)
    return slides


def _split_of(patient: Patient, rows: Sequence[SlideRow]) -> str:
    splits = {_read_split(row): row.slide_id for row in rows}
    if len(splits) > 1:
        where = ", ".join(f"{slide} in {split}" for split, slide in splits.items())
        raise ValueError(
            f"patient {patient[1]!r} lies in several splits ({where}): what is learned "
            "from one slide would leak into the other: give all the same split"
        )
    return next(iter(splits))


def _read_split(row: SlideRow) -> str:
    split = (row.split or "train").strip().lower()
    for split, spellings in SPLITS.items():
        if split in spellings:
            return split
    raise ValueError(
        f"slide {row.slide_id!r}: split {row.split!r} is none of {', '.join(SPLITS)}"
    )


def _stratum(row: SlideRow, strata: Mapping[str, int]) -> int:
    if row.slide_id not in strata:
        raise ValueError(f"slide {row.slide_id!r} has no stratum: give it one")
    return strata[row.slide_id]


def _deal(
    stratum_of: Mapping[Patient, int], *, k: int, seed: int
) -> dict[Patient, int]:
    """Patients dealt to k folds in turn, the gravest first, at random among equals."""
    if len(stratum_of) < k:
        raise ValueError(
            f"{len(stratum_of)} patients cannot be cut into {k} folds: add patients, "
            f"or ask for at most {len(stratum_of)} folds (fit.folds)"
        )
    patients = sorted(stratum_of)  # so that the cohort's order plays no part
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    dealt = sorted(shuffled, key=lambda i: -stratum_of[patients[i]])
    return {patients[i]: turn % k for turn, i in enumerate(dealt)}


def _check_fitted(fold_of_patient: Mapping[Patient, int | None]) -> None:
    if len({fold for fold in fold_of_patient.values() if fold is not None}) < 2:
        raise ValueError(
            "no slide is left to be fitted on beside those for validation and test: "
            "give at least one slide the split train"
        )


def _warn(
    fold_of: Mapping[Patient, int | None], stratum_of: Mapping[Patient, int]
) -> tuple[str, ...]:
    """A sentence for each fold without tumor."""
    folds = sorted({fold for fold in fold_of.values() if fold is not None})
    positive = {fold for p, fold in fold_of.items() if stratum_of[p] > 0}
    return tuple(
        f"fold {fold} has no patient with tumor: what is measured on it says little"
        for fold in folds
        if fold not in positive
    )
