"""Confident learning: which labels are likely wrong, from out-of-fold probabilities (Northcutt, Jiang, Chuang 2021).

Rows are named by their given label i, columns by the true label j that the confident joint counts.  Nothing here knows
of pictures: ``probs`` float [N, K] (rows sum to 1, each predicted by a model that did not see the row) and ``labels``
int [N].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_lib.calibration import metrics

DOUBT, TRUST = 1.0, 10.0  # rows of each kind of mistake, and right ones of each class, that are taken for granted
DOUBTED = 0.5  # a label is flagged when it is at least as likely wrong as right


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


@dataclass(frozen=True)
class Explanation:
    """How the given labels came about: ``probs`` float64 [N, K] of the true class, ``transition`` [K, K].

    ``temperature`` and ``biases`` [K] turn the models' logits z into those probabilities: softmax(z / t + b).
    ``transition`` is P(given label i | true label j), its columns sum to 1.
    """

    probs: np.ndarray
    transition: np.ndarray
    temperature: float
    biases: np.ndarray


def explained_labels(probs: np.ndarray, labels: np.ndarray) -> Explanation:
    """The temperature, biases and transition under which the given labels are likeliest.

    Models that learned from wrong labels, or that were held back from learning them, are not as sure as they should be,
    and what they confuse by themselves looks like noise.  Both are told from wrong labels by their shape: a temperature
    changes doubtful rows, a wrong label also stands on a clear one.  So all are found together, by the likelihood of
    sum_j T_yj softmax(z / t + b)_j, z = log p (a noise layer on calibrated models: Sukhbaatar et al. 2014, Guo et al.
    2017), with a few rows of prior: :data:`DOUBT` in each cell of T, :data:`TRUST` on its diagonal, b near 0.
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax, logsumexp

    n, k = probs.shape
    logits = np.log(np.maximum(probs, 1e-12))
    prior = np.where(np.eye(k, dtype=bool), TRUST, DOUBT)
    given = np.eye(k)[labels].T

    def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scaled = logits / np.exp(x[0])
        return scaled, log_softmax(scaled + x[1 : 1 + k], axis=1), log_softmax(x[1 + k :].reshape(k, k), axis=0)

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        scaled, true, transition = parts(x)
        joint = true + transition[labels]
        likelihood = logsumexp(joint, axis=1)
        responsible = np.exp(joint - likelihood[:, None])
        change, counts = responsible - np.exp(true), given @ responsible + prior
        slope = [
            [-(change * scaled).sum()],
            change.sum(axis=0) - x[1 : 1 + k],
            (counts - np.exp(transition) * counts.sum(axis=0)).ravel(),
        ]
        value = likelihood.sum() + (prior * transition).sum() - 0.5 * (x[1 : 1 + k] ** 2).sum()
        return -value / n, -np.concatenate(slope) / n

    start = np.where(np.eye(k, dtype=bool), 0.9, 0.1 / max(k - 1, 1))
    x = np.concatenate([np.zeros(1 + k), np.log(start).ravel()])
    bounds = [(np.log(0.1), np.log(10.0))] + [(None, None)] * (k + k * k)
    x = minimize(loss, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300}).x
    _, true, transition = parts(x)
    return Explanation(np.exp(true), np.exp(transition), float(np.exp(x[0])), x[1 : 1 + k] - x[1 : 1 + k].mean())


def uniform_noise(transition: np.ndarray) -> np.ndarray:
    """``transition`` with one share of wrong labels for all true classes; what they become of each stays as it was.

    Faces that show little look like one class (Neutral), and so that class seems to be given other labels by mistake
    more often than it is.  A common share ranks better than shares that this bends.
    """
    k = len(transition)
    off = transition * (1.0 - np.eye(k))
    totals = off.sum(axis=0)
    ways = np.divide(off, totals, out=np.zeros_like(off), where=totals > 0)
    return totals.mean() * ways + np.diag(1.0 - totals.mean() * ways.sum(axis=0))


def _explanations(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
    """P(true class j | picture, given label i), float64 [N, K]: p_j T_ij, rows scaled to 1.

    The label is believed where no class explains it.
    """
    parts = probs * transition[labels]
    totals = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, totals, out=np.eye(probs.shape[1])[labels], where=totals > 0)


def label_error_prob(probs: np.ndarray, labels: np.ndarray, transition: np.ndarray) -> np.ndarray:
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
    columns by true label; ``explanation``, a :class:`Explanation`; ``refined`` [K, K], expected rows like ``noise``, by
    that explanation; ``wrongness`` float64 [N], by its :func:`uniform_noise` transition; ``suggested`` int64 [N], the
    likeliest other label; ``flagged`` bool [N], the rows that are at least as likely wrong as right.
    """

    thresholds: np.ndarray
    joint: np.ndarray
    noise: np.ndarray
    explanation: Explanation
    refined: np.ndarray
    label_error_prob: np.ndarray
    suggested: np.ndarray
    flagged: np.ndarray

    @property
    def noise_share(self) -> float:
        """The share of wrong labels by the confident joint: too high where the models err by themselves."""
        return float(1.0 - np.trace(self.noise) / self.noise.sum())

    @property
    def refined_share(self) -> float:
        """The share of wrong labels by the explanation."""
        return float(1.0 - np.trace(self.refined) / self.refined.sum())


def judge(probs, labels) -> Verdict:
    """Confident learning on ``probs`` [N, K] and ``labels`` [N].  DataError for arrays that are not such."""
    probs, labels = metrics.checked_probs(probs, labels)
    joint = confident_joint(probs, labels)
    found = explained_labels(probs, labels)
    refined = np.eye(probs.shape[1])[labels].T @ _explanations(found.probs, labels, found.transition)
    ranking = uniform_noise(found.transition)
    others = _explanations(found.probs, labels, ranking)
    wrong = label_error_prob(found.probs, labels, ranking)
    others[np.arange(len(labels)), labels] = -1.0
    return Verdict(
        thresholds=thresholds(probs, labels),
        joint=joint,
        noise=calibrated(joint, labels),
        explanation=found,
        refined=refined,
        label_error_prob=wrong,
        suggested=others.argmax(axis=1),
        flagged=wrong >= DOUBTED,
    )


def to_leave_out(verdict: Verdict, labels: np.ndarray) -> np.ndarray:
    """bool [N]: the flagged rows, but of each label at most half, so that no class is lost: its most doubtful ones."""
    out = verdict.flagged.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept = rows[np.argsort(-verdict.wrongness[rows], kind="stable")][len(rows) // 2 :]
        out[kept] = False
    return out
