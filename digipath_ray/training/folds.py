"""Folds by patient: training and validation slides of each member.

Patients are dealt in turn, most severe first, so folds have equal numbers of patients
of every stratum, within one. Not scikit-learn's StratifiedGroupKFold: it balances
slides, and may leave a fold without tumor although there is enough for all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from digipath_ray.cohort.manifest import SPLITS, SlideRow
from digipath_ray.words import count

Patient = tuple[str, str]
"""("patient", patient_id), or ("slide", slide_id) for a slide without patient."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Sorted training and validation slides of one member."""

    fit: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Fold of each slide.

    Attributes:
        k: member i is validated on fold i mod k and trained on all others.
        fold_of: slide_id -> fold; None = test split, not seen by any member. With a
            validation split in the cohort, k is 1, fold 0 is that split and fold 1 the
            rest.
        warnings: problems of the folds, one sentence each.
    """

    k: int
    fold_of: Mapping[str, int | None]
    warnings: tuple[str, ...] = ()

    def split_of(self, member_index: int) -> Split:
        """Slides of the member with this index, from 0."""
        held_out = member_index % self.k
        seen = sorted(s for s, fold in self.fold_of.items() if fold is not None)
        return Split(
            fit=tuple(s for s in seen if self.fold_of[s] != held_out),
            validation=tuple(s for s in seen if self.fold_of[s] == held_out),
        )


def assign_folds(
    rows: Sequence[SlideRow], strata: Mapping[str, int], *, k: int, seed: int
) -> Folds:
    """Assign stratified folds by patient, independent of the order of the rows.

    Slides of the test split are in no fold. If the rows have a validation split, all
    members are trained and validated on the same slides.

    Args:
        rows: the cohort.
        strata: slide_id -> severity, 0 without tumor; a patient counts as its most
            severe slide.
        k: number of folds.
        seed: seed of the shuffle within a stratum.

    Raises:
        ValueError: a patient's slides are in different splits, a split is unknown, a
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


def check_patients(rows: Sequence[SlideRow], *, k: int) -> tuple[str, ...]:
    """Check that rows can be cut into folds; what is doubtful of them, as sentences.

    Needs no patches, so it comes before anything is sampled.

    Raises:
        ValueError: a patient's slides are in different splits, a split is unknown, or
            there are fewer patients than folds.
    """
    slides = _slides_of_patients(rows)
    splits = [_split_of(patient, slides[patient]) for patient in slides]
    if "validation" not in splits:
        _check_enough(splits.count("train"), k)
    unnamed = sum(row.patient_id is None for row in rows)
    if not unnamed:
        return ()
    risk = (
        "slides of one patient may be both fitted on and validated on, and scores "
        "come out too good: name patients in the column patient_id"
    )
    if unnamed == len(rows):
        return (f"no slide names its patient, so folds are by slide: {risk}",)
    return (
        f"{unnamed} of {count(len(rows), 'slide')} without a patient, each counted as "
        f"one of its own: {risk}",
    )


def patient_of(row: SlideRow) -> Patient:
    """Patient of a slide; a slide without patient_id is its own patient."""
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
            f"patient {patient[1]!r} is in several splits ({where}), which would "
            "leak training data: give all its slides the same split"
        )
    return next(iter(splits))


def _read_split(row: SlideRow) -> str:
    stated = (row.split or "train").strip().lower()
    for split, spellings in SPLITS.items():
        if stated in spellings:
            return split
    raise ValueError(
        f"slide {row.slide_id!r}: split {row.split!r} is not one of {', '.join(SPLITS)}"
    )


def _stratum(row: SlideRow, strata: Mapping[str, int]) -> int:
    if row.slide_id not in strata:
        raise ValueError(f"slide {row.slide_id!r} has no stratum: assign one")
    return strata[row.slide_id]


def _deal(
    stratum_of: Mapping[Patient, int], *, k: int, seed: int
) -> dict[Patient, int]:
    """Deal patients to k folds in turn, most severe first, shuffled in a stratum."""
    _check_enough(len(stratum_of), k)
    patients = sorted(stratum_of)  # independent of the cohort's order
    shuffled = np.random.default_rng(seed).permutation(len(patients))
    dealt = sorted(shuffled, key=lambda i: -stratum_of[patients[i]])
    return {patients[i]: turn % k for turn, i in enumerate(dealt)}


def _check_enough(patients: int, k: int) -> None:
    if patients >= k:
        return
    ways = ["add patients", "give some slides the split validation"]
    if patients > 1:
        ways.append(f"use at most {patients} folds (fit.folds)")
    raise ValueError(
        f"{count(patients, 'patient')} cannot be split into {k} folds: "
        f"{', or '.join(ways)}"
    )


def _check_fitted(fold_of_patient: Mapping[Patient, int | None]) -> None:
    if len({fold for fold in fold_of_patient.values() if fold is not None}) < 2:
        raise ValueError(
            "no training slides left besides validation and test: give at least one "
            "slide the split train"
        )


def _warn(
    fold_of: Mapping[Patient, int | None], stratum_of: Mapping[Patient, int]
) -> tuple[str, ...]:
    """Warn about each fold without tumor."""
    folds = sorted({fold for fold in fold_of.values() if fold is not None})
    positive = {fold for p, fold in fold_of.items() if stratum_of[p] > 0}
    return tuple(
        f"fold {fold} has no patient with tumor: its validation scores are of little "
        "use"
        for fold in folds
        if fold not in positive
    )
