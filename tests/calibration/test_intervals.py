"""Intervals: exact small cases, a library's Wilson interval, and a quick look at the ECE interval's coverage.

The full coverage table is measured by benchmarks/ece_coverage.py.
"""

import time

import numpy as np
import pytest

from fer_lib.calibration.intervals import (
    bootstrap_confusions,
    chance_level,
    chance_note,
    ece_interval,
    ece_null,
    percentiles,
    proportion_interval,
)
from fer_lib.calibration.metrics import ece, softmax, summary
from fer_lib.errors import FerError


def faces(n, seed=0, overconfidence=1.0):
    """Probabilities [n, 7] and labels drawn from them before they are sharpened."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 2.2
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return softmax(logits * overconfidence), y


def test_null_of_two_rows_is_the_binomial_sum():
    # both rows in one bin: 0, 1, 2 hits with 0.16, 0.48, 0.36 give |1.2 - hits| / 2 = 0.6, 0.1, 0.4
    null = ece_null(np.array([[0.6, 0.4]] * 2), resamples=200_000, seed=3)
    assert null["mean"] == pytest.approx(0.288, abs=0.002)
    assert null["q95"] == pytest.approx(0.6)


def test_null_is_what_calibrated_labels_score():
    probs, _ = faces(800)
    rng = np.random.default_rng(5)
    drawn = [ece(probs, (rng.random((800, 1)) > probs.cumsum(1)[:, :-1]).sum(1)) for _ in range(400)]
    null = ece_null(probs, resamples=4000)
    assert null["mean"] == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 20)
    assert null["q95"] == pytest.approx(np.quantile(drawn, 0.95), abs=0.004)


def test_null_of_3068_rows_is_as_large_as_stated():
    assert 0.010 < ece_null(faces(3068, overconfidence=1.5)[0])["mean"] < 0.020


def test_null_in_chunks_is_the_null_at_once(monkeypatch):
    probs, _ = faces(500)
    whole = ece_null(probs, resamples=100)
    monkeypatch.setattr("fer_lib.calibration.intervals._CHUNK", 1700)
    assert ece_null(probs, resamples=100) == whole


def test_same_seed_same_numbers():
    probs, y = faces(300)
    assert ece_interval(probs, y, seed=4) == ece_interval(probs, y, seed=4)
    assert ece_null(probs, seed=4) == ece_null(probs, seed=4) != ece_null(probs, seed=5)


@pytest.mark.parametrize(("overconfidence", "n"), [(1.0, 500), (1.2, 3068), (2.0, 500)])
def test_quick_coverage(overconfidence, n):
    """60 samples each: at a true coverage of 0.95 fewer than 52 holds have a chance below 1 in 1,000."""
    population, labels = faces(300_000, seed=9, overconfidence=overconfidence)
    truth = ece(population, labels) if overconfidence > 1 else 0.0
    rng, holds = np.random.default_rng(n), 0
    for i in range(60):
        rows = rng.integers(0, len(labels), n)
        low, high = ece_interval(population[rows], labels[rows], resamples=200, seed=i)
        holds += low <= truth <= high
    assert holds >= 52


def test_an_interval_narrows_with_rows_and_holds_what_was_seen():
    population, labels = faces(20_000, overconfidence=1.7)
    widths = []
    for n in (200, 2000, 20_000):
        low, high = ece_interval(population[:n], labels[:n])
        assert 0 <= low <= ece(population[:n], labels[:n]) <= high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_a_wrong_model_is_seen_to_be_wrong_and_a_right_one_is_not():
    assert ece_interval(*faces(3068, overconfidence=2.0))[0] > 0.05
    assert ece_interval(*faces(3068))[0] == 0.0


def test_tiny_and_extreme_sets_give_wide_honest_intervals():
    low, high = ece_interval(np.array([[0.6, 0.4]]), np.array([0]))
    assert low == 0.0
    assert high > 0.5
    certain = np.eye(2)[np.zeros(100, int)]
    low, high = ece_interval(certain, np.zeros(100, int))
    assert (low, high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 100)), abs=0.006)  # no error in 100: Clopper-Pearson
    low, high = ece_interval(certain, np.ones(100, int))
    assert low > 0.9
    assert high == 1.0


def test_a_sample_luckier_than_calibration_still_has_an_interval():
    # four bins of 100 rows whose accuracy is their confidence to the row: a calibrated model scores about 0.03
    confidence = np.repeat([0.55, 0.65, 0.75, 0.95], 100)
    y = np.concatenate([np.arange(100) >= hits for hits in (55, 65, 75, 95)]).astype(int)
    probs = np.stack([confidence, 1 - confidence], 1)
    assert ece(probs, y) < 1e-12
    low, high = ece_interval(probs, y)
    assert low == 0.0
    assert high > 0.02


def test_the_lower_end_allows_for_an_error_gathered_in_one_bin():
    """One bin is 0.3 too sure, ten are calibrated but small: the noise of the ten alone may have lifted the ECE."""
    rng, confidence = np.random.default_rng(2), np.r_[np.repeat(np.linspace(0.52, 0.9, 10), 20), np.full(400, 0.97)]
    right = np.where(confidence > 0.95, 0.67, confidence)
    probs = np.stack([confidence, 1 - confidence], 1)
    ends = [ece_interval(probs, (rng.random(600) > right).astype(int), resamples=300, seed=i) for i in range(40)]
    noise = ece_null(probs[:200])["mean"] / 3
    seen = np.mean([low for low, _ in ends])
    assert sum(low > 0.2 for low, _ in ends) <= 4  # the true ECE is 0.3 * 400 / 600
    assert seen < 0.2 - noise / 2


def test_a_test_set_takes_under_two_seconds():
    probs, y = faces(3600, overconfidence=1.3)
    start = time.process_time()
    ece_interval(probs, y, resamples=1000)
    ece_null(probs, resamples=1000)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (1, 1), (3, 7), (2381, 3589)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(k, n, level):
    from scipy.stats import binomtest

    expected = binomtest(k, n).proportion_ci(level, method="wilson")
    assert proportion_interval(k, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_of_an_accuracy_is_its_binomial():
    from scipy.stats import binom

    y = np.r_[np.zeros(280, int), np.ones(120, int)]
    drawn = bootstrap_confusions(np.zeros(400, int), y, 2, resamples=3000)
    assert drawn.shape == (3000, 2, 2) and (drawn.sum(axis=(1, 2)) == 400).all() and not drawn[..., 1].any()
    seen = percentiles(np.trace(drawn, axis1=1, axis2=2) / 400)
    assert seen == pytest.approx(binom.ppf([0.025, 0.975], 400, 0.7) / 400, abs=0.006)


def test_refusals():
    probs, y = faces(20)
    with pytest.raises(FerError, match="level is 1.5"):
        ece_interval(probs, y, level=1.5)
    with pytest.raises(FerError, match="resamples is 10"):
        ece_null(probs, resamples=10)
    with pytest.raises(FerError, match="no rows"):
        ece_interval(probs[:0], y[:0])
    with pytest.raises(FerError, match="no rows"):
        bootstrap_confusions(y[:0], y[:0], 7)
    with pytest.raises(FerError, match="5 of 4"):
        proportion_interval(5, 4)
    with pytest.raises(FerError, match="0 of 0"):
        proportion_interval(0, 0)
    probs[7, 3] = np.nan
    for score in (lambda: ece_null(probs), lambda: ece_interval(probs, y)):
        with pytest.raises(FerError, match="row 7"):
            score()


def test_models_at_chance_are_named_by_an_interval_and_others_are_not():
    rng = np.random.default_rng(2)
    y = np.arange(350) % 7
    guess = summary(rng.normal(size=(350, 7)), y)
    good = summary(rng.normal(size=(350, 7)) + 3 * np.eye(7)[y], y)
    wrong = summary(-3 * np.eye(7)[y], y)
    assert chance_note({"good": good}, smoke=True) == {}
    smoke = chance_note({"good": good, "guess": guess, "wrong": wrong}, smoke=True)
    assert smoke == {"at chance": "(0.14): guess, wrong; a smoke run trains too little to learn"}
    [text] = chance_note({"guess": guess}).values()
    assert text == "(0.14): guess; the 95 % interval of the accuracy is not above it"
    # 4 of 14 is twice chance and its interval (0.12 to 0.55) holds it; 100 of 350, the same share, is above it
    assert chance_note({"few": {"accuracy": 4 / 14, "n": 14}}) and not chance_note(
        {"many": {"accuracy": 2 / 7, "n": 350}}
    )


def test_chance_is_one_over_the_classes_that_have_rows():
    y = np.arange(300) % 3
    three = summary(np.eye(7)[(np.arange(300) // 3) % 3], y)  # predictions that do not depend on the label
    assert chance_level(three) == 1 / 3 and chance_level({"accuracy": 0.3, "n": 300}) == 1 / 7
    assert three["accuracy"] == pytest.approx(1 / 3), "far above 1/7, and no better than guessing among three"
    assert chance_note({"three": three}) == {
        "at chance": "(0.33): three; the 95 % interval of the accuracy is not above it"
    }
