"""Calibration to votes by plain loops and on models whose calibration to people is known; the temperature of votes."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, entropy

from fer_lib.calibration import intervals, metrics, temperature, votes
from fer_lib.errors import DataError, FerError

K = 7


def people(seed, n, voters=10):
    """A posterior [n, K], and the votes of ``voters`` people drawn from it, as shares."""
    rng = np.random.default_rng(seed)
    posterior = rng.dirichlet(np.full(K, 0.35), n)
    return posterior, rng.multinomial(voters, posterior) / voters


def softened(probs, t):
    return metrics.softmax(np.log(np.maximum(probs, 1e-300)) / t)


def test_figures_equal_plain_loops():
    p, v = people(1, 400)
    p = softened(p, 1.4)
    found = votes.vote_calibration(p, v, resamples=100)
    sums = np.zeros(15)
    for row, vote in zip(p, v, strict=True):
        top = row.argmax()
        sums[max(0, int(np.ceil(row[top] * 15)) - 1)] += row[top] - vote[top]
    assert found["true_label_ece"]["value"] == pytest.approx(np.abs(sums).sum() / 400, abs=1e-12)
    assert found["dist_ce"] == pytest.approx(np.mean([abs(a - b).sum() / 2 for a, b in zip(p, v, strict=True)]))
    gaps = [entropy(a) - entropy(b) for a, b in zip(p, v, strict=True)]
    assert found["ent_ce"] == pytest.approx(np.mean(np.abs(gaps))) and found["ent_bias"] == pytest.approx(np.mean(gaps))
    right = [all(b[i] >= b[j] for i in range(K) for j in range(K) if a[i] > a[j]) for a, b in zip(p, v, strict=True)]
    assert found["rank"] == pytest.approx(np.mean(right)) and 0 < found["rank"] < 1
    assert sum(third["n"] for third in found["thirds"].values()) == 400
    assert json.loads(json.dumps(found)) == found


def test_with_votes_that_agree_it_is_the_ece():
    p, _ = people(2, 3000)
    y = (np.random.default_rng(3).random((3000, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(0, K - 1)
    assert votes.true_label_ece(p, np.eye(K)[y]) == pytest.approx(metrics.ece(p, y), abs=1e-12)


def test_the_posterior_is_calibrated_to_people_and_a_sharper_model_is_not():
    p, v = people(4, 6000)
    right, sharp = (votes.vote_calibration(q, v)["true_label_ece"] for q in (p, softened(p, 0.5)))
    assert right["lo"] == 0.0 and right["hi"] < 0.03
    assert sharp["lo"] > right["hi"]
    thirds = votes.vote_calibration(softened(p, 0.5), v)["thirds"]
    assert thirds["low"]["value"] < thirds["high"]["value"], "sharpness hurts most where people disagree"


def test_interval_holds_the_true_value():
    """The ECE of a population of 100,000 rows lies in 95 % of 200 intervals, or no fewer than the 0.1 % quantile."""
    p, _ = people(5, 100_000)
    for t in (1.0, 0.7):
        q = softened(p, t)
        top = q.argmax(axis=1)
        truth = votes.true_label_ece(q, p)
        rng, held = np.random.default_rng(6), 0
        for _ in range(200):
            rows = rng.integers(0, len(p), 1500)
            v = rng.multinomial(10, p[rows]) / 10
            share = v[np.arange(1500), top[rows]]
            low, high = intervals.shares_ece_interval(q[rows].max(axis=1), share, resamples=200)
            held += low <= truth <= high
        assert held >= binom(200, 0.95).ppf(0.001), (t, held)


def test_interval_of_outcomes_of_zero_and_one_is_close_to_the_binomial_one():
    p, _ = people(7, 2000)
    y = (np.random.default_rng(8).random((2000, 1)) > softened(p, 1.5).cumsum(axis=1)).sum(axis=1).clip(0, K - 1)
    ours = intervals.shares_ece_interval(p.max(axis=1), (p.argmax(axis=1) == y).astype(float))
    assert ours == pytest.approx(intervals.ece_interval(p, y), abs=0.01)


def test_temperature_of_votes_minimises_their_cross_entropy():
    p, v = people(9, 2000)
    logits = np.log(p) * 1.8
    fitted = temperature.fit_to_votes(logits, v)
    free = minimize_scalar(lambda b: -(v * metrics.log_softmax(logits * b)).sum(), bounds=(0.05, 5), method="bounded")
    assert fitted.global_temperature == pytest.approx(1 / free.x, rel=1e-4)
    assert fitted.global_temperature == pytest.approx(1.8, rel=0.05)
    y = v.argmax(axis=1)
    agreed = temperature.fit_to_votes(logits, np.eye(K)[y]).global_temperature
    assert agreed == pytest.approx(temperature.fit(logits, y).global_temperature, rel=1e-9)


@pytest.mark.parametrize("call, reason", [
    (lambda p, v: votes.true_label_ece(p, v[:5]), "votes have shape"),
    (lambda p, v: votes.true_label_ece(p, v * 2), "not a distribution"),
    (lambda p, v: temperature.fit_to_votes(np.log(p), v[:, :3] / v[:, :3].sum(1, keepdims=True)), "votes have shape"),
    (lambda p, v: temperature.fit_to_votes(np.log(p), np.eye(K)[p.argmax(1)]), "ends at the bound"),
])  # fmt: skip
def test_refusals(call, reason):
    p, v = people(10, 50)
    v[:, 0] += 1e-3
    v /= v.sum(axis=1, keepdims=True)
    with pytest.raises((DataError, FerError), match=reason):
        call(p, v)
