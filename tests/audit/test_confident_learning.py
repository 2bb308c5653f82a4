"""Confident learning on rows few enough to count by hand, and on noise that is known because it was planted."""

import dataclasses

import numpy as np
import pytest

from fer_lib.audit import confident_learning
from fer_lib.errors import DataError

#      probabilities of classes 0, 1, 2         given
ROWS = [
    ([0.9, 0.1, 0.0], 0),
    ([0.7, 0.2, 0.1], 0),
    ([0.2, 0.7, 0.1], 0),  # over the bar of class 1 alone: looks like a 1
    ([0.1, 0.8, 0.1], 1),
    ([0.6, 0.4, 0.0], 1),  # over the bars of 0 and of nothing else: looks like a 0
    ([0.3, 0.3, 0.4], 2),
    ([0.1, 0.1, 0.8], 2),
    ([0.4, 0.4, 0.2], 2),  # under every bar: counted nowhere
]
PROBS = np.array([p for p, _ in ROWS])
LABELS = np.array([y for _, y in ROWS])


def test_thresholds_and_joint_by_hand():
    bars = confident_learning.thresholds(PROBS, LABELS)
    np.testing.assert_allclose(bars, [(0.9 + 0.7 + 0.2) / 3, (0.8 + 0.4) / 2, (0.4 + 0.8 + 0.2) / 3])  # 0.6, 0.6, 0.467
    assert confident_learning.confident_classes(PROBS, bars).tolist() == [0, 0, 1, 1, 0, -1, 2, -1]
    joint = confident_learning.confident_joint(PROBS, LABELS)
    assert joint.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(confident_learning.calibrated(joint, LABELS), [[2, 1, 0], [1, 1, 0], [0, 0, 3]])


def test_the_likeliest_of_several_classes_over_their_bars_counts():
    probs = np.array([[0.3, 0.7], [0.45, 0.55], [0.6, 0.4], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])  # bars 0.45 and 0.9: the second row is over the first bar only
    assert confident_learning.confident_joint(probs, labels).tolist() == [[2, 0], [0, 1]]
    labels = np.array([0, 1, 1, 1])  # bars 0.3 and 0.617: row 0 is over both and counts under the likelier
    assert confident_learning.confident_joint(probs, labels).tolist() == [[0, 1], [2, 1]]


def test_scores_by_hand():
    transition = np.array([[0.9, 0.2, 0.0], [0.1, 0.7, 0.0], [0.0, 0.1, 1.0]])
    found = confident_learning.label_error_prob(PROBS[2:5], LABELS[2:5], transition)
    by_hand = [
        1 - 0.9 * 0.2 / (0.9 * 0.2 + 0.2 * 0.7 + 0.0 * 0.1),
        1 - 0.7 * 0.8 / (0.1 * 0.1 + 0.7 * 0.8 + 0.0 * 0.1),
        1 - 0.7 * 0.4 / (0.1 * 0.6 + 0.7 * 0.4),
    ]
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    np.testing.assert_allclose(confident_learning.self_confidence(PROBS, LABELS)[:3], [0.9, 0.7, 0.2])
    np.testing.assert_allclose(confident_learning.normalised_margin(PROBS, LABELS)[[0, 2, 5]], [0.8, -0.5, 0.1])


def test_evening_keeps_the_ways_and_shares_out_the_wrong():
    transition = np.array([[0.7, 0.0, 0.0], [0.2, 0.9, 0.0], [0.1, 0.1, 1.0]])
    even = confident_learning.uniform_noise(transition)  # 0.3, 0.1 and 0: a mean of 0.4 / 3
    by_hand = [[1 - 0.4 / 3, 0, 0], [0.8 / 9, 1 - 0.4 / 3, 0], [0.4 / 9, 0.4 / 3, 1]]
    np.testing.assert_allclose(even, by_hand, rtol=1e-12)  # a class of which no way leads stays pure


