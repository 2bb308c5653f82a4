"""Paired differences against brute force, known coverage and a hand-counted McNemar test."""

from math import comb

import numpy as np
import pytest
from sklearn.metrics import f1_score

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError, FerError
from fer_lib.evaluation.paired_comparison import LogitPair, compare


def two_models(n, seed, gap=0.0, k=7):
    """Logits of two models that share most of their errors; ``gap`` more signal in the second."""
    rng = np.random.default_rng(seed)
    y = rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    shared = rng.standard_normal((n, k)) + 1.5 * np.eye(k)[y]
    own = 0.4 * rng.standard_normal((2, n, k))
    return shared + own[0], shared + own[1] + gap * np.eye(k)[y], y


def test_values_and_ends_are_those_of_brute_force():
    before, after, y = two_models(150, 0)
    found = compare(LogitPair(before, after, y), resamples=200, seed=3)["difference"]
    rng = np.random.default_rng(3)

    def scores(rows):
        out = []
        for z in (before[rows], after[rows]):
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            f1 = f1_score(y[rows], z.argmax(1), average=None, labels=range(7), zero_division=0)
            right = (z.argmax(1) == y[rows]).mean()
            out.append(np.r_[right, f1.mean(), f1, -np.log(p[np.arange(len(rows)), y[rows]]).mean()])
        return out[1] - out[0]

    drawn = np.stack([scores(rng.integers(0, 150, 150)) for _ in range(200)])
    names = ["accuracy", "macro_f1", *(f"f1/{name}" for name in EMOTIONS), "nll"]
    assert list(found) == names
    for column, (name, value) in enumerate(zip(names, scores(np.arange(150)), strict=True)):
        assert found[name]["value"] == pytest.approx(value, abs=1e-12)
        ends = np.quantile(drawn[:, column], [0.025, 0.975])
        assert [found[name]["lo"], found[name]["hi"]] == pytest.approx(ends.tolist(), abs=1e-12)


def test_the_interval_covers_and_is_narrower_than_an_unpaired_one():
    before, after, y = two_models(200_000, 1, gap=0.2)
    truth = float((after.argmax(1) == y).mean() - (before.argmax(1) == y).mean())
    rng, covered, widths, unpaired = np.random.default_rng(2), 0, [], []
    for trial in range(120):
        rows = rng.integers(0, len(y), 300)
        pair = LogitPair(before[rows], after[rows], y[rows])
        d = compare(pair, resamples=200, seed=trial)["difference"]["accuracy"]
        covered += d["lo"] <= truth <= d["hi"]
        widths.append(d["hi"] - d["lo"])
        rates = [(z[rows].argmax(1) == y[rows]).mean() for z in (before, after)]
        unpaired.append(2 * 1.96 * np.sqrt(sum(r * (1 - r) for r in rates) / 300))
    assert 0.88 <= covered / 120 <= 1.0, covered
    assert np.mean(widths) < 0.75 * np.mean(unpaired)


def test_equal_models_differ_by_nothing():
    before, _, y = two_models(80, 4)
    found = compare(LogitPair(before, before, y), resamples=100)
    assert {tuple(d.values()) for d in found["difference"].values()} == {(0.0, 0.0, 0.0)}
    assert found["mcnemar"] == {"only_before": 0, "only_after": 0, "p": 1.0}


def test_mcnemar_counts_the_tails_of_a_fair_coin():
    y = np.zeros(20, np.int64)
    before, after = y.copy(), y.copy()
    before[:9] = 1  # wrong where the second is right
    after[9:11] = 1  # and the other way round, twice
    tail = sum(comb(11, i) for i in range(3)) / 2**11
    found = compare(LogitPair(np.eye(7)[before], np.eye(7)[after], y), resamples=100)["mcnemar"]
    assert found == {"only_before": 2, "only_after": 9, "p": pytest.approx(2 * tail, rel=1e-12)}
    both_wrong = np.eye(7)[np.ones(20, np.int64)]
    assert compare(LogitPair(both_wrong, both_wrong, y), resamples=100)["mcnemar"]["p"] == 1.0


def test_what_is_no_pair_is_refused():
    before, after, y = two_models(30, 5)
    with pytest.raises(DataError, match="no pair"):
        compare(LogitPair(before, after[:-1], y))
    with pytest.raises(FerError, match="resamples is 10"):
        compare(LogitPair(before, after, y), resamples=10)
