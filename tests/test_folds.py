import random
from collections import Counter

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from digipath_ray.cli.app import run_app
from digipath_ray.cohort.manifest import SlideRow
from digipath_ray.training.folds import Split, assign_folds, check_patients
from tests.annotated import FIT


def row(slide_id, patient=None, split=None):
    return SlideRow(
        slide_id=slide_id, path=f"/{slide_id}.svs", patient_id=patient, split=split
    )


def cohort(patients, *, split=None):
    """Rows and strata of {patient: [stratum of each slide]}."""
    rows, strata = [], {}
    for patient, found in patients.items():
        for i, stratum in enumerate(found):
            rows.append(row(f"{patient}_{i}", patient, split))
            strata[f"{patient}_{i}"] = stratum
    return rows, strata


def test_slides_of_a_patient_stay_together():
    rows, strata = cohort({"a": [0, 2], "b": [1, 0], "c": [0, 0], "d": [0]})
    folds = assign_folds(rows, strata, k=2, seed=0)
    assert folds.warnings == ()
    assert folds.fold_of["a_0"] == folds.fold_of["a_1"]
    # Two patients with tumor, two folds: one each, and so the two without.
    assert folds.fold_of["a_0"] != folds.fold_of["b_0"]
    assert folds.fold_of["c_0"] != folds.fold_of["d_0"]


def test_member_is_validated_on_its_fold_and_fitted_on_the_others():
    rows, strata = cohort({p: [1] for p in "abcdef"})
    folds = assign_folds(rows, strata, k=3, seed=0)
    for member in range(4):
        split = folds.split_of(member)
        in_fold = {s for s, fold in folds.fold_of.items() if fold == member % 3}
        assert set(split.validation) == in_fold
        assert set(split.fit) == set(folds.fold_of) - in_fold
        assert len(in_fold) == 2
    assert folds.split_of(3) == folds.split_of(0)


def test_a_slide_without_patient_is_its_own_even_beside_a_namesake():
    rows = [row("x"), row("y", "x"), row("z", "x")]
    folds = assign_folds(rows, {"x": 1, "y": 1, "z": 1}, k=2, seed=0)
    assert folds.fold_of["x"] != folds.fold_of["y"] == folds.fold_of["z"]


def test_test_slides_are_seen_by_no_member():
    rows, strata = cohort({"a": [1], "b": [1]})
    held, held_strata = cohort({"t": [3, 0]}, split="Test")
    folds = assign_folds([*rows, *held], strata | held_strata, k=2, seed=0)
    assert folds.fold_of["t_0"] is folds.fold_of["t_1"] is None
    for member in (0, 1):
        split = folds.split_of(member)
        assert {*split.fit, *split.validation} == {"a_0", "b_0"}


def test_a_stated_validation_split_is_kept():
    train, strata = cohort({"a": [1], "b": [0]}, split="train")
    held, more = cohort({"v": [1, 0]}, split="val")
    away, most = cohort({"t": [2]}, split="test")
    folds = assign_folds([*train, *held, *away], strata | more | most, k=3, seed=0)
    assert folds.k == 1
    expected = Split(fit=("a_0", "b_0"), validation=("v_0", "v_1"))
    assert [folds.split_of(member) for member in range(3)] == [expected] * 3
    assert folds.fold_of["t_0"] is None


@pytest.mark.parametrize("other", ["test", "validation"])
def test_a_patient_in_two_splits_is_refused_by_name(other):
    rows = [row("s1", "patient_7", "train"), row("s2", "patient_7", other), row("s3")]
    with pytest.raises(ValueError, match=f"'patient_7'.*s1 in train, s2 in {other}"):
        assign_folds(rows, {"s1": 1, "s2": 1, "s3": 1}, k=2, seed=0)


