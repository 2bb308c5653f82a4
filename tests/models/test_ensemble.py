"""Ensembles compared with sums by hand, and the weight search with a constructed optimum and with all its mixes."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from fer_lib.calibration import metrics
from fer_lib.errors import FerError
from fer_lib.models.ensemble import combine, disagreement, rank_mixes, score_mixes


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
    best = rank_mixes(members, y, ["logit"])[0]
    assert best.weights == pytest.approx(shares) and best.macro_f1 == best.accuracy == 1.0


def scores_by_hand(members, weights, space, y):
    predicted = combine(members, weights, space).argmax(1)
    return metrics.macro_f1(predicted, y), metrics.accuracy(predicted, y)


def all_weights(members, steps):
    every = itertools.product(range(steps + 1), repeat=members)
    return [[u / steps for u in units] for units in every if sum(units) == steps]


def teachers(count, n=150, seed=3, skill=1.5):
    """Members that agree on some rows: each is the labels, a shared error and an independent one."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, n)
    shared = rng.normal(size=(n, 7)) + skill * np.eye(7)[y]
    return [shared + rng.normal(size=(n, 7)) * (1 + i / 3) for i in range(count)], y


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize("block", [1, 400, 2**16])
def test_mixes_have_the_scores_of_their_predictions(monkeypatch, space, block):
    monkeypatch.setattr("fer_lib.models.ensemble.BLOCK", block)
    members, y = teachers(3)
    values = np.stack(members if space == "logit" else [softmax(z) for z in members])
    assert 0 < np.mean(values.argmax(2)[0] == values.argmax(2)).round(6) < 1
    weights = all_weights(3, 10)
    f1, accuracy = score_mixes(values, y, np.array(weights))
    expected = [scores_by_hand(members, w, space, y) for w in weights]
    assert list(zip(f1.tolist(), accuracy.tolist(), strict=True)) == expected


def test_members_that_agree_on_every_row_have_one_score():
    f1, accuracy = score_mixes(np.stack([np.eye(7), 2 * np.eye(7)]), np.arange(7), np.array([[0.5, 0.5], [1.0, 0.0]]))
    assert f1.tolist() == accuracy.tolist() == [1.0, 1.0]


def test_the_first_of_two_equal_classes_is_predicted():
    values = np.stack([np.eye(7)[[2, 5]], np.eye(7)[[5, 2]]])
    assert score_mixes(values, np.array([2, 2]), np.array([[0.5, 0.5]]))[1].tolist() == [1.0]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_set_has_the_best_of_all_its_mixes(count):
    members, y = teachers(count)
    ranked = rank_mixes(members, y, steps=10)
    assert len(ranked) == 2 * (2**count - 1)
    for space in ("logit", "prob"):
        scored = [(scores_by_hand(members, w, space, y), w) for w in all_weights(count, 10)]
        for mix in (m for m in ranked if m.space == space):
            chosen = np.array(mix.weights) > 0
            of_set = [scores for scores, w in scored if np.array_equal(np.array(w) > 0, chosen)]
            assert (mix.macro_f1, mix.accuracy) == max(of_set) == scores_by_hand(members, mix.weights, space, y)
    keys = [(-m.macro_f1, -m.accuracy) for m in ranked]
    assert keys == sorted(keys) and len(set(keys)) > 3


def test_ties_go_to_equal_weights():
    z, y = np.eye(7) * 5, np.arange(7)
    assert rank_mixes([z, z * 2], y, ["logit"])[0].weights == (0.5, 0.5)
    assert rank_mixes([z], y)[0].weights == (1.0,)


def test_of_equal_macro_f1_the_higher_accuracy_comes_first():
    y = np.array([0, 0, 0, 1, 2])
    right_four, right_three = np.eye(7)[[0, 0, 0, 1, 1]], np.eye(7)[[0, 0, 1, 0, 2]]
    ranked = rank_mixes([right_four, right_three], y, ["logit"])
    assert len({mix.macro_f1 for mix in ranked}) == 1
    assert [(mix.weights, mix.accuracy) for mix in ranked] == [
        ((0.55, 0.45), 0.8),
        ((1.0, 0.0), 0.8),
        ((0.0, 1.0), 0.6),
    ]


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_a_set_with_too_many_mixes_has_coarser_weights(space):
    """At most 35 mixes of four members with weights above 0: those in steps of 1/8."""
    members, y = teachers(4, n=500)
    mix = next(m for m in rank_mixes(members, y, [space], points=35) if min(m.weights) > 0)
    scored = [scores_by_hand(members, w, space, y) for w in all_weights(4, 8) if min(w) > 0]
    assert len(scored) == 35 and (mix.macro_f1, mix.accuracy) == max(scored)
    assert all((8 * w).is_integer() for w in mix.weights)


def test_many_members_are_searched():
    rng = np.random.default_rng(2)
    y = np.arange(70) % 7
    noise = [rng.normal(size=(70, 7)) for _ in range(6)]
    best = rank_mixes([*noise, np.eye(7)[y] * 9], y, ["logit"])[0]
    assert best.macro_f1 == 1.0 and best.weights[-1] == max(best.weights) and len(best.weights) == 7


def test_the_disagreement_of_two_is_their_jensen_shannon_divergence(members):
    expected = jensenshannon(softmax(members[0]), softmax(members[1]), axis=1) ** 2
    np.testing.assert_allclose(disagreement(members[:2]), expected, rtol=0, atol=1e-12)


def test_the_disagreement_lies_between_nothing_and_the_logarithm_of_the_members(members):
    np.testing.assert_allclose(disagreement([members[0]] * 3), 0, atol=1e-12)
    np.testing.assert_allclose(disagreement(list(900.0 * np.eye(7)[:3, None])), np.log(3))
