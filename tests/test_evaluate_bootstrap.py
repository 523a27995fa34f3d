"""Intervals: what is drawn anew, and what they come to where that is known."""

import math
from statistics import mean

import pytest

from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.evaluate.bootstrap import Units, interval, score_cases, units_of
from digipath_ray.evaluate.results import Evaluation, Score


def row(slide_id: str, patient_id: str | None) -> SlideRow:
    return SlideRow(slide_id=slide_id, path="", patient_id=patient_id)


def test_patients_are_drawn_if_all_are_known_else_slides() -> None:
    known = units_of([row("a", "p"), row("b", "p")], otherwise="slide")
    assert known == Units(name="patient", of={"a": "p", "b": "p"})
    unknown = units_of([row("a", "p"), row("b", None)], otherwise="image")
    assert unknown == Units(name="image", of={"a": "a", "b": "b"})


def test_slides_of_a_patient_are_drawn_together() -> None:
    cases = {"a": 0.0, "b": 0.0, "c": 1.0}
    units = Units(name="patient", of={"a": "p", "b": "p", "c": "q"})
    drawn = set()

    def note(values) -> float:
        drawn.add(tuple(values))
        return mean(values)

    found = score_cases(cases, note, units, resamples=200)
    assert drawn == {(0, 0, 1), (1, 0, 0), (1, 1), (0, 0, 0, 0)}
    assert found == Score(
        value=pytest.approx(1 / 3), low=0, high=1, n=3, unit="patient", units=2
    )


def test_the_interval_of_a_proportion_is_the_one_in_the_books() -> None:
    # 50 of 100: 0.5 +- 1.96 * 0.05.
    groups = [[float(i % 2)] for i in range(100)]
    low, high = interval(groups, mean, resamples=2000)
    assert low == pytest.approx(0.402, abs=0.015)
    assert high == pytest.approx(0.598, abs=0.015)
    assert interval(groups, mean, resamples=2000) == (low, high)


def test_one_unit_has_no_interval_and_undefined_draws_are_passed_over() -> None:
    assert interval([[1.0, 2.0]], mean, resamples=10) == (None, None)
    assert interval([[1.0], [2.0]], mean, resamples=0) == (None, None)

    def unless_alike(values) -> float:
        return mean(values) if len(set(values)) > 1 else math.nan

    assert interval([[1.0], [2.0]], unless_alike, resamples=50) == (1.5, 1.5)
    assert interval([[1.0], [1.0]], unless_alike, resamples=50) == (None, None)


def test_what_is_not_defined_is_no_score() -> None:
    units = Units(name="slide", of={"a": "a"})
    assert score_cases({"a": 1.0}, lambda _: math.nan, units) is None
    assert score_cases({}, mean, units) is None


def score(value: float, n: int = 2) -> Score:
    return Score(value=value, low=None, high=None, n=n, unit="slide", units=n)


def test_the_ensemble_is_held_against_members_that_predicted_as_much() -> None:
    found = Evaluation(
        challenge="masks",
        scores={"dice": score(0.8), "auc": score(0.9)},
        members={
            "a": {"dice": score(0.7)},
            "b": {"dice": score(0.8)},
            "c": {"dice": score(0.1, n=1)},
        },
    )
    assert found.against_members() == {"dice": (1, 2)}
