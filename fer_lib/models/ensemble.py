"""Ensembles: weighted combinations of logits, and the search for their weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from scipy.special import entr

from fer_lib.calibration import metrics
from fer_lib.errors import FerError


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


def search_weights(logits: list[np.ndarray], y: np.ndarray, space: str, steps: int = 20) -> tuple[list[float], float]:
    """The weights on a grid of 1/``steps`` with the best macro-F1; returns (weights, macro-F1).

    Ties are broken by accuracy, then by the distance to equal weights.  For two members the grid has ``steps`` + 1
    points; for more members it is made coarser until it has at most 5000 points.
    """
    members = len(logits)
    if members == 1:
        return [1.0], metrics.macro_f1(logits[0].argmax(1), y)
    while steps > 2 and math.comb(steps + members - 1, members - 1) > 5000:
        steps -= 1
    best, best_weights = (-1.0, -1.0, -np.inf), None
    for cuts in itertools.combinations_with_replacement(range(steps + 1), members - 1):
        parts = np.diff([0, *cuts, steps]) / steps
        predicted = combine(logits, parts.tolist(), space).argmax(1)
        key = (
            metrics.macro_f1(predicted, y),
            metrics.accuracy(predicted, y),
            -float(((parts - 1 / members) ** 2).sum()),
        )
        if key > best:
            best, best_weights = key, parts.tolist()
    return best_weights, best[0]


def disagreement(logits: list[np.ndarray]) -> np.ndarray:
    """How much members with logits [N, 7] disagree on each row, float64 [N], in nats: 0 to log(members).

    The generalised Jensen-Shannon divergence with equal weights (Lin 1991, eq. 5.1): the entropy of the mean of their
    probabilities minus the mean of their entropies.
    """
    log_probs = np.stack([metrics.log_softmax(z) for z in logits])
    probs = np.exp(log_probs)
    mean = probs.mean(axis=0)
    return entr(mean).sum(axis=1) + (probs * log_probs).sum(axis=2).mean(axis=0)
