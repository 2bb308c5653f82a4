"""Conformal sets against a plain computation, their exact coverage law, and the confidence chosen for a risk."""

from decimal import Decimal
from math import ceil

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from fer_lib.calibration import conformal
from fer_lib.calibration.metrics import softmax
from fer_lib.errors import DataError, FerError

ALPHAS = (0.05, 0.1, 0.2)
K = 7


def drawn(seed, n, k=K, scale=2.0):
    """Probabilities [n, k], and labels drawn from them: a known posterior."""
    rng = np.random.default_rng(seed)
    probs = softmax(rng.normal(size=(n, k)) * scale)
    return probs, (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(0, k - 1)


def plain_score(row, label, method, u, penalty, free_ranks):
    """The score of one class of one row, class by class."""
    if method == "lac":
        return 1 - row[label]
    above = [k for k in range(len(row)) if row[k] > row[label] or (row[k] == row[label] and k < label)]
    score = sum(row[k] for k in above) + u * row[label]
    return score + (penalty * max(0, len(above) + 1 - free_ranks) if method == "raps" else 0)


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_scores_equal_a_plain_computation_also_with_ties(method):
    probs, _ = drawn(1, 200)
    probs[:20] = 1 / K
    probs[20:40] = np.eye(K)[np.arange(20) % K]
    u = np.random.default_rng(2).random(200)
    ours = conformal.scores(probs, method, u, 0.05, 2)
    for i in range(200):
        for k in range(K):
            assert ours[i, k] == pytest.approx(plain_score(probs[i], k, method, u[i], 0.05, 2), abs=1e-12)


@pytest.mark.parametrize("alpha", [*ALPHAS, 0.01, 0.5, 0.9, 1 / 3])
def test_rank_of_the_threshold_is_exact(alpha):
    for n in range(0, 400):
        assert conformal.rank_of_threshold(n, alpha) == ceil((n + 1) * (1 - Decimal(repr(alpha))))


def test_threshold_is_the_kth_smallest_score_and_too_few_rows_give_all_classes():
    probs, y = drawn(3, 19)
    fitted = conformal.fit(probs, y, alpha=0.05)  # k = 19
    assert fitted.thresholds == [pytest.approx(1 - probs[np.arange(19), y].min())] and fitted.n == [19]
    fitted = conformal.fit(probs[:18], y[:18], alpha=0.05)  # k = 19 > 18
    assert fitted.thresholds == [None] and fitted.sets(probs).all()


def test_a_class_without_rows_is_in_every_set():
    probs, y = drawn(4, 500)
    fitted = conformal.fit(probs[y != 3], y[y != 3], alpha=0.1, per_class=True)
    assert [t is None for t in fitted.thresholds] == [k == 3 for k in range(K)]
    sets = fitted.sets(probs)
    assert sets[:, 3].all() and not sets[:, 2].all()


def cells():
    """(method, per class, alpha, class or None, hits, rows, calibration rows) of one large experiment each."""
    for method in ("lac", "aps", "raps"):
        for per_class in (False, True):
            for alpha in ALPHAS:
                seed = hash_free_seed(method, per_class, alpha)
                probs, y = drawn(seed, 3000)
                new, truth = drawn(seed + 1, 20_000)
                fitted = conformal.fit(probs, y, alpha, method, per_class, seed=seed)
                u = np.random.default_rng(seed + 2).random(len(new))
                hit = fitted.sets(new, u)[np.arange(len(new)), truth]
                for k in range(K) if per_class else (None,):
                    rows = truth == k if per_class else np.ones(len(truth), bool)
                    yield method, per_class, alpha, k, int(hit[rows].sum()), int(rows.sum()), fitted.n[k or 0]


def hash_free_seed(method, per_class, alpha):
    return 1000 * ("lac", "aps", "raps").index(method) + 500 * per_class + round(1000 * alpha)


def test_coverage_lies_inside_the_exact_band():
    """Hits of m new rows are Beta-binomial(m, k, n + 1 - k); 99 % band, Bonferroni over all cells."""
    found = list(cells())
    assert len(found) == 3 * 3 * (1 + K)
    tail = 0.01 / 2 / len(found)
    for method, per_class, alpha, k, hits, m, n in found:
        rank = conformal.rank_of_threshold(n, alpha)
        law = betabinom(m, rank, n + 1 - rank)
        assert law.ppf(tail) <= hits <= law.ppf(1 - tail), (method, per_class, alpha, k, hits / m)


def test_sets_without_a_draw_cover_more_and_are_never_empty():
    probs, y = drawn(7, 2000)
    fitted = conformal.fit(probs, y, 0.1, "aps")
    new, truth = drawn(8, 5000)
    plain, random = fitted.sets(new), fitted.sets(new, np.random.default_rng(9).random(5000))
    assert (plain >= random).all() and plain.any(axis=1).all()
    assert conformal.set_report(plain, truth)["coverage"] > conformal.set_report(random, truth)["coverage"] > 0.88


def test_the_penalty_shortens_long_sets():
    probs, y = drawn(10, 3000, scale=0.7)
    new, _ = drawn(11, 3000, scale=0.7)
    u = np.random.default_rng(12).random(3000)
    long, short = (
        conformal.fit(probs, y, 0.1, m, penalty=0.3, free_ranks=3).sets(new, u).sum(1) for m in ("aps", "raps")
    )
    assert (long > 5).mean() > (short > 5).mean()


def test_report_counts_sizes_and_classes():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    report = conformal.set_report(sets, [0, 1, 1, 0])
    assert report["coverage"] == 0.75 and report["mean_size"] == 1.5
    assert report["coverage_by_class"] == {"0": 1.0, "1": 0.5, "2": None}
    assert report["size_shares"] == [0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("change, reason", [
    ({"method": "top"}, "use lac, aps or raps"),
    ({"alpha": 0.0}, "alpha is 0"),
    ({"alpha": 1.0}, "alpha is 1"),
    ({"y": [9] * 50}, "outside 0..6"),
])  # fmt: skip
def test_refusals(change, reason):
    probs, y = drawn(13, 50)
    with pytest.raises((FerError, DataError), match=reason):
        conformal.fit(**{"probs": probs, "y": y} | change)


def test_sets_of_another_number_of_classes_are_refused():
    probs, y = drawn(14, 300)
    fitted = conformal.fit(probs, y, per_class=True)
    with pytest.raises(DataError, match="3 classes, 7 conformal thresholds"):
        fitted.sets(drawn(15, 5, k=3)[0])
    with pytest.raises(DataError, match="uniform draws"):
        conformal.fit(probs, y, method="aps").sets(probs, np.ones(3))


def test_json_gives_the_same_sets():
    probs, y = drawn(16, 300)
    for method in ("lac", "aps", "raps"):
        fitted = conformal.fit(probs, y, 0.1, method, per_class=True)
        again = conformal.ConformalSets.model_validate_json(fitted.model_dump_json())
        assert again == fitted and (again.sets(probs) == fitted.sets(probs)).all()


def test_risk_is_kept_in_nineteen_of_twenty_draws():
    """Of 400 draws at most the binomial 99.9 % quantile of delta = 0.05 exceed the risk on fresh rows."""
    fresh, truth = drawn(99, 200_000, scale=3.0)
    confidence, wrong = fresh.max(axis=1), fresh.argmax(axis=1) != truth
    exceeded = unknown = 0
    for seed in range(400):
        try:
            least = conformal.confidence_for_risk(*drawn(1000 + seed, 600, scale=3.0), risk=0.2)
        except FerError:  # the model answers nothing, and so nothing wrong
            unknown += 1
            continue
        exceeded += wrong[confidence >= least].mean() > 0.2
    assert 0 < exceeded <= binom(400, 0.05).ppf(0.999) and unknown < 20


def test_confidence_for_risk_takes_the_last_that_holds():
    confidence = np.repeat([0.9, 0.7, 0.5], 200)
    probs = np.column_stack([confidence, 1 - confidence])
    y = np.zeros(600, int)
    y[-100:] = 1  # half of the least confident are wrong; the tie at 0.5 predicts class 0
    assert conformal.confidence_for_risk(probs, y, 0.05, steps=[0.9, 0.7, 0.5]) == 0.7
    assert conformal.confidence_for_risk(probs, y, 0.25, steps=[0.9, 0.7, 0.5]) == 0.5
    with pytest.raises(FerError, match="no confidence shows a risk"):
        conformal.confidence_for_risk(probs[-200:], y[-200:], 0.1)
    with pytest.raises(FerError, match="shares between 0 and 1"):
        conformal.confidence_for_risk(probs, y, 1.0)


def test_steps_with_too_few_rows_are_no_failed_tests():
    rng = np.random.default_rng(5)
    confidence = np.r_[0.995, rng.uniform(0.6, 0.9, 400)]
    probs = np.column_stack([confidence, 1 - confidence])
    assert conformal.confidence_for_risk(probs, np.zeros(401, int), 0.1) == 0.0
