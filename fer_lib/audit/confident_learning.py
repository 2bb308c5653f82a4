"""Confident learning: likely label errors from out-of-fold probabilities (Northcutt, Jiang, Chuang 2021).

Everywhere ``probs`` is float [N, K], each row predicted by a model that was not trained on it, and ``labels`` is int
[N].  In matrices [K, K] rows are the given label and columns the true label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_lib.calibration import metrics

FLAG_FROM = 0.5  # probability of an error from which a label is flagged


def thresholds(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """t_j, the mean probability of class j over the rows labelled j (eq. 2): float64 [K], infinite without such rows.

    A class that the models are seldom sure of has a low threshold, so a rare or difficult class does not look noisy.
    """
    k = probs.shape[1]
    sums = np.bincount(labels, weights=self_confidence(probs, labels), minlength=k)
    counts = np.bincount(labels, minlength=k)
    return np.divide(sums, counts, out=np.full(k, np.inf), where=counts > 0)


def confident_classes(probs: np.ndarray, least: np.ndarray) -> np.ndarray:
    """The true class under which each row is counted, int64 [N]: the likeliest at or above its threshold, or -1."""
    over = np.where(probs >= least, probs, -1.0)
    return np.where((over >= 0).any(axis=1), over.argmax(axis=1), -1)


def confident_joint(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """C_ij, the number of rows with given label i that are confidently of class j (eq. 1): int64 [K, K]."""
    k = probs.shape[1]
    true = confident_classes(probs, thresholds(probs, labels))
    counted = true >= 0
    return np.bincount(labels[counted] * k + true[counted], minlength=k * k).reshape(k, k)


def calibrated_joint(joint: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint scaled so that row i sums to the number of rows labelled i (eq. 3, in counts): float64 [K, K].

    A class of which no row is counted has all of them on the diagonal.
    """
    counts = np.bincount(labels, minlength=len(joint)).astype(np.float64)
    totals = joint.sum(axis=1, keepdims=True)
    shares = np.divide(joint, totals, out=np.eye(len(joint)), where=totals > 0)
    return shares * counts[:, None]


def self_confidence(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i of the given label i, float64 [N]: low where the label looks wrong."""
    return probs[np.arange(len(labels)), labels]


def normalised_margin(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i - max_{j != i} p_j for given label i, float64 [N] in [-1, 1]: low where the label looks wrong."""
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    return self_confidence(probs, labels) - others.max(axis=1)


def noise_transition(noise: np.ndarray) -> np.ndarray:
    """P(given label i | true label j) by a calibrated joint, float64 [K, K]; the columns sum to 1."""
    totals = noise.sum(axis=0)
    return np.divide(noise, totals, out=np.eye(len(noise)), where=totals > 0)


def true_class_probs(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """P(true class j | image, given label i) = p_j T_ij / sum_k p_k T_ik, by Bayes' rule: float64 [N, K].

    A label that no class explains is taken to be right.
    """
    parts = probs * transition[labels]
    totals = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, totals, out=np.eye(probs.shape[1])[labels], where=totals > 0)


@dataclass(frozen=True)
class LabelErrors:
    """The estimate for N rows.

    ``thresholds`` float64 [K]; ``joint`` int64 [K, K], the confident joint, and ``noise`` float64 [K, K], its
    calibration; ``transition`` float64 [K, K], by ``noise``; ``refined`` float64 [K, K], the expected rows by
    :func:`true_class_probs`; ``label_error_prob`` float64 [N], by the same; ``suggested`` int64 [N], the likeliest
    other label; ``flagged`` bool [N], label_error_prob >= 0.5.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    noise: np.ndarray
    transition: np.ndarray
    refined: np.ndarray
    label_error_prob: np.ndarray
    suggested: np.ndarray

    @property
    def flagged(self) -> np.ndarray:
        return self.label_error_prob >= FLAG_FROM


def wrong_share(counts: np.ndarray) -> float:
    """The share of the rows counted in [K, K] that lie off the diagonal.

    Of ``refined``: the mean probability of a label error.  Of ``noise`` it is too high where the models themselves err.
    """
    return float(1.0 - np.trace(counts) / counts.sum())


def find_label_errors(probs, labels) -> LabelErrors:
    """Confident learning on ``probs`` [N, K], whose rows sum to 1, and ``labels`` [N].

    Raises DataError for arrays of another shape or content.
    """
    probs, labels = metrics.checked_probs(probs, labels)
    joint = confident_joint(probs, labels)
    noise = calibrated_joint(joint, labels)
    transition = noise_transition(noise)
    true = true_class_probs(probs, labels, transition)
    others = probs.copy()
    others[np.arange(len(labels)), labels] = -1.0
    return LabelErrors(
        thresholds=thresholds(probs, labels),
        joint=joint,
        noise=noise,
        transition=transition,
        refined=np.eye(probs.shape[1])[labels].T @ true,
        label_error_prob=1.0 - self_confidence(true, labels),
        suggested=others.argmax(axis=1),
    )


def rows_to_exclude(errors: LabelErrors, labels: np.ndarray) -> np.ndarray:
    """bool [N]: the flagged rows, but at most half of each class: its likeliest errors."""
    exclude = errors.flagged
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        exclude[rows[np.argsort(-errors.label_error_prob[rows], kind="stable")][len(rows) // 2 :]] = False
    return exclude
