"""Bootstrap confidence intervals of scores, resampling patients, slides or cases.

Slides of one patient are correlated, so patients are resampled if known.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.evaluate.results import Evaluation, Score, Scores

Case = TypeVar("Case")
Statistic = Callable[[Sequence[Case]], float]
"""Score of a set of cases; NaN if undefined."""

ENSEMBLE = "ensemble"
RESAMPLES = 2000
SEED = 0
PERCENT = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Units:
    """Resampling units: their name, and case -> unit."""

    name: str
    of: Mapping[str, str]


def units_of(rows: Iterable[SlideRow], *, otherwise: str) -> Units:
    """Units of slides: their patients if all are known, else the slides.

    Args:
        rows: the slides.
        otherwise: name of the unit without patients: "slide", "image" or "case".
    """
    patients = {row.slide_id: row.patient_id for row in rows}
    known = {s: p for s, p in patients.items() if p is not None}
    if len(known) == len(patients):
        return Units(name="patient", of=known)
    return Units(name=otherwise, of={slide_id: slide_id for slide_id in patients})


def score_cases(
    cases: Mapping[str, Case],
    statistic: Statistic[Case],
    units: Units,
    *,
    resamples: int = RESAMPLES,
) -> Score | None:
    """Score cases by name, with its interval; None if undefined.

    Percentile bootstrap (Efron 1979): the central 95 % of the score over resamples of
    the units; undefined resamples are skipped. No interval if all cases belong to one
    unit.
    """
    value = statistic(list(cases.values())) if cases else math.nan
    if math.isnan(value):
        return None
    by_unit: dict[str, list[Case]] = {}
    for name, case in cases.items():
        by_unit.setdefault(units.of[name], []).append(case)
    low, high = interval(list(by_unit.values()), statistic, resamples=resamples)
    return Score(
        value=value,
        low=low,
        high=high,
        n=len(cases),
        unit=units.name,
        units=len(by_unit),
    )


def interval(
    groups: Sequence[Sequence[Case]],
    statistic: Statistic[Case],
    *,
    resamples: int,
) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of a statistic over resampled groups of cases."""
    if len(groups) < 2 or resamples < 1:
        return None, None
    rng = np.random.default_rng(SEED)
    # All draws at once: the groups drawn do not depend on the statistic, so scores of
    # the same units are resampled alike.
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    values = np.array(
        [statistic([c for i in row for c in groups[i]]) for row in drawn.tolist()]
    )
    # A resample may lack a class, e.g. all slides without tumor.
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, PERCENT)
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Measure(Generic[Case]):
    """A score: the statistic, its cases, and what is missing if undefined."""

    statistic: Statistic[Case]
    lacking: str
    only: Callable[[Case], bool] | None = None


def score_maps(
    challenge: str,
    maps: Mapping[str, Mapping[str, Case]],
    measures: Mapping[str, Measure[Case]],
    units: Units,
    *,
    resamples: int,
    notes: Iterable[str] = (),
) -> Evaluation:
    """Compute all measures of the ensemble and of each member.

    Args:
        challenge: name of the challenge.
        maps: ENSEMBLE and members -> slide_id -> case.
        measures: measures by score name.
        units: resampling units.
        resamples: number of resamples.
        notes: notes for the reader.
    """
    found: dict[str, Scores] = {}
    for name, cases in maps.items():
        scores = {}
        for score_name, measure in measures.items():
            score = _measure(cases, measure, units, resamples)
            if score is not None:
                scores[score_name] = score
        found[name] = scores
    ensemble = found.pop(ENSEMBLE)
    lacking = [
        f"no {name}: {measure.lacking}"
        for name, measure in measures.items()
        if name not in ensemble
    ]
    return Evaluation(
        challenge=challenge,
        scores=ensemble,
        members=found,
        notes=(*notes, *lacking),
    )


def _measure(
    cases: Mapping[str, Case], measure: Measure[Case], units: Units, resamples: int
) -> Score | None:
    only = measure.only
    kept = {i: c for i, c in cases.items() if only is None or only(c)}
    return score_cases(kept, measure.statistic, units, resamples=resamples)
