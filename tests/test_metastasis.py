"""Forests and the fitted size rule: votes, balance, cross-validation, the model."""

import json
import zipfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import cohen_kappa_score

from digipath_ray.config.toml import Tree
from digipath_ray.outcome.features import FEATURES
from digipath_ray.outcome.metastasis.drawing import write_importances
from digipath_ray.outcome.metastasis.fit_forests import (
    Training,
    balance,
    count_types,
    fit_forests,
    forest_of,
    left_out,
)
from digipath_ray.outcome.metastasis.fit_model import fit_model
from digipath_ray.outcome.metastasis.fit_size_rule import fit_size_rule, undominated
from digipath_ray.outcome.metastasis.forests import (
    FORESTS,
    Forests,
    Partial,
    feature_matrix,
    take_vote,
)
from digipath_ray.outcome.metastasis.model import (
    HeatmapSetting,
    StageModel,
    check_fits,
    load_stage_model,
    save_stage_model,
    setting_of,
)
from digipath_ray.outcome.metastasis.scores import quadratic_kappa, score_types
from digipath_ray.outcome.metastasis.size_rule import LesionGroup, SizeRule
from digipath_ray.outcome.metastasis.validation import (
    ALL_FORESTS,
    FITTED_RULE,
    PRESET_RULE,
    LabeledSlides,
    cross_validate,
    deal_patients,
)
from digipath_ray.outcome.staging import Metastasis, PnStage
from tests.runs import small_config

NEGATIVE, ITC, MICRO, MACRO = Metastasis
FEW = Training(trees=15, seed=3)
PRESET = SizeRule(min_extent_um=40.0, min_p=0.7, merge_um=75.0)
SIZES_UM = (0.0, 120.0, 900.0, 3000.0)
"""Extent of the largest lesion of a slide of each type."""
TELLING = 8
"""Features that depend on the type, the first ones."""


def group(extent_um: float, max_p: float) -> LesionGroup:
    return LesionGroup(numbers=(1,), extent_um=extent_um, max_p=max_p)


def draw_slides(patients: int = 10, *, seed: int = 0) -> LabeledSlides:
    """Slides of 5 nodes a patient whose sizes tell their types, but for some noise."""
    rng = np.random.default_rng(seed)
    types = rng.choice(4, 5 * patients, p=[0.4, 0.2, 0.2, 0.2])
    sizes = np.array(SIZES_UM)[types] * rng.uniform(0.7, 1.3, len(types))
    features = rng.normal(size=(len(types), len(FEATURES)))
    features[:, :TELLING] = sizes[:, None] + rng.normal(0, 5, (len(types), TELLING))
    names = [f"p{i}" for i in range(patients) for _ in range(5)]
    return LabeledSlides(
        slide_ids=[f"s{i}" for i in range(len(types))],
        patients=names,
        types=types.astype(np.int64),
        features=features,
        groups=[[group(um, 0.95)] if um else [] for um in sizes.tolist()],
    )


@pytest.fixture(scope="module")
def slides() -> LabeledSlides:
    return draw_slides()


@pytest.fixture(scope="module")
def forests(slides: LabeledSlides) -> Forests:
    return fit_forests(slides.features, slides.types, FEW)


# Votes.


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((NEGATIVE, NEGATIVE, NEGATIVE, NEGATIVE), NEGATIVE),
        ((NEGATIVE, NEGATIVE, NEGATIVE, MACRO), NEGATIVE),
        ((ITC, ITC, NEGATIVE, MACRO), ITC),
        ((NEGATIVE, ITC, NEGATIVE, ITC), ITC),
        ((MACRO, MICRO, MICRO, MACRO), MACRO),
        ((MACRO, MICRO, ITC, NEGATIVE), MACRO),
    ],
)
def test_most_votes_and_of_a_tie_the_graver(
    votes: tuple[Metastasis, ...], expected: Metastasis
) -> None:
    assert take_vote(votes) is expected


def test_the_forests_are_the_papers_four() -> None:
    told = [(f.name, f.partial, f.balanced) for f in FORESTS]
    assert told == [
        ("RF-PI", True, False),
        ("RF-PB", True, True),
        ("RF-CI", False, False),
        ("RF-CB", False, True),
    ]