def test_input_that_cannot_be_cut():
    rows, strata = cohort({"a": [1, 0, 0], "b": [1]})
    with pytest.raises(ValueError, match="2 patients cannot be split into 3 folds"):
        assign_folds(rows, strata, k=3, seed=0)
    with pytest.raises(ValueError, match="'a_2' has no stratum"):
        assign_folds(rows, {"a_0": 1, "a_1": 0, "b_0": 1}, k=2, seed=0)
    with pytest.raises(
        ValueError, match="split 'tset' is not one of train, validation"
    ):
        assign_folds([row("x", split="tset")], {"x": 1}, k=2, seed=0)
    only_held = [row("x", split="validation"), row("y", split="test")]
    with pytest.raises(ValueError, match="no training slides left"):
        assign_folds(only_held, {"x": 1, "y": 1}, k=2, seed=0)


def test_slides_that_name_no_patient_are_noted_before_anything_is_sampled():
    assert check_patients([row("x", "p"), row("y", "q")], k=2) == ()
    (note,) = check_patients([row("x"), row("y")], k=2)
    assert note.startswith("no slide names its patient, so folds are by slide")
    assert "column patient_id" in note
    (note,) = check_patients([row("x", "p"), row("y"), row("z")], k=2)
    assert note.startswith("2 of 3 slides without a patient")
    with pytest.raises(ValueError, match="1 patient cannot be split into 2 folds: add"):
        check_patients([row("x", "p"), row("y", "p"), row("z", "q", "test")], k=2)
    with pytest.raises(ValueError, match=r"or use at most 3 folds \(fit.folds\)"):
        check_patients([row(name, name) for name in "abc"], k=5)
    held = [row("x", "p"), row("y", "q", "validation")]
    assert check_patients(held, k=5) == ()


def test_train_refuses_too_few_patients_before_it_opens_a_slide(tmp_path, capsys):
    lines = ["slide_id,path,patient_id,label", "a,a.tif,p,negative", "b,b.tif,p,macro"]
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    (tmp_path / "fit.toml").write_text(tomli_w.dumps(FIT))
    given = [str(tmp_path / "cohort.csv"), "--config", str(tmp_path / "fit.toml")]
    assert run_app(["train", *given, "--out", str(tmp_path / "fit")]) == 2
    assert "1 patient cannot be split into 2 folds" in capsys.readouterr().err
    assert not (tmp_path / "fit").exists()


def test_folds_without_tumor_are_named():
    rows, strata = cohort({"a": [0], "b": [3], "c": [0]})
    folds = assign_folds(rows, strata, k=3, seed=1)
    positive = folds.fold_of["b_0"]
    named = [f"fold {n} has no patient with tumor" for n in range(3) if n != positive]
    assert [w.split(":")[0] for w in folds.warnings] == named


def test_the_seed_decides_who_goes_where():
    rows, strata = cohort({f"p{i}": [0] for i in range(30)})
    one, two = (dict(assign_folds(rows, strata, k=3, seed=s).fold_of) for s in (0, 1))
    assert one != two


patients = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    min_size=2,
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(patients, st.integers(2, 5), st.integers(0, 9), st.randoms())
def test_folds_are_even_whatever_the_cohort(patients, k, seed, chance):
    k = min(k, len(patients))
    rows, strata = cohort(patients)
    folds = assign_folds(rows, strata, k=k, seed=seed)

    def counts(wanted):
        found = Counter(
            folds.fold_of[f"{p}_0"] for p, s in patients.items() if wanted(max(s))
        )
        return [found[fold] for fold in range(k)]

    everyone = [lambda s: True, lambda s: s > 0]
    for wanted in (*everyone, *(lambda s, n=n: s == n for n in range(4))):
        assert max(counts(wanted)) - min(counts(wanted)) <= 1
    for patient, found in patients.items():
        assert len({folds.fold_of[f"{patient}_{i}"] for i in range(len(found))}) == 1
    shuffled = random.Random(chance.random()).sample(rows, len(rows))
    assert assign_folds(shuffled, strata, k=k, seed=seed).fold_of == folds.fold_of
    seen = [s for member in range(k) for s in folds.split_of(member).validation]
    assert sorted(seen) == sorted(strata)
