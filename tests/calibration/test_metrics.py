"""Worked numbers, conventions and refusals of the scores (second computations: tests/oracles)."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_lib.calibration import metrics
from fer_lib.errors import FerError

PROBS = np.array([[0.9, 0.1], [0.7, 0.3], [0.35, 0.65], [0.2, 0.8]])
Y = np.array([0, 1, 1, 1])
OF_LOGITS = [metrics.nll, metrics.summary]
OF_PROBS = [
    metrics.brier, metrics.ece, metrics.mce, metrics.adaptive_ece, metrics.classwise_ece, metrics.squared_l2_ce,
    metrics.aurc,
]  # fmt: skip
OF_PREDICTIONS = [
    metrics.accuracy, metrics.f1_per_class, metrics.macro_f1, metrics.macro_f1_present, metrics.minority_f1,
    metrics.confusion,
]  # fmt: skip


def test_worked_numbers():
    # 15 bins: 0.9 in (13/15, 14/15], 0.7 and 0.65 apart in (10/15, 11/15] and (9/15, 10/15], 0.8 in (11/15, 12/15]
    assert metrics.ece(PROBS, Y) == pytest.approx((0.1 + 0.7 + 0.35 + 0.2) / 4)
    assert metrics.mce(PROBS, Y) == pytest.approx(0.7)
    # two bins: everything lies in (0.5, 1]
    assert metrics.ece(PROBS, Y, bins=2) == pytest.approx(abs(3.05 - 3) / 4)
    # two equal-mass bins: {0.65, 0.7} with one hit, {0.8, 0.9} with two
    assert metrics.adaptive_ece(PROBS, Y, bins=2) == pytest.approx((0.35 + 0.3) / 4)
    assert metrics.squared_l2_ce(PROBS, Y, bins=2) == pytest.approx(0.0125**2 - 0.75 * 0.25 / 3)
    assert metrics.brier(PROBS, Y) == pytest.approx(2 * (0.1**2 + 0.7**2 + 0.35**2 + 0.2**2) / 4)
    # surest first: right, right, wrong, right
    assert metrics.aurc(PROBS, Y) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert metrics.nll(np.log(PROBS), Y) == pytest.approx(-np.log([0.9, 0.3, 0.65, 0.8]).mean())


def test_confidence_exactly_one_is_in_the_last_of_fifteen_bins():
    confidence = np.array([0.0, 1 / 15, np.nextafter(1 / 15, 1), 0.2, 0.4, 14 / 15, np.nextafter(14 / 15, 1), 1.0])
    assert metrics.bin_index(confidence).tolist() == [0, 0, 1, 2, 5, 13, 14, 14]
    certain = np.eye(7)[[0, 1, 2, 3]]
    table = metrics.reliability_table(certain, np.array([0, 1, 2, 0]))
    assert table["count"].tolist() == [0] * 14 + [4]
    assert table["accuracy"][14] == 0.75
    assert np.isnan(table["accuracy"][0])


def test_a_softmax_that_rounds_above_one_opens_no_bin_and_no_gap():
    probs = np.array([[1.0 + 2e-16, 0.0], [np.nextafter(1, 2), 0.0]])
    assert metrics.ece(probs, np.array([0, 0])) == 0.0
    assert metrics.classwise_ece(probs, np.array([0, 0])) == 0.0


def test_the_first_class_wins_a_tie():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert metrics.summary(logits, np.array([0, 1]))["accuracy"] == 1.0
    assert metrics.summary(logits, np.array([1, 2]))["accuracy"] == 0.0


def test_absent_classes_count_as_zero_in_the_macro_only():
    pred, y = np.array([0, 0, 3]), np.array([0, 0, 3])
    assert metrics.macro_f1(pred, y) == pytest.approx(2 / 7)
    assert metrics.macro_f1_present(pred, y) == 1.0
    assert metrics.minority_f1(pred, y) == 1.0


def test_minority_is_the_lowest_three_of_the_present():
    y = np.repeat(np.arange(5), 4)
    pred = y.copy()
    pred[[0, 1, 4, 8]] = 6  # F1: 2*2/(2+4), 2*3/(3+4) twice, 1, 1
    assert metrics.minority_f1(pred, y) == pytest.approx((2 / 3 + 6 / 7 + 6 / 7) / 3)


def test_huge_logits_stay_exact():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]])
    assert metrics.nll(logits, np.array([0, 0])) == 1e4
    np.testing.assert_array_equal(metrics.softmax(logits), [[1, 0, 0], [0, 1, 0]])
    assert np.isfinite(metrics.log_softmax(logits)).all()


def test_a_calibrated_model_scores_no_debiased_error_but_some_ece():
    rng = np.random.default_rng(0)
    debiased, plain = [], []
    for _ in range(200):
        confidence = rng.choice([0.55, 0.75, 0.95], 300)
        probs = np.stack([confidence, 1 - confidence], 1)
        y = (rng.random(300) > confidence).astype(int)
        debiased.append(metrics.squared_l2_ce(probs, y))
        plain.append(metrics.ece(probs, y))
    assert abs(np.mean(debiased)) < 3 * np.std(debiased) / 200**0.5
    assert np.mean(plain) > 0.02


def test_summary_is_json_with_the_agreed_keys():
    seen = metrics.summary(np.eye(7), np.arange(7))
    assert json.loads(json.dumps(seen)) == seen
    assert list(seen["per_class_f1"]) == ["Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral"]
    assert set(seen) == {
        "accuracy", "macro_f1", "macro_f1_present", "minority_f1", "per_class_f1", "per_class_n", "nll", "ece", "mce",
        "adaptive_ece", "classwise_ece", "squared_l2_ce", "brier", "aurc", "confusion", "n",
    }  # fmt: skip
    assert metrics.METRIC_VERSION == "1"


def test_inputs_are_left_as_they_were():
    probs, y, logits = PROBS.copy(), Y.copy(), np.log(PROBS)
    before = logits.copy()
    for score in OF_PROBS:
        score(probs, y)
    metrics.summary(logits, y)
    np.testing.assert_array_equal(probs, PROBS)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(logits, before)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=n, max_size=n),
            st.lists(st.integers(0, 3), min_size=n, max_size=n),
            st.permutations(range(n)),
        )
    )
)
def test_no_score_depends_on_the_order_of_the_rows(drawn):
    logits, y, order = (np.array(part) for part in drawn)
    one, other = metrics.summary(logits, y), metrics.summary(logits[order], y[order])
    assert one.pop("confusion") == other.pop("confusion")
    for name, value in one.items():
        assert other[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("score", OF_LOGITS + OF_PROBS)
def test_no_rows_are_refused(score):
    with pytest.raises(FerError, match="no rows"):
        score(np.empty((0, 7)), np.empty(0, dtype=int))


@pytest.mark.parametrize("score", OF_PREDICTIONS)
def test_no_predictions_are_refused(score):
    with pytest.raises(FerError, match="no rows"):
        score(np.empty(0, dtype=int), np.empty(0, dtype=int))


@pytest.mark.parametrize("score", OF_LOGITS + OF_PROBS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(score, value):
    bad = np.full((5, 2), 0.5)
    bad[3, 1] = value
    with pytest.raises(FerError, match="row 3"):
        score(bad, np.zeros(5, dtype=int))


@pytest.mark.parametrize("score", OF_PROBS)
def test_logits_passed_as_probabilities_are_refused(score):
    with pytest.raises(FerError, match=r"row 1 is not a distribution.*softmax"):
        score(np.array([[0.5, 0.5], [2.0, -1.0]]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 2, 1, 1], "label of row 1 is 2"),
        ([0, 1, -1, 1], "label of row 2 is -1"),
        ([0, 1], r"shape \(2,\) where 4"),
        ([0.0, 1.0, 1.0, 0.0], "float64, not integers"),
    ],
)
def test_wrong_labels_are_refused(y, message):
    with pytest.raises(FerError, match=message):
        metrics.ece(PROBS, np.array(y))


def test_wrong_matrices_are_refused():
    with pytest.raises(FerError, match=r"\[N, K\]"):
        metrics.softmax(np.zeros(7))
    with pytest.raises(FerError, match="K >= 2"):
        metrics.nll(np.zeros((3, 1)), np.zeros(3, dtype=int))
    with pytest.raises(FerError, match="not real numbers"):
        metrics.softmax(np.array([["a", "b"]]))
    with pytest.raises(FerError, match="bins is 0"):
        metrics.ece(PROBS, Y, bins=0)
    with pytest.raises(FerError, match="label of row 0 is 7"):
        metrics.macro_f1(np.array([7]), np.array([0]))