def test_a_verdict_holds_votes_and_probabilities(
    slides: LabeledSlides, forests: Forests
) -> None:
    verdicts = forests.predict(slides.features)
    each = [f.predict(slides.features) for f in forests.forests.values()]
    for i, verdict in enumerate(verdicts):
        assert [int(v) for v in verdict.votes] == [int(p[i].argmax()) for p in each]
        assert verdict.type is take_vote(verdict.votes)
        assert verdict.probability == pytest.approx(np.mean(each, axis=0)[i])
        assert sum(verdict.probability) == pytest.approx(1)


def test_the_forests_learn_what_tells_the_types(
    slides: LabeledSlides, forests: Forests
) -> None:
    unseen = draw_slides(seed=1)
    said = [v.type for v in forests.predict(unseen.features)]
    assert np.mean(np.array(said) == unseen.types) > 0.8
    assert forests.importance.shape == (4, 32)
    assert (forests.importance.mean(axis=0).argsort()[-TELLING:] < TELLING).all()


def test_a_forest_of_arrays_says_what_scikit_learns_says() -> None:
    """To the bit of a threshold: values on both sides of it, as float64 and float32."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 32)).round(2)
    types = rng.integers(0, 4, 200)
    fitted = RandomForestClassifier(20, random_state=0).fit(features, types)
    asked = np.concatenate([features, rng.normal(size=(700, 32))])
    ours = forest_of(fitted).predict(asked)
    assert ours == pytest.approx(fitted.predict_proba(asked), abs=1e-12)


def test_a_type_that_was_not_there_has_no_probability() -> None:
    rng = np.random.default_rng(0)
    types = np.array([NEGATIVE, MACRO] * 10)
    forests = fit_forests(rng.normal(size=(20, 32)), types, FEW)
    (verdict,) = forests.predict(np.zeros((1, 32)))
    assert verdict.probability[ITC] == verdict.probability[MICRO] == 0
    assert verdict.probability[NEGATIVE] + verdict.probability[MACRO] == 1
    assert "no slide is itc: the forests will never predict it" in forests.notes


def test_a_fit_is_the_same_again_and_seeds_are_told(slides: LabeledSlides) -> None:
    one, two = (fit_forests(slides.features, slides.types, FEW) for _ in range(2))
    other = fit_forests(slides.features, slides.types, replace(FEW, seed=4))
    asked = draw_slides(seed=5).features
    assert one.predict(asked) == two.predict(asked) != other.predict(asked)
    assert one.seeds == two.seeds
    assert len(set(one.seeds.values()) | set(other.seeds.values())) == 8


def test_slides_of_one_type_cannot_be_fitted_on() -> None:
    with pytest.raises(
        ValueError, match="3 slides with 1 type: label slides of at least two"
    ):
        fit_forests(np.zeros((3, 32)), np.array([MICRO] * 3), FEW)


@pytest.mark.parametrize("wrong", [{"trees": 0}, {"seed": -1}, {"jobs": 0}])
def test_a_fit_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


# Training sets.


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        ("empty", [False, True, False, False]),
        ("unsure", [False, True, True, False]),
        ("none", [False, False, False, False]),
    ],
)
def test_what_a_partial_training_set_leaves_out(
    partial: Partial, expected: list[bool]
) -> None:
    """A negative and a positive empty slide, one unsure, one with a region at 0.9."""
    features = np.zeros((4, 32))
    features[2:, FEATURES.index("major_axis_um_p50")] = 100.0
    features[3, FEATURES.index("region_count_p90")] = 1.0
    types = np.array([NEGATIVE, ITC, ITC, MICRO])
    assert left_out(features, types, partial).tolist() == expected


def test_only_the_partial_forests_do_without(slides: LabeledSlides) -> None:
    features = slides.features.copy()
    blank = np.flatnonzero(slides.types == MACRO)[:2]
    features[blank] = 0
    counts = fit_forests(features, slides.types, FEW).counts
    complete = count_types(slides.types)
    assert counts["RF-CI"] == complete
    assert counts["RF-PI"] == (*complete[:3], complete[3] - 2)


def test_a_partial_set_of_one_type_gives_way_to_the_complete() -> None:
    features = np.zeros((6, 32))
    types = np.array([NEGATIVE] * 3 + [MICRO] * 3)
    forests = fit_forests(features, types, FEW)
    assert forests.counts["RF-PI"] == forests.counts["RF-CI"] == (3, 0, 3, 0)
    assert any("using the complete set" in note for note in forests.notes)


def clusters(counts: tuple[int, ...]) -> tuple[Any, Any]:
    """Types far apart, so that no two of different types are nearest."""
    rng = np.random.default_rng(0)
    types = np.repeat(np.arange(4), counts)
    features = rng.normal(size=(len(types), 32)) + 100.0 * types[:, None]
    return features, types


def test_balanced_types_are_as_frequent_as_the_commonest() -> None:
    features, types = clusters((20, 8, 3, 12))
    grown, balanced = balance(features, types, seed=0)
    assert count_types(balanced) == (20, 20, 20, 20)
    # What was there is there still; what was made up lies among its type.
    assert grown[:43] == pytest.approx(features)
    for kind in Metastasis:
        own, new = features[types == kind], grown[balanced == kind]
        assert (new >= own.min(axis=0) - 1e-9).all()
        assert (new <= own.max(axis=0) + 1e-9).all()


def test_two_of_a_type_are_enough_and_one_stays_alone() -> None:
    features, types = clusters((10, 2, 1, 0))
    _, balanced = balance(features, types, seed=0)
    assert count_types(balanced) == (10, 10, 1, 0)


def test_nothing_to_balance_is_left_as_it_is() -> None:
    for counts in ((5, 5, 0, 0), (9, 1, 0, 1)):
        features, types = clusters(counts)
        grown, balanced = balance(features, types, seed=0)
        assert np.array_equal(grown, features)
        assert np.array_equal(balanced, types)


def test_nearest_pairs_of_two_types_are_taken_away() -> None:
    features, types = clusters((12, 6, 0, 0))
    features[12] = features[0] + 1e-3  # an itc amid the negative
    _, balanced = balance(features, types, seed=0)
    assert count_types(balanced)[NEGATIVE] < 12


def test_nearness_does_not_depend_on_the_units() -> None:
    features, types = clusters((12, 6, 3, 0))
    scale = np.logspace(-3, 6, 32)
    grown, balanced = balance(features, types, seed=1)
    scaled, same = balance(features * scale, types, seed=1)
    assert np.array_equal(balanced, same)
    assert scaled / scale == pytest.approx(grown)


def test_constant_features_are_no_trouble() -> None:
    features, types = clusters((6, 3, 0, 0))
    features[:, 1:] = 0
    _, balanced = balance(features, types, seed=0)
    assert count_types(balanced)[:2] == (6, 6)


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((9, 1, 0, 5), "one slide is itc: too few to balance"),
        ((9, 3, 0, 5), "3 slides are itc: balanced from very few"),
        ((9, 3, 0, 5), "no slide is micro: the forests will never predict it"),
    ],
)
def test_too_few_slides_of_a_type_are_said(counts: tuple[int, ...], note: str) -> None:
    features, types = clusters(counts)
    assert note in fit_forests(features, types, FEW).notes


# Cross-validation.


def test_patients_stay_whole_and_are_dealt_evenly() -> None:
    slides = draw_slides(patients=13)
    fold_of = deal_patients(slides, folds=4, seed=0)
    of_patient = {
        (patient, fold)
        for patient, fold in zip(slides.patients, fold_of.tolist(), strict=True)
    }
    assert len(of_patient) == 13
    sizes = Counter(fold for _, fold in of_patient)
    assert sorted(sizes.values()) == [3, 3, 3, 4]
    assert np.array_equal(fold_of, deal_patients(slides, folds=4, seed=0))
    assert not np.array_equal(fold_of, deal_patients(slides, folds=4, seed=1))


def test_every_fold_gets_its_share_of_the_gravest() -> None:
    types = np.array([MACRO] * 4 + [NEGATIVE] * 8)
    slides = LabeledSlides(
        slide_ids=[f"s{i}" for i in range(12)],
        patients=[f"p{i}" for i in range(12)],
        types=types,
        features=np.zeros((12, 32)),
        groups=[[]] * 12,
    )
    fold_of = deal_patients(slides, folds=4, seed=0)
    assert sorted(fold_of[:4].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("folds", [1, 11])
def test_folds_that_cannot_be_are_refused(slides: LabeledSlides, folds: int) -> None:
    with pytest.raises(ValueError, match=f"10 patients cannot be split into {folds}"):
        deal_patients(slides, folds=folds, seed=0)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ([Metastasis.ITC] * 4, "all slides to fit on are itc"),
        ([0, 0, 3, 3], "to fit on, without one fold, are negative"),
    ],
)
def test_a_fold_without_which_one_type_is_left_is_refused(
    types: list[int], said: str
) -> None:
    slides = LabeledSlides(
        slide_ids=list("abcd"),
        patients=list("ppqq"),
        types=np.array(types),
        features=np.zeros((4, 32)),
        groups=[[]] * 4,
    )
    with pytest.raises(ValueError, match=said):
        cross_validate(slides, FEW, folds=2, preset=PRESET)


def test_slides_are_told_by_who_never_saw_their_patient(slides: LabeledSlides) -> None:
    said = cross_validate(slides, FEW, folds=3, preset=PRESET)
    fold_of = deal_patients(slides, folds=3, seed=FEW.seed)
    for fold in range(3):
        held, others = fold_of == fold, fold_of != fold
        forests = fit_forests(slides.features[others], slides.types[others], FEW)
        verdicts = forests.predict(slides.features[held])
        assert said[ALL_FORESTS][held].tolist() == [v.type for v in verdicts]
        assert said["RF-PB"][held].tolist() == [v.votes[1] for v in verdicts]
    assert said.keys() == {
        ALL_FORESTS, "RF-PI", "RF-PB", "RF-CI", "RF-CB", PRESET_RULE, FITTED_RULE
    }  # fmt: skip


def test_a_label_that_only_one_patient_has_is_never_learned_from_it() -> None:
    """Leakage would tell the one patient whose features give its type away."""
    slides = draw_slides(patients=6, seed=2)
    types, features = slides.types.copy(), slides.features.copy()
    alone = np.array(slides.patients) == "p0"
    types[types == ITC] = NEGATIVE
    types[alone], features[alone, 1] = ITC, 50.0
    slides = replace(slides, types=types, features=features)
    said = cross_validate(slides, FEW, folds=3, preset=PRESET)
    assert not (said[ALL_FORESTS][alone] == ITC).any()


# Scores.


def test_scores_of_a_hand_written_example() -> None:
    types = np.array([NEGATIVE, NEGATIVE, ITC, MACRO, MACRO, NEGATIVE])
    said = np.array([NEGATIVE, ITC, ITC, MACRO, MICRO, NEGATIVE])
    scores = score_types(types, said, ["a", "a", "a", "b", "b", "c"])
    assert scores.confusion == ((2, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0), (0, 0, 1, 1))
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.sensitivity == (pytest.approx(2 / 3), 1.0, None, 0.5)
    assert scores.patient_kappa == 1.0  # pN0(i+), pN1 and pN0 on both sides


def test_kappa_of_a_hand_written_example() -> None:
    """Distances squared: seen 0, 0, 1, 0; all pairs 0 1 1 4, 0 1 1 4, 1 0 0 1, 4 1 1 0.

    1 - (1 / 4) / (20 / 16) = 0.8.
    """
    assert quadratic_kappa("aabc", "abbc", "abc") == pytest.approx(0.8)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_kappa_is_scikit_learns_and_none_of_one_label(
    pairs: list[tuple[str, str]],
) -> None:
    true, said = zip(*pairs, strict=True)
    kappa = quadratic_kappa(true, said, "abc")
    if len({*true, *said}) == 1:
        assert kappa is None
    else:
        weights = {"labels": list("abc"), "weights": "quadratic"}
        assert kappa == pytest.approx(cohen_kappa_score(true, said, **weights))


def test_stages_of_a_kappa_are_in_their_order() -> None:
    assert quadratic_kappa([PnStage.N0, PnStage.N2], ["pN0", "pN1"], list(PnStage)) == (
        pytest.approx(1 - (1 / 2) / ((0 + 9 + 16 + 1) / 4))
    )


# The size rule's numbers.


def test_the_size_rule_learns_what_false_alarms_look_like() -> None:
    """Alarms up to 150 um with a peak of 0.8; lesions from 120 um on are surer."""
    groups = [
        [group(150, 0.8)], [group(90, 0.78)], [], [group(140, 0.8)],
        [group(120, 0.9), group(150, 0.8)], [group(400, 0.9)], [group(2500, 0.95)],
    ]  # fmt: skip
    types = np.array([NEGATIVE] * 4 + [ITC, MICRO, MACRO])
    rule = fit_size_rule(groups, types, PRESET)
    assert rule == SizeRule(min_extent_um=40.0, min_p=0.85, merge_um=75.0)


def test_a_preset_as_good_as_any_is_kept() -> None:
    types = np.array([NEGATIVE, ITC, MICRO, MACRO])
    groups = [[group(um, 0.95)] if um else [] for um in SIZES_UM]
    odd = SizeRule(min_extent_um=33.0, min_p=0.66, merge_um=5.0)
    assert fit_size_rule(groups, types, odd) == odd


def test_slides_of_one_type_choose_the_preset() -> None:
    assert fit_size_rule([[], []], np.array([NEGATIVE] * 2), PRESET) == PRESET


def test_groups_that_cannot_decide_are_passed_over() -> None:
    large, sure = group(900, 0.8), group(100, 0.99)
    assert undominated([group(90, 0.98), large, group(900, 0.7), sure]) == [large, sure]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(50, 99)).map(
            lambda pair: group(10.0 * pair[0], pair[1] / 100)
        )
    ),
    st.integers(0, 200),
    st.integers(50, 99),
)
def test_what_is_left_decides_as_all_do(
    groups: list[LesionGroup], extent: int, peak: int
) -> None:
    rule = SizeRule(min_extent_um=float(extent), min_p=peak / 100, merge_um=75.0)
    all_, left = rule.apply(groups), rule.apply(undominated(groups))
    assert left.largest_um == all_.largest_um


# The model and its file.


SETTING: Tree = {
    "members": [{"name": n, "architecture": "Unet", "digest": n * 64} for n in "ab"]
}


def test_features_are_taken_by_name() -> None:
    row = {name: float(i) for i, name in enumerate(FEATURES)}
    backwards = dict(reversed(row.items()))
    assert feature_matrix([row, backwards]).tolist() == [[*map(float, range(32))]] * 2


def test_features_that_are_not_there_are_named() -> None:
    row = dict.fromkeys(FEATURES, 0.0)
    with pytest.raises(ValueError, match="slide 1: region_count_p90 is not finite"):
        feature_matrix([row, {**row, "region_count_p90": float("nan")}])
    del row["extent_max_p90"]
    with pytest.raises(ValueError, match="extent_max_p90 is missing"):
        feature_matrix([row])


@pytest.fixture(scope="module")
def model(slides: LabeledSlides) -> StageModel:
    return fit_model(
        slides,
        FEW,
        folds=3,
        preset=PRESET,
        setting=setting_of(small_config(SETTING)),
        effective_mpp=(0.98, 1.02),
        overlap=2,
        notes=["said before"],
    )


def test_a_card_says_what_was_fitted(model: StageModel, slides: LabeledSlides) -> None:
    card = model.card
    assert card.setting == HeatmapSetting(
        mpp=1.0,
        downsample=4,
        threshold=0.5,
        merge_um=75.0,
        members=("a" * 64, "b" * 64),
    )
    assert (card.slides, card.patients, card.overlap, card.folds) == (50, 10, 2, 3)
    assert (card.trees, card.seed, card.partial) == (15, 3, "empty")
    assert card.types == count_types(slides.types)
    assert card.features == FEATURES
    assert card.feature_thresholds == (0.9, 0.5)
    assert card.seeds == model.forests.seeds
    assert card.notes[-1] == "said before"
    assert {"scikit-learn", "imbalanced-learn", "digipath_ray"} <= card.versions.keys()
    assert card.scores[ALL_FORESTS]["accuracy"] > 0.8
    assert model.size_rule == PRESET


def test_a_model_comes_back_as_it_was(model: StageModel, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save_stage_model(path, model)
    back = load_stage_model(path)
    rows = [
        dict(zip(FEATURES, row, strict=True))
        for row in draw_slides(seed=9).features.tolist()
    ]
    assert back.predict(rows) == model.predict(rows)
    assert back.predict([]) == []
    assert json.dumps(vars(back.card), default=vars) == json.dumps(
        vars(model.card), default=vars
    )
    assert skops.io.get_untrusted_types(file=path) == []


def test_a_model_is_called_skops(model: StageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name the model model\.skops"):
        save_stage_model(tmp_path / "model.pkl", model)


def write_text(path: Path) -> None:
    path.write_text("no zip")


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("schema.json", "{}")


def write_estimator(path: Path) -> None:
    skops.io.dump(RandomForestClassifier(), path)


def write_own_type(path: Path) -> None:
    skops.io.dump({"card": group(1.0, 1.0), "forests": {}}, path)


def write_other_card(path: Path) -> None:
    skops.io.dump({"card": "{}", "forests": {}}, path)


@pytest.mark.parametrize(
    "write", [write_text, write_zip, write_estimator, write_own_type, write_other_card]
)
def test_other_files_are_refused(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "model.skops"
    write(path)
    with pytest.raises(ValueError, match="not a readable stage model"):
        load_stage_model(path)


def test_a_damaged_model_is_refused(model: StageModel, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save_stage_model(path, model)
    whole = path.read_bytes()
    refused = 0
    for at in range(60, len(whole), len(whole) // 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            load_stage_model(path)
        except ValueError:
            refused += 1
    assert refused >= 35, "a few bytes of an archive's own say nothing of the model"


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file not found"):
        load_stage_model(tmp_path / "model.skops")


def test_a_forest_that_never_ends_is_refused(forests: Forests) -> None:
    forest = forests.forests["RF-CI"]
    roots = forest.left.copy()
    roots[forest.left[0]] = 0
    with pytest.raises(ValueError, match="not a valid forest"):
        replace(forest, left=roots)


def test_a_model_with_fewer_forests_is_refused(
    model: StageModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.skops"
    card = json.dumps(asdict(model.card))
    forests = {"RF-PI": vars(model.forests.forests["RF-PI"])}
    skops.io.dump({"card": card, "forests": forests}, path)
    with pytest.raises(ValueError, match="RF-CB"):
        load_stage_model(path)


def test_a_run_with_the_same_setting_fits(model: StageModel) -> None:
    renamed = [{**m, "name": f"x{i}"} for i, m in enumerate(SETTING["members"])]
    near = {"members": renamed[::-1], "grid": {"mpp": 1.04}}
    check_fits(model.card, small_config(near))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": {"mpp": 0.5}}, "grid.mpp: the model's 1, the run's 0.5"),
        ({"grid": {"downsample": 8}}, "grid.downsample: the model's 4, the run's 8"),
        (
            {"outcome": {"threshold": 0.4}},
            "outcome.threshold: the model's 0.5, the run's 0.4",
        ),
        (
            {"outcome": {"merge_um": 10.0}},
            "outcome.merge_um: the model's 75, the run's 10",
        ),
        (
            {"members": SETTING["members"][:1]},
            "the model's aaaaaaaa, bbbbbbbb, the run's aaaaaaaa",
        ),
    ],
)
def test_a_run_that_differs_is_refused(
    model: StageModel, changes: Tree, said: str
) -> None:
    with pytest.raises(ValueError, match="does not fit this run") as refused:
        check_fits(model.card, small_config({**SETTING, **changes}))
    assert said in str(refused.value)
    assert "digipath stage fit" in str(refused.value)


def test_features_of_another_version_are_refused(model: StageModel) -> None:
    card = replace(model.card, features=FEATURES[:-1])
    with pytest.raises(ValueError, match="features: of another version"):
        check_fits(card, small_config(SETTING))


def test_importances_are_drawn(forests: Forests, tmp_path: Path) -> None:
    write_importances(tmp_path / "model.png", forests, title="model")
    with Image.open(tmp_path / "model.png") as picture:
        assert picture.size == (1184, 1312)
        colors = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colors) > 50
