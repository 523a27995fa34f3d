import numpy as np
import pytest

from digipath_ray.networks.ensemble import MemberError, combine


def maps(*values):
    """A map [1, 1, n] of one patch."""
    return np.array(values, np.float32).reshape(1, 1, -1)


def test_three_members_by_hand():
    channels = combine(
        {"a": maps(0.2, 1.0), "b": maps(0.4, 1.0), "c": maps(0.9, 1.0)},
        {"a": maps(0.01, 0.0), "b": maps(0.02, 0.0), "c": maps(0.06, 0.0)},
        members=["a", "b", "c"],
        keep_members=False,
    )
    assert list(channels) == ["probability", "aleatoric", "epistemic"]
    np.testing.assert_allclose(channels["probability"], maps(0.5, 1.0), atol=1e-7)
    np.testing.assert_allclose(channels["aleatoric"], maps(0.03, 0.0), atol=1e-7)
    # (0.3^2 + 0.1^2 + 0.4^2) / 3
    np.testing.assert_allclose(channels["epistemic"], maps(0.26 / 3, 0.0), atol=1e-7)
    assert {c.dtype for c in channels.values()} == {np.dtype(np.float32)}


def test_equation_5_pixel_by_pixel():
    rng = np.random.default_rng(0)
    means = {name: rng.random((2, 3, 4), np.float32) for name in "abc"}
    got = combine(means, None, members=list("abc"), keep_members=False)["epistemic"]
    for n, i, j in np.ndindex(2, 3, 4):
        values = [float(means[name][n, i, j]) for name in "abc"]
        mean = sum(values) / 3
        assert got[n, i, j] == pytest.approx(
            sum((v - mean) ** 2 for v in values) / 3, abs=1e-7
        )


def test_small_variances_survive_float32():
    # E[p^2] - E[p]^2 in float32 gives 0 or worse here.
    a, b = np.float32(0.9), np.float32(0.9001)
    got = combine(
        {"a": maps(a), "b": maps(b)}, None, members=["a", "b"], keep_members=False
    )["epistemic"]
    assert got.item() == pytest.approx(((float(b) - float(a)) / 2) ** 2, rel=1e-2)


def test_what_was_not_estimated_is_absent():
    one = {"a": maps(0.3)}
    assert list(combine(one, None, members=["a"], keep_members=False)) == [
        "probability"
    ]
    two = {"a": maps(0.3), "b": maps(0.5)}
    assert list(combine(two, None, members=["a", "b"], keep_members=False)) == [
        "probability",
        "epistemic",
    ]
    spread = {"a": maps(0.01)}
    assert list(combine(one, spread, members=["a"], keep_members=False)) == [
        "probability",
        "aleatoric",
    ]


def test_members_are_kept_by_name_in_their_order():
    channels = combine(
        {"b": maps(0.5), "a": maps(0.25)}, None, members=["a", "b"], keep_members=True
    )
    assert list(channels)[2:] == ["member:a", "member:b"]
    assert channels["member:a"].item() == 0.25
    assert channels["member:b"].item() == 0.5


def test_no_patch_gives_empty_maps():
    empty = np.empty((0, 4, 4), np.float32)
    channels = combine(
        {"a": empty, "b": empty}, None, members=["a", "b"], keep_members=False
    )
    assert channels["probability"].shape == (0, 4, 4)


def test_a_missing_member_is_no_smaller_mean():
    with pytest.raises(MemberError, match="member b gave no probability"):
        combine({"a": maps(0.3)}, None, members=["a", "b"], keep_members=False)


def test_a_missing_variance_is_named():
    means = {"a": maps(0.3), "b": maps(0.5)}
    with pytest.raises(MemberError, match="member b gave no variance"):
        combine(means, {"a": maps(0)}, members=["a", "b"], keep_members=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_member(bad):
    means = {"a": maps(0.3, 0.3), "b": maps(0.5, bad)}
    with pytest.raises(MemberError, match=r"member b: 1 of 2 values .* NaN"):
        combine(means, None, members=["a", "b"], keep_members=False)


@pytest.mark.parametrize("bad", [-0.01, 1.01])
def test_what_is_no_probability_names_the_member(bad):
    with pytest.raises(MemberError, match=r"member a: .*outside 0\.\.1"):
        combine({"a": maps(0.3, bad)}, None, members=["a"], keep_members=False)


def test_maps_of_different_shape_are_refused():
    means = {"a": maps(0.3), "b": maps(0.5, 0.5)}
    with pytest.raises(MemberError, match=r"member b .*\(1, 1, 2\)"):
        combine(means, None, members=["a", "b"], keep_members=False)
