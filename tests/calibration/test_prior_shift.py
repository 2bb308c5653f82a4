"""Prior correction against Bayes' rule in fractions; EM against planted class shares and a second optimiser."""

from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax as scipy_softmax

from fer_lib.calibration.metrics import softmax
from fer_lib.calibration.prior_shift import SMALLEST, UNIFORM, estimate_prior, prior_correction
from fer_lib.errors import DataError

TRAIN = [Fraction(n, 100) for n in (30, 5, 10, 25, 10, 15, 5)]
TARGET = [Fraction(n, 100) for n in (4, 6, 10, 20, 20, 20, 20)]


def test_it_is_bayes_rule():
    likelihood = [Fraction(n, 50) for n in (3, 9, 1, 40, 7, 2, 30)]
    posteriors = {}
    for name, prior in {"train": TRAIN, "target": TARGET}.items():
        joint = [p * x for p, x in zip(prior, likelihood, strict=True)]
        posteriors[name] = [float(j / sum(joint)) for j in joint]
    logits = np.log([posteriors["train"]]) + 3.0
    moved = softmax(logits + prior_correction([float(x) for x in TRAIN], [float(x) for x in TARGET]))
    assert moved[0] == pytest.approx(posteriors["target"], abs=1e-12)


def test_the_same_prior_changes_nothing_and_an_unseen_class_stays():
    assert not prior_correction(UNIFORM, UNIFORM).any()
    unseen = [0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert prior_correction(unseen, UNIFORM)[0] == 0.0 and np.isfinite(prior_correction(unseen, UNIFORM)).all()


@pytest.mark.parametrize(
    "bad, words",
    [([0.5, 0.5], "7 shares"), ([0.2] * 7, "sums to 1.4"), ([0.0, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1], "above 0"),
     ([float("nan"), *[1 / 6] * 6], "above 0")],
)  # fmt: skip
def test_what_is_no_prior_is_refused(bad, words):
    with pytest.raises(DataError, match=words):
        prior_correction(UNIFORM, bad)


def gaussian_rows(shares, n=20_000, seed=0):
    """Exact posteriors [n, 7] under the prior TRAIN of rows that were drawn with ``shares``, and their labels.

    Class k has the density of a unit normal around 3 e_k, so the posterior is known, not learned.
    """
    rng = np.random.default_rng(seed)
    y = rng.choice(7, n, p=np.asarray(shares, float))
    x = rng.normal(size=(n, 7)) + 3 * np.eye(7)[y]
    log_likelihood = -0.5 * ((x[:, None, :] - 3 * np.eye(7)) ** 2).sum(axis=2)
    return scipy_softmax(log_likelihood + np.log(np.array(TRAIN, float)), axis=1), y


@pytest.mark.parametrize(
    "shares", [[float(x) for x in TARGET], list(UNIFORM), [0.02, 0.02, 0.02, 0.88, 0.02, 0.02, 0.02]]
)
def test_em_recovers_planted_shares_on_known_posteriors(shares):
    probs, y = gaussian_rows(shares)
    found = estimate_prior(probs, [float(x) for x in TRAIN])
    assert found.converged and found.prior.dtype == np.float64 and found.prior.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(found.prior, shares, atol=0.012)  # three standard errors of a share
    assert np.abs(found.prior - shares).max() < np.abs(np.array(TRAIN, float) - shares).max() / 3
    moved = np.log(probs) + prior_correction([float(x) for x in TRAIN], found.prior)
    assert (moved.argmax(1) == y).mean() > (probs.argmax(1) == y).mean()


def test_em_ends_at_the_maximum_of_the_likelihood():
    """The same maximum by gradient over softmax weights, from another start."""
    train = np.array(TRAIN, float)
    probs, _ = gaussian_rows(UNIFORM, n=500, seed=3)

    def loss(w):
        shares = scipy_softmax(w)
        likelihood = probs @ (shares / train)
        slope = (probs / train / likelihood[:, None]).mean(axis=0)
        return -np.log(likelihood).mean(), -shares * (slope - shares @ slope)

    best = minimize(loss, np.zeros(7), jac=True, method="BFGS", options={"gtol": 1e-10})
    np.testing.assert_allclose(estimate_prior(probs, train, 1e-12).prior, scipy_softmax(best.x), atol=1e-6)


def test_em_of_rows_of_one_class_ends_at_that_class_with_a_finite_correction():
    probs, _ = gaussian_rows([0, 0, 0, 1, 0, 0, 0], n=300)
    found = estimate_prior(probs, UNIFORM)
    assert found.prior[3] > 0.97 and (found.prior >= SMALLEST / 2).all()
    certain = estimate_prior(np.eye(7)[[3, 3, 3]], UNIFORM)
    assert certain.converged and certain.prior[3] == pytest.approx(1) and certain.iterations == 2
    assert np.isfinite(prior_correction(UNIFORM, certain.prior)).all()


def test_em_of_constant_posteriors():
    train = np.array(TRAIN, float)
    nothing = estimate_prior(np.tile(train, (50, 1)), train)
    assert nothing.converged and nothing.iterations == 1
    np.testing.assert_allclose(nothing.prior, train, atol=1e-12)
    raised = estimate_prior(np.tile(np.array(TARGET, float), (50, 1)), train)
    assert (
        raised.converged and raised.prior.argmax() == 6 and raised.prior[6] > 0.999
    )  # TARGET / TRAIN is largest there


def test_em_says_when_it_has_not_converged_and_keeps_an_unseen_class():
    probs, _ = gaussian_rows(TARGET, n=400)
    short = estimate_prior(probs, np.array(TRAIN, float), max_iterations=2)
    assert (short.iterations, short.converged) == (2, False)
    unseen = estimate_prior(probs, [0.0, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert unseen.converged and np.isfinite(unseen.prior).all() and unseen.prior[0] > 0


def test_em_refuses_what_are_no_probabilities():
    with pytest.raises(DataError, match="no rows"):
        estimate_prior(np.empty((0, 7)), UNIFORM)
    with pytest.raises(DataError, match="row 1 is not a distribution"):
        estimate_prior(np.array([[1 / 7] * 7, [1.0] * 7]), UNIFORM)
    with pytest.raises(DataError, match=r"\[N, 7\]"):
        estimate_prior(np.full((3, 2), 0.5), UNIFORM)
