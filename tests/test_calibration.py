import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import (
    brier_score_loss,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from digipath_ray.training.calibration import (
    Histogram,
    auroc,
    best_threshold,
    brier,
    fit_temperature,
    measure_reliability,
    scores_at,
    temper,
)


def counted(values, truth, weight=1.0, *, scale="probability"):
    histogram = Histogram(scale=scale)
    histogram.add(values, truth, weight)
    return histogram


def random_pixels(n=20000, seed=0):
    """Logits, and truth that is tumor as often as they say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, n)
    return logits, rng.random(n) < expit(logits)


def test_counts_by_hand():
    histogram = counted([0.0, 0.0004, 0.25, 0.9999, 1.0], [0, 1, 1, 0, 1], 2.0)
    expected = np.zeros((2, 1000))
    expected[0, [0, 999]] = 2
    expected[1, [0, 250, 999]] = 2
    assert np.array_equal(histogram.counts, expected)
    assert histogram.total == 10


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_probability_of_three_decimals_reaches_its_threshold(kind):
    thresholds = np.arange(1000) / 1000
    histogram = counted(thresholds.astype(kind), np.ones(1000))
    assert (histogram.counts[1] == 1).all()


def test_weight_0_leaves_out_even_what_is_no_number():
    histogram = counted([[0.2, np.nan], [0.8, 0.6]], [[0, 1], [1, 1]], [[1, 0], [1, 0]])
    assert histogram.counts[0, 200] == histogram.counts[1, 800] == 1
    assert histogram.total == 2


@pytest.mark.parametrize("scale", ["probability", "logit"])
def test_parts_merge_to_the_whole(scale):
    logits, truth = random_pixels(1000)
    values = logits if scale == "logit" else expit(logits)
    weight = np.random.default_rng(1).integers(0, 3, 1000)
    whole = counted(values, truth, weight, scale=scale)
    parts = [
        counted(values[i::3], truth[i::3], weight[i::3], scale=scale) for i in range(3)
    ]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    assert merged.scale == scale
    assert np.array_equal(merged.counts, whole.counts)


def test_input_that_does_not_fit():
    histogram = Histogram()
    with pytest.raises(ValueError, match="NaN"):
        histogram.add([0.1, np.nan], [0, 1], 1)
    with pytest.raises(ValueError, match="not 0 to 1"):
        histogram.add([0.1, 1.5], [0, 1], 1)
    with pytest.raises(ValueError, match="truth"):
        histogram.add([0.1, 0.5], [0, 1, 1], 1)
    with pytest.raises(ValueError, match="differ"):
        histogram.merge(Histogram(scale="logit"))
    with pytest.raises(ValueError, match="odds"):
        Histogram(scale="odds")
    assert histogram.total == 0


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.5, 0.837])
def test_scores_are_those_of_scikit_learn(threshold):
    logits, truth = random_pixels()
    p = expit(logits)
    found = scores_at(counted(p, truth), threshold)
    called = p >= threshold
    assert found.threshold == threshold
    assert found.dice == pytest.approx(f1_score(truth, called))
    assert found.jaccard == pytest.approx(jaccard_score(truth, called))
    assert found.sensitivity == pytest.approx(recall_score(truth, called))
    assert found.precision == pytest.approx(precision_score(truth, called))


def test_scores_of_nothing_are_none():
    nothing = scores_at(counted([0.2, 0.3], [0, 0]), 0.5)
    assert (nothing.dice, nothing.jaccard) == (None, None)
    assert (nothing.sensitivity, nothing.precision) == (None, None)
    missed = scores_at(counted([0.2, 0.3], [0, 1]), 0.5)
    assert (missed.dice, missed.sensitivity, missed.precision) == (0, 0, None)


@pytest.mark.parametrize("scale", ["probability", "logit"])
def test_auroc_and_brier_are_those_of_scikit_learn(scale):
    logits, truth = random_pixels()
    values = logits if scale == "logit" else expit(logits)
    histogram = counted(values, truth, scale=scale)
    assert auroc(histogram) == pytest.approx(
        roc_auc_score(truth, logits), abs=1e-3 if scale == "probability" else 1e-4
    )
    assert brier(histogram) == pytest.approx(
        brier_score_loss(truth, expit(logits)), abs=1e-4
    )


def test_weights_count_like_repeated_pixels():
    logits, truth = random_pixels(2000)
    weight = np.random.default_rng(1).integers(0, 4, 2000)
    found = auroc(counted(logits, truth, weight, scale="logit"))
    expected = roc_auc_score(truth, logits, sample_weight=weight)
    assert found == pytest.approx(expected, abs=1e-3)


def test_auroc_by_hand():
    # Pairs (tumor, other): 0.9 beats both, 0.3 ties one and loses to one.
    assert auroc(counted([0.9, 0.3, 0.3, 0.6], [1, 1, 0, 0])) == (2 + 0.5) / 4
    assert auroc(counted([0.9, 0.3], [1, 1])) is None
    assert brier(Histogram()) is None


def test_best_threshold_has_the_highest_dice_of_all():
    logits, truth = random_pixels()
    histogram = counted(expit(logits), truth)
    dices = {t: scores_at(histogram, t).dice for t in np.arange(1, 1000) / 1000}
    assert scores_at(histogram, best_threshold(histogram)).dice == max(dices.values())


def test_best_threshold_is_the_middle_of_what_ties():
    # All from 0.101 to 0.7 part tumor from the rest.
    assert best_threshold(counted([0.1, 0.7], [0, 1])) == 0.4
    # Dice 2/3 where only 0.9 or where all but 0.05 is called: two runs of ties,
    # (0.601 .. 0.9) with the middle 0.75 and (0.051 .. 0.1) with 0.075.
    two = counted([0.05, 0.1, 0.6, 0.6, 0.9], [0, 1, 0, 0, 1])
    assert scores_at(two, 0.75).dice == scores_at(two, 0.075).dice == 2 / 3
    assert best_threshold(two) == 0.75


def test_best_threshold_without_tumor_is_a_half():
    assert best_threshold(counted([0.1, 0.7], [0, 0])) == 0.5


def test_calibration_error_by_hand():
    # Bin 0 to 1/15: one pixel at 0.0505, no tumor. Bin 12 (0.8 to 0.867): four
    # pixels at 0.8505, two of them tumor.
    histogram = counted([0.05, 0.85, 0.85, 0.85, 0.85], [0, 1, 1, 0, 0])
    curve = measure_reliability(histogram)
    assert len(curve.counts) == 15
    assert np.flatnonzero(curve.counts).tolist() == [0, 12]
    assert curve.confidence[[0, 12]] == pytest.approx([0.0505, 0.8505])
    assert curve.frequency[[0, 12]].tolist() == [0, 0.5]
    assert math.isnan(curve.confidence[5])
    assert curve.error == pytest.approx((1 * 0.0505 + 4 * 0.3505) / 5)
    assert measure_reliability(Histogram()).error is None


def test_calibration_error_is_that_of_the_pixels_themselves():
    logits, truth = random_pixels()
    p = expit(1.7 * logits)
    where = (p * 15).astype(int)
    expected = sum(
        abs(p[where == b].mean() - truth[where == b].mean()) * (where == b).mean()
        for b in range(15)
    )
    found = measure_reliability(counted(p, truth)).error
    assert found == pytest.approx(expected, abs=2e-3)
    assert found > 0.03


def test_temperature_is_found_again():
    logits, truth = random_pixels(50000)
    too_sure = counted(2.5 * logits, truth, scale="logit")
    temperature = fit_temperature(too_sure)
    assert temperature == pytest.approx(2.5, rel=0.05)
    before = measure_reliability(too_sure).error
    after = measure_reliability(temper(too_sure, temperature)).error
    assert before > 0.05
    assert after < 0.01
    assert fit_temperature(counted(0.4 * logits, truth, scale="logit")) == (
        pytest.approx(0.4, rel=0.05)
    )


def test_temperature_from_probabilities_of_moderate_logits():
    logits, truth = random_pixels(50000)
    found = fit_temperature(counted(expit(1.5 * logits), truth))
    assert found == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(
    ("values", "truth"),
    [
        ([], []),
        ([-2.0, 3.0], [0, 0]),
        ([-2.0, 3.0], [1, 1]),
        ([-2.0, 3.0], [0, 1]),  # nothing is wrong: less would always be better
    ],
)
def test_temperature_is_1_where_there_is_none(values, truth):
    assert fit_temperature(counted(values, truth, scale="logit")) == 1


def test_tempering_keeps_the_pixels_and_moves_their_probabilities():
    histogram = counted([-3.0, 3.0, 50.0], [0, 1, 1], 2.0, scale="logit")
    tempered = temper(histogram, 2.0)
    assert tempered.scale == "probability"
    assert tempered.total == 6
    (low,), (middle, high) = (np.flatnonzero(c) for c in tempered.counts)
    # The bin of a logit is 0.04 wide.
    assert low / 1000 == pytest.approx(expit(-1.5), abs=0.006)
    assert middle / 1000 == pytest.approx(expit(1.5), abs=0.006)
    assert high == 999
