"""Confident learning on rows that are counted by hand, against a plain computation, and on planted noise."""

import dataclasses

import numpy as np
import pytest

from fer_lib.audit import label_errors
from fer_lib.audit.label_errors import wrong_share
from fer_lib.errors import DataError

#      probabilities of classes 0, 1, 2         given
ROWS = [
    ([0.9, 0.1, 0.0], 0),
    ([0.7, 0.2, 0.1], 0),
    ([0.2, 0.7, 0.1], 0),  # over the threshold of class 1 alone: looks like a 1
    ([0.1, 0.8, 0.1], 1),
    ([0.6, 0.4, 0.0], 1),  # over the threshold of 0 alone: looks like a 0
    ([0.3, 0.3, 0.4], 2),
    ([0.1, 0.1, 0.8], 2),
    ([0.4, 0.4, 0.2], 2),  # under every threshold: counted nowhere
]
PROBS = np.array([p for p, _ in ROWS])
LABELS = np.array([y for _, y in ROWS])


def test_thresholds_and_joint_by_hand():
    least = label_errors.thresholds(PROBS, LABELS)
    by_hand = [(0.9 + 0.7 + 0.2) / 3, (0.8 + 0.4) / 2, (0.4 + 0.8 + 0.2) / 3]  # 0.6, 0.6, 0.467
    np.testing.assert_allclose(least, by_hand)
    assert label_errors.confident_classes(PROBS, least).tolist() == [0, 0, 1, 1, 0, -1, 2, -1]
    joint = label_errors.confident_joint(PROBS, LABELS)
    assert joint.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(label_errors.calibrated_joint(joint, LABELS), [[2, 1, 0], [1, 1, 0], [0, 0, 3]])


def test_the_likeliest_of_several_classes_over_their_thresholds_counts():
    probs = np.array([[0.3, 0.7], [0.45, 0.55], [0.6, 0.4], [0.1, 0.9]])
    labels = np.array([0, 0, 0, 1])  # thresholds 0.45 and 0.9: the second row is over the first only
    assert label_errors.confident_joint(probs, labels).tolist() == [[2, 0], [0, 1]]
    labels = np.array([0, 1, 1, 1])  # thresholds 0.3 and 0.617: row 0 is over both and counts under the likelier
    assert label_errors.confident_joint(probs, labels).tolist() == [[0, 1], [2, 1]]


def plain_joint(probs, labels):
    """Eq. 1 to 3 of the paper, row by row: the confident joint and its calibration."""
    k = probs.shape[1]
    least = [np.mean([p[j] for p, y in zip(probs, labels, strict=True) if y == j]) for j in range(k)]
    joint = np.zeros((k, k))
    for p, y in zip(probs, labels, strict=True):
        over = [j for j in range(k) if p[j] >= least[j]]
        if over:
            joint[y, max(over, key=lambda j: p[j])] += 1
    return joint, joint / joint.sum(axis=1, keepdims=True) * np.bincount(labels, minlength=k)[:, None]


@pytest.mark.parametrize("seed", range(3))
def test_joint_equals_a_plain_computation(seed):
    rng = np.random.default_rng(seed)
    probs, labels = rng.dirichlet(np.full(7, 0.5), 700), rng.integers(0, 7, 700)
    joint, calibrated = plain_joint(probs, labels)
    errors = label_errors.find_label_errors(probs, labels)
    np.testing.assert_array_equal(errors.joint, joint)
    np.testing.assert_allclose(errors.noise, calibrated)
    np.testing.assert_allclose(errors.transition, calibrated / calibrated.sum(axis=0))


def test_scores_by_hand():
    transition = np.array([[0.9, 0.2, 0.0], [0.1, 0.7, 0.0], [0.0, 0.1, 1.0]])
    true = label_errors.true_class_probs(PROBS[2:5], LABELS[2:5], transition)
    by_hand = [
        0.9 * 0.2 / (0.9 * 0.2 + 0.2 * 0.7 + 0.0 * 0.1),
        0.7 * 0.8 / (0.1 * 0.1 + 0.7 * 0.8 + 0.0 * 0.1),
        0.7 * 0.4 / (0.1 * 0.6 + 0.7 * 0.4),
    ]
    np.testing.assert_allclose(true[[0, 1, 2], LABELS[2:5]], by_hand, rtol=1e-12)
    np.testing.assert_allclose(true.sum(axis=1), 1.0)
    np.testing.assert_allclose(label_errors.self_confidence(PROBS, LABELS)[:3], [0.9, 0.7, 0.2])
    np.testing.assert_allclose(label_errors.normalised_margin(PROBS, LABELS)[[0, 2, 5]], [0.8, -0.5, 0.1])


