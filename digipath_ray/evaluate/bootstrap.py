"""The interval of a score: patients, slides or cases drawn anew with replacement.

Slides of one patient are alike, so patients are drawn wherever they are known.
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
"""A score of some cases; NaN where they do not define it."""

ENSEMBLE = "ensemble"
RESAMPLES = 2000
SEED = 0
PERCENT = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Units:
    """What is drawn: its name, and case -> the unit that it belongs to."""

    name: str
    of: Mapping[str, str]


def units_of(rows: Iterable[SlideRow], *, otherwise: str) -> Units:
    """The patients of some slides if all are known, else the slides themselves.

    Args:
        rows: the slides.
        otherwise: what a slide is called: "slide", "image" or "case".
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
    """A score of cases by their names; None where they do not define it.

    The interval holds the middle 95 % of the score over resamples of the units
    (percentile bootstrap, Efron 1979), those that do not define it passed over. There
    is none where all cases are one unit's.
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
    """The 95 % interval of a statistic when groups of cases are drawn anew."""
    if len(groups) < 2 or resamples < 1:
        return None, None
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    values = np.array(
        [statistic([c for i in row for c in groups[i]]) for row in drawn.tolist()]
    )
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    low, high = np.percentile(values, PERCENT)
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Measure(Generic[Case]):
    """A score: the statistic, of which cases, and what they lack where it is none."""

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
    """All measures of the ensemble and of each member.

    Args:
        challenge: whose measures they are.
        maps: ENSEMBLE and members -> slide_id -> case.
        measures: by the names of the scores.
        units: what is drawn anew.
        resamples: how often.
        notes: what a reader must know.
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
