"""Ensembles: weighted combinations of logits, and the search for their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import entr

from fer_lib.calibration import metrics
from fer_lib.errors import FerError

SPACES = ("logit", "prob")
STEPS = 20  # weights are multiples of 1/20
POINTS = 5000  # mixes of one set: all of five members
BLOCK = 2**16  # rows x mixes that are scored together: few enough to stay in the processor's cache


def combine(logits: list, weights: list[float], space: str):
    """Ensemble logits [N, 7] of members' logits [N, 7]: ``logit`` sum w_i z_i, ``prob`` log sum w_i softmax(z_i).

    NumPy float64 arrays give NumPy float64, torch tensors give torch.  Weights are rescaled to sum to 1.
    Raises FerError when the weights are negative, all 0, or not one per member.
    """
    if len(logits) != len(weights) or not logits:
        raise FerError(f"an ensemble of {len(logits)} members got {len(weights)} weights: give one weight per member")
    if min(weights) < 0 or sum(weights) <= 0:
        raise FerError(f"ensemble weights must be >= 0 with a positive sum, got {weights}: correct them")
    shares = [w / sum(weights) for w in weights]
    if space == "logit":
        return sum(w * z for w, z in zip(shares, logits, strict=True))
    members = [(w, z) for w, z in zip(shares, logits, strict=True) if w > 0]
    if isinstance(logits[0], torch.Tensor):
        return torch.logsumexp(torch.stack([z.log_softmax(1) + float(np.log(w)) for w, z in members]), 0)
    return np.logaddexp.reduce([metrics.log_softmax(z) + np.log(w) for w, z in members], axis=0)


@dataclass(frozen=True)
class Mix:
    """An ensemble: the ``weights`` of all members (0: not in its set), and its scores on the rows of the search."""

    weights: tuple[float, ...]
    space: str
    macro_f1: float
    accuracy: float


def rank_mixes(
    logits: list[np.ndarray], y: np.ndarray, spaces: Sequence[str] = SPACES, steps: int = STEPS, points: int = POINTS
) -> list[Mix]:
    """The best mix of every set of members in each of ``spaces``, ordered by macro-F1, then accuracy.

    Weights are multiples of 1/``steps``, above 0 within a set; of larger steps for a set with more than ``points``
    such weights.  Ties go to the weights closest to equal ones, then to the earlier space.

    Args:
        logits: of each member, float64 [N, 7].
        y: labels, int [N].
    """
    mixes = []
    for space in spaces:
        values = np.stack(logits) if space == "logit" else np.exp([metrics.log_softmax(z) for z in logits])
        for size in range(1, min(len(logits), steps) + 1):
            for members in itertools.combinations(range(len(logits)), size):
                mixes.append(_best_mix(values, y, members, space, steps, points))
    return sorted(mixes, key=lambda m: (-m.macro_f1, -m.accuracy, _imbalance(np.asarray(m.weights)), m.weights))


def score_mixes(values: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Macro-F1 and accuracy, float64 [B] each, of the mixes ``weights`` float64 [B, M] of ``values`` [M, N, 7].

    ``values``: logits of the members, or their probabilities.  Rows on which all members predict one class are counted
    once: every mix predicts that class.
    """
    classes, own = values.shape[2], values.argmax(axis=2)
    agreed = (own == own[0]).all(axis=0)
    confusion = np.bincount(y[agreed] * classes + own[0, agreed], minlength=classes**2)
    by_class = np.ascontiguousarray(values[:, ~agreed].transpose(2, 0, 1))
    rows = y[~agreed].astype(np.intp) * classes
    confusions = np.empty((len(weights), classes**2), np.int64)
    block = max(1, BLOCK // max(1, len(rows)))
    for start in range(0, len(weights), block):
        part = weights[start : start + block]
        cells = rows + np.arange(len(part))[:, None] * classes**2 + _mixed_classes(by_class, part)
        counts = np.bincount(cells.ravel(), minlength=len(part) * classes**2)
        confusions[start : start + block] = confusion + counts.reshape(len(part), -1)
    confusions = confusions.reshape(-1, classes, classes)
    return metrics.f1_from_confusion(confusions).mean(axis=1), np.trace(confusions, axis1=1, axis2=2) / len(y)


def _mixed_classes(by_class: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The arg-max, int8 [B, N], of the mixes ``weights`` [B, M] of ``by_class`` [7, M, N], one class at a time."""
    top = weights @ by_class[0]
    predicted = np.zeros(top.shape, np.int8)
    for number, members in enumerate(by_class[1:], 1):
        mixed = weights @ members
        np.maximum(predicted, (mixed > top) * np.int8(number), out=predicted)
        np.maximum(top, mixed, out=top)
    return predicted


def _best_mix(values: np.ndarray, y: np.ndarray, members: tuple[int, ...], space: str, steps: int, points: int) -> Mix:
    grid = _grid(len(members), steps, points)
    weights = np.zeros((len(grid), len(values)))
    weights[:, members] = grid
    f1, accuracy = score_mixes(values[list(members)], y, grid)
    best = np.lexsort((_imbalance(weights), -accuracy, -f1))[0]  # stable: of equal ones the first weights
    return Mix(tuple(weights[best].tolist()), space, float(f1[best]), float(accuracy[best]))


def _grid(size: int, steps: int, points: int) -> np.ndarray:
    """All weights float64 [B, size] above 0 with sum 1, in as small steps as give at most ``points``."""
    while steps > size and math.comb(steps - 1, size - 1) > points:
        steps -= 1
    cuts = list(itertools.combinations(range(1, steps), size - 1))
    return np.diff(np.reshape(cuts, (len(cuts), size - 1)), axis=1, prepend=0, append=steps) / steps


def _imbalance(weights: np.ndarray) -> np.ndarray:
    """Squared distance of weights [..., M] from equal ones."""
    return ((weights - 1 / weights.shape[-1]) ** 2).sum(axis=-1)


def disagreement(logits: list[np.ndarray]) -> np.ndarray:
    """How much members with logits [N, 7] disagree on each row, float64 [N], in nats: 0 to log(members).

    The generalised Jensen-Shannon divergence with equal weights (Lin 1991, eq. 5.1): the entropy of the mean of their
    probabilities minus the mean of their entropies.
    """
    log_probs = np.stack([metrics.log_softmax(z) for z in logits])
    probs = np.exp(log_probs)
    mean = probs.mean(axis=0)
    return entr(mean).sum(axis=1) + (probs * log_probs).sum(axis=2).mean(axis=0)
