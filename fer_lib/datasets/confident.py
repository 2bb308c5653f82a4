"""Confident learning: which labels are likely wrong, from out-of-fold probabilities (Northcutt, Jiang, Chuang 2021).

Rows are named by their given label i, columns by the true label j that the confident joint counts.  Nothing here knows
of pictures: ``probs`` float [N, K] (rows sum to 1, each predicted by a model that did not see the row) and ``labels``
int [N].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_lib.calibration import scores

DOUBT = 1.0  # rows of each kind of mistake that are taken for granted


def thresholds(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """t_j, the mean probability of class j over the rows labelled j (eq. 2): float64 [K], infinite without such rows.

    A class that the models are seldom sure of gets a low bar, so that neither rarity nor difficulty passes for noise.
    """
    k = probs.shape[1]
    sums = np.bincount(labels, weights=probs[np.arange(len(labels)), labels], minlength=k)
    counts = np.bincount(labels, minlength=k)
    return np.divide(sums, counts, out=np.full(k, np.inf), where=counts > 0)


def confident_classes(probs: np.ndarray, bars: np.ndarray) -> np.ndarray:
    """The true class each row is counted under, int64 [N]: the likeliest class at or above its bar, -1 for none."""
    over = np.where(probs >= bars, probs, -1.0)
    return np.where((over >= 0).any(axis=1), over.argmax(axis=1), -1)


def confident_joint(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """C_ij, how many rows with given label i are confidently of class j (eq. 1): int64 [K, K]."""
    k = probs.shape[1]
    found = confident_classes(probs, thresholds(probs, labels))
    sure = found >= 0
    return np.bincount(labels[sure] * k + found[sure], minlength=k * k).reshape(k, k)


def calibrated(joint: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The joint scaled so that row i sums to the number of rows labelled i (eq. 3, in counts): float64 [K, K].

    A class none of whose rows is confidently anything keeps them all on the diagonal.
    """
    counts = np.bincount(labels, minlength=len(joint)).astype(np.float64)
    totals = joint.sum(axis=1, keepdims=True)
    shares = np.divide(joint, totals, out=np.eye(len(joint)), where=totals > 0)
    return shares * counts[:, None]


def given_for_true(noise: np.ndarray, doubt: float = 0.0) -> np.ndarray:
    """P(given label i | true label j) from counts: columns sum to 1, a true class of no rows stays pure.

    ``doubt`` rows are added to every cell off the diagonal.
    """
    counts = noise + doubt * (1.0 - np.eye(len(noise)))
    totals = noise.sum(axis=0) > 0
    return np.divide(counts, counts.sum(axis=0), out=np.eye(len(noise)), where=totals)


def refined(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray, steps: int = 10) -> np.ndarray:
    """Expected rows by given label i and true label j, from ``steps`` of expectation-maximisation: float64 [K, K].

    The confident joint also counts what the models confuse by themselves, and so finds too much noise.  With p the
    probability of the true class, the transition T of greatest likelihood is the fixed point of: share each row out
    over the true classes by p_j T_ij, sum, and scale the columns to 1 (Dawid and Skene 1979, with p for the prior).
    It starts from ``transition``; one row of doubt in each cell keeps every kind of mistake possible.
    """
    for _ in range(steps):
        parts = _explanations(probs, labels, transition)
        counts = np.zeros_like(transition)
        np.add.at(counts, labels, parts)
        transition = given_for_true(counts, DOUBT)
    return counts


def _explanations(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """P(true class j | picture, given label i), float64 [N, K]: p_j T_ij, rows scaled to 1.

    The label is believed where no class explains it.
    """
    parts = probs * transition[labels]
    totals = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, totals, out=np.eye(probs.shape[1])[labels], where=totals > 0)


def wrongness(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """The ranking score, float64 [N] in [0, 1]: 1 - T_ii p_i / sum_j T_ij p_j for given label i, T = ``transition``.

    By Bayes' rule this is the probability that the label is wrong, p being that of the true class.  Where wrong labels
    are as likely to be any class it orders rows nearly as the self-confidence p_i does, which the paper ranks by; where
    they follow confusions it tells a label that one of these explains from a label that only the picture makes less
    likely, as the normalised margin does.  Each of the two simpler scores falls behind on the other kind of noise.
    """
    return 1.0 - _explanations(probs, labels, transition)[np.arange(len(labels)), labels]


def self_confidence(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i of the given label i, float64 [N]: low where the label looks wrong."""
    return probs[np.arange(len(labels)), labels]


def normalised_margin(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_i - max_{j != i} p_j for given label i, float64 [N] in [-1, 1]: low where the label looks wrong."""
    rows = np.arange(len(labels))
    others = probs.copy()
    others[rows, labels] = -np.inf
    return probs[rows, labels] - others.max(axis=1)


@dataclass(frozen=True)
class Verdict:
    """What confident learning says of N rows.

    ``thresholds`` [K]; ``joint`` int64 [K, K]; ``noise`` float64 [K, K], its calibration, rows by given label and
    columns by true label; ``refined`` [K, K], the same after :func:`refined`; ``wrongness`` float64 [N]; ``suggested``
    int64 [N], the likeliest other label; ``flagged`` bool [N], the rows off the confident joint's diagonal.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    noise: np.ndarray
    refined: np.ndarray
    wrongness: np.ndarray
    suggested: np.ndarray
    flagged: np.ndarray

    @property
    def noise_share(self) -> float:
        """The share of wrong labels by the confident joint, an upper estimate where the models err by themselves."""
        return float(1.0 - np.trace(self.noise) / self.noise.sum())

    @property
    def refined_share(self) -> float:
        """The share of wrong labels by the refined matrix, a lower estimate where the models learned some of them."""
        return float(1.0 - np.trace(self.refined) / self.refined.sum())


def judge(probs, labels) -> Verdict:
    """Confident learning on ``probs`` [N, K] and ``labels`` [N].  DataError for arrays that are not such."""
    probs, labels = scores.checked_probs(probs, labels)
    bars = thresholds(probs, labels)
    found = confident_classes(probs, bars)
    joint = confident_joint(probs, labels)
    noise = calibrated(joint, labels)
    counts = refined(probs, labels, given_for_true(noise, DOUBT))
    transition = given_for_true(counts, DOUBT)
    others = _explanations(probs, labels, transition)
    others[np.arange(len(labels)), labels] = -1.0
    flagged = (found >= 0) & (found != labels)
    suggested = np.where(flagged, found, others.argmax(axis=1))
    return Verdict(bars, joint, noise, counts, wrongness(probs, labels, transition), suggested, flagged)