def test_a_label_that_no_class_explains_is_taken_to_be_right():
    true = label_errors.true_class_probs(np.array([[1.0, 0.0]]), np.array([1]), np.eye(2))
    assert true.tolist() == [[0.0, 1.0]]


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
    errors = label_errors.find_label_errors(p, given)
    np.testing.assert_allclose(errors.transition, transition, atol=0.07)
    assert wrong_share(errors.refined) == pytest.approx(0.15, abs=0.02)
    assert 0.15 < wrong_share(errors.noise) < 0.20  # which also counts doubtful rows with right labels
    for matrix in (errors.noise, errors.refined):
        np.testing.assert_allclose(matrix.sum(axis=1), np.bincount(given))
    wrong = given != true
    reached = average_precision_score(wrong, errors.label_error_prob)
    exact = 1 - label_errors.true_class_probs(p, given, transition)[np.arange(len(p)), given]
    assert reached == pytest.approx(average_precision_score(wrong, exact), abs=0.01)
    for simpler in (label_errors.self_confidence, label_errors.normalised_margin):
        assert reached > average_precision_score(wrong, -simpler(p, given))
    assert (errors.suggested != given).all() and (errors.suggested[wrong] == true[wrong]).mean() > 0.85
    assert (errors.flagged == (errors.label_error_prob >= 0.5)).all()
    expected = errors.label_error_prob[errors.flagged].mean()
    assert wrong[errors.flagged].mean() == pytest.approx(expected, abs=0.05)


def test_at_most_half_of_a_class_is_excluded():
    errors = label_errors.find_label_errors(*planted(3_000)[:3:2])
    labels = planted(3_000)[2]
    ordinary = label_errors.rows_to_exclude(errors, labels)
    assert (ordinary == errors.flagged).all() and ordinary.any()
    raised = np.where(labels == 2, 0.5 + 0.5 * errors.label_error_prob, errors.label_error_prob)
    errors = dataclasses.replace(errors, label_error_prob=raised)  # all rows of class 2 are flagged
    out = label_errors.rows_to_exclude(errors, labels)
    rows = np.flatnonzero(labels == 2)
    assert out[rows].sum() == len(rows) // 2
    assert errors.label_error_prob[rows][out[rows]].min() >= errors.label_error_prob[rows][~out[rows]].max()
    assert (out == ordinary)[labels != 2].all()


def test_clean_and_sure_labels_are_not_flagged():
    labels = np.repeat(np.arange(7), 30)
    probs = np.full((210, 7), 0.01) + 0.93 * np.eye(7)[labels]
    errors = label_errors.find_label_errors(probs, labels)
    assert not errors.flagged.any() and wrong_share(errors.noise) == 0.0 and errors.label_error_prob.max() < 0.01


def test_row_order_does_not_matter():
    p, _, given, _ = planted(2_000)
    order = np.random.default_rng(1).permutation(len(p))
    one = label_errors.find_label_errors(p, given)
    other = label_errors.find_label_errors(p[order], given[order])
    np.testing.assert_allclose(one.label_error_prob[order], other.label_error_prob, atol=1e-12)
    assert (one.joint == other.joint).all() and (one.suggested[order] == other.suggested).all()


@pytest.mark.parametrize("labels", [np.zeros(60, int), np.tile([0, 2], 30)])
def test_classes_without_rows(labels):
    """A class without rows has no threshold, so nothing is counted under it; one class alone has no noise."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 60)
    errors = label_errors.find_label_errors(probs, labels)
    assert np.isinf(errors.thresholds[1]) and errors.joint[:, 1].sum() == 0
    assert np.isfinite(errors.label_error_prob).all() and np.isfinite(errors.noise).all()
    if len(set(labels)) == 1:
        assert wrong_share(errors.noise) == 0.0 and not errors.flagged.any()


def test_a_label_with_probability_zero_is_flagged():
    labels = np.append(np.repeat([0, 1, 2], 40), 2)
    probs = np.append(0.97 * np.eye(3)[np.repeat([0, 1, 2], 40)] + 0.01, [[1.0, 0.0, 0.0]], axis=0)
    errors = label_errors.find_label_errors(probs, labels)
    assert errors.label_error_prob.argmax() == 120 and errors.label_error_prob[120] > 0.999
    assert errors.suggested[120] == 0 and errors.flagged[120] and errors.joint[2, 0] == 1


def test_probabilities_and_labels_are_checked():
    with pytest.raises(DataError, match="row"):
        label_errors.find_label_errors(PROBS * 2, LABELS)
    with pytest.raises(DataError, match="label of row 0"):
        label_errors.find_label_errors(PROBS, LABELS + 3)
