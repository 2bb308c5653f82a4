"""Ensembles compared with sums by hand, and the weight search with a constructed optimum."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from fer_lib.calibration import metrics
from fer_lib.errors import FerError
from fer_lib.models.ensemble import combine, disagreement, search_weights


@pytest.fixture
def members():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(30, 7)) * 3 for _ in range(3)]


def softmax(z):
    e = np.exp(z)
    return e / e.sum(1, keepdims=True)


def test_logits_are_averaged(members):
    logits = combine(members, [1.0, 2.0, 1.0], "logit")
    np.testing.assert_allclose(logits, 0.25 * members[0] + 0.5 * members[1] + 0.25 * members[2], rtol=0, atol=1e-12)


def test_probabilities_are_averaged(members):
    logits = combine(members, [0.2, 0.0, 0.6], "prob")
    expected = 0.25 * softmax(members[0]) + 0.75 * softmax(members[2])
    np.testing.assert_allclose(softmax(logits), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(logits, np.log(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_torch_and_numpy_agree(members, space):
    weights = [0.5, 0.0, 0.3]
    tensor = combine([torch.from_numpy(z) for z in members], weights, space)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(combine(members, weights, space), tensor.numpy(), rtol=0, atol=1e-12)


def test_sharp_members_stay_finite():
    sharp = [np.eye(7) * 2e4, np.eye(7)[::-1] * 2e4]
    logits = combine(sharp, [0.5, 0.5], "prob")
    assert np.isfinite(logits).all() and softmax(logits)[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, -0.1, 0.1], [0.0, 0.0, 0.0]])
def test_invalid_weights_are_rejected(members, weights):
    with pytest.raises(FerError, match="weights"):
        combine(members, weights, "logit")


def members_with_optimum(shares, n=700, seed=1):
    """Members whose weighted sum is right on every row only at or near the weights ``shares``."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 7
    noise = [rng.normal(size=(n, 7)) * 6 for _ in shares[:-1]]
    last = (np.eye(7)[y] - sum(w * z for w, z in zip(shares, noise, strict=False))) / shares[-1]
    return [*noise, last], y


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.25, 0.75), (0.2, 0.3, 0.5)])
def test_search_finds_the_optimum(shares):
    members, y = members_with_optimum(shares)
    weights, best = search_weights(members, y, "logit")
    assert weights == pytest.approx(shares) and best == 1.0
    assert best == metrics.macro_f1(combine(members, weights, "logit").argmax(1), y)


def test_search_returns_the_best_of_its_grid_in_both_spaces(members):
    y = np.arange(30) % 7
    for space in ("logit", "prob"):
        weights, best = search_weights(members[:2], y, space)
        grid = [metrics.macro_f1(combine(members[:2], [w / 20, 1 - w / 20], space).argmax(1), y) for w in range(21)]
        assert best == max(grid) and sum(weights) == pytest.approx(1.0)


def test_ties_go_to_equal_weights():
    z = np.eye(7) * 5
    y = np.arange(7)
    assert search_weights([z, z * 2], y, "logit") == ([0.5, 0.5], 1.0)
    assert search_weights([z], y, "prob") == ([1.0], 1.0)


def test_many_members_are_searched_on_a_coarser_grid():
    rng = np.random.default_rng(2)
    y = np.arange(70) % 7
    noise = [rng.normal(size=(70, 7)) for _ in range(5)]
    weights, best = search_weights([*noise, np.eye(7)[y] * 9], y, "logit")
    assert best == 1.0 and weights[-1] == max(weights) and len(weights) == 6


def test_the_disagreement_of_two_is_their_jensen_shannon_divergence(members):
    expected = jensenshannon(softmax(members[0]), softmax(members[1]), axis=1) ** 2
    np.testing.assert_allclose(disagreement(members[:2]), expected, rtol=0, atol=1e-12)


def test_the_disagreement_lies_between_nothing_and_the_logarithm_of_the_members(members):
    np.testing.assert_allclose(disagreement([members[0]] * 3), 0, atol=1e-12)
    np.testing.assert_allclose(disagreement(list(900.0 * np.eye(7)[:3, None])), np.log(3))