def planted(n=20_000, seed=0, rate=0.15):
    """Probabilities that are right, labels drawn from them, then wrong ones planted by a known matrix."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.08, 0.08, 0.08, 0.08], n)
    true = np.array([rng.choice(4, p=row) for row in p])
    shape = np.array([[0, 0.8, 0.1, 0.1], [0.5, 0, 0.5, 0], [0.0, 1.0, 0, 0.0], [0.3, 0.3, 0.4, 0]])
    transition = (1 - rate) * np.eye(4) + rate * shape.T
    given = np.array([rng.choice(4, p=transition[:, j]) for j in true])
    return p, true, given, transition


def test_planted_noise_is_estimated_and_ranked():
    from sklearn.metrics import average_precision_score

    p, true, given, transition = planted()
    verdict = confident_learning.judge(p, given)
    np.testing.assert_allclose(verdict.explanation.transition, transition, atol=0.02)
    assert verdict.explanation.temperature == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(verdict.explanation.biases, 0.0, atol=0.1)
    assert verdict.refined_share == pytest.approx(0.15, abs=0.01)
    assert verdict.noise.sum() == pytest.approx(len(p)) and verdict.refined.sum() == pytest.approx(len(p))
    np.testing.assert_allclose(verdict.noise.sum(axis=1), np.bincount(given))
    np.testing.assert_allclose(verdict.refined.sum(axis=1), np.bincount(given))
    wrong = given != true
    reached = average_precision_score(wrong, verdict.wrongness)
    best = average_precision_score(wrong, confident_learning.label_error_prob(p, given, transition))
    assert best - 0.01 < reached <= best + 0.01
    for simpler in (confident_learning.self_confidence, confident_learning.normalised_margin):
        assert reached > average_precision_score(wrong, -simpler(p, given))
    assert (verdict.suggested != given).all() and (verdict.suggested[wrong] == true[wrong]).mean() > 0.85
    assert (verdict.flagged == (verdict.wrongness >= 0.5)).all()
    assert wrong[verdict.flagged].mean() == pytest.approx(verdict.wrongness[verdict.flagged].mean(), abs=0.03)


@pytest.mark.parametrize("temperature, biases", [(0.6, [0, 0, 0, 0]), (1.8, [0.5, -0.5, 1.0, -1.0])])
def test_models_too_sure_too_shy_or_partial_are_told_from_noise(temperature, biases):
    """The nets' probabilities are bent; temperature, biases, noise and wrongness are found as from straight ones."""
    p, _, given, transition = planted()
    bent = np.log(np.maximum(p, 1e-9)) * temperature - np.array(biases)
    bent = np.exp(bent - bent.max(axis=1, keepdims=True))
    found = confident_learning.judge(bent / bent.sum(axis=1, keepdims=True), given)
    assert found.explanation.temperature == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(found.explanation.biases, np.array(biases) / temperature, atol=0.15)
    np.testing.assert_allclose(found.explanation.transition, transition, atol=0.02)
    assert found.refined_share == pytest.approx(0.15, abs=0.01)
    straight = confident_learning.judge(p, given)
    assert np.corrcoef(found.wrongness, straight.wrongness)[0, 1] > 0.995


def test_no_class_is_left_out_for_more_than_its_half():
    verdict = confident_learning.judge(*planted(3_000)[:3:2])
    labels = planted(3_000)[2]
    ordinary = confident_learning.to_leave_out(verdict, labels)
    assert (ordinary == verdict.flagged).all() and ordinary.any()
    doubtful = dataclasses.replace(verdict, flagged=verdict.flagged | (labels == 2))
    out = confident_learning.to_leave_out(doubtful, labels)
    rows = np.flatnonzero(labels == 2)
    assert out[rows].sum() == len(rows) // 2
    assert verdict.wrongness[rows][out[rows]].min() >= verdict.wrongness[rows][~out[rows]].max()
    assert (out == ordinary)[labels != 2].all()


def test_clean_and_sure_labels_are_left_alone():
    labels = np.repeat(np.arange(7), 30)
    probs = np.full((210, 7), 0.01) + 0.93 * np.eye(7)[labels]
    verdict = confident_learning.judge(probs, labels)
    assert not verdict.flagged.any() and verdict.noise_share == 0.0 and verdict.wrongness.max() < 0.01


def test_the_order_of_rows_changes_nothing():
    p, _, given, _ = planted(2_000)
    order = np.random.default_rng(1).permutation(len(p))
    one, other = confident_learning.judge(p, given), confident_learning.judge(p[order], given[order])
    np.testing.assert_allclose(one.wrongness[order], other.wrongness, atol=1e-4)
    assert (one.joint == other.joint).all() and (one.suggested[order] == other.suggested).all()


@pytest.mark.parametrize("labels", [np.zeros(60, int), np.tile([0, 2], 30)])
def test_classes_without_rows(labels):
    """A class nobody was given has no bar, so nothing is counted under it; one class alone has no noise."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    verdict = confident_learning.judge(probs, labels)
    assert np.isinf(verdict.thresholds[1]) and verdict.joint[:, 1].sum() == 0
    assert np.isfinite(verdict.wrongness).all() and np.isfinite(verdict.noise).all()
    if len(set(labels)) == 1:
        assert verdict.noise_share == 0.0 and not verdict.flagged.any()


def test_a_label_the_nets_rule_out_is_wrong_though_no_such_mistake_was_seen():
    labels = np.append(np.repeat([0, 1, 2], 40), 2)
    probs = np.append(0.97 * np.eye(3)[np.repeat([0, 1, 2], 40)] + 0.01, [[1.0, 0.0, 0.0]], axis=0)
    verdict = confident_learning.judge(probs, labels)
    assert verdict.wrongness.argmax() == 120 and verdict.wrongness[120] > 0.999
    assert verdict.suggested[120] == 0 and verdict.flagged[120] and verdict.joint[2, 0] == 1


def test_what_is_no_probability_is_refused():
    with pytest.raises(DataError, match="row"):
        confident_learning.judge(PROBS * 2, LABELS)
    with pytest.raises(DataError, match="label of row 0"):
        confident_learning.judge(PROBS, LABELS + 3)
