"""Ensembles as weights over logits."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from fer_lib.calibration import metrics
from fer_lib.errors import FerError


def combine(logits: list, weights: list[float], space: str):
    """One set of logits [N, 7] out of several: ``logit`` sum w_i z_i, ``prob`` log sum w_i softmax(z_i).

    NumPy float64 in, NumPy float64 out; torch tensors in, torch out.  Weights are rescaled to sum to 1.
    """
    if len(logits) != len(weights) or not logits:
        raise FerError(f"an ensemble of {len(logits)} members was given {len(weights)} weights")
    if min(weights) < 0 or sum(weights) <= 0:
        raise FerError(f"ensemble weights must be >= 0 with a positive sum, got {weights}")
    shares = [w / sum(weights) for w in weights]
    if space == "logit":
        return sum(w * z for w, z in zip(shares, logits, strict=True))
    kept = [(w, z) for w, z in zip(shares, logits, strict=True) if w > 0]
    if isinstance(logits[0], torch.Tensor):
        return torch.logsumexp(torch.stack([z.log_softmax(1) + float(np.log(w)) for w, z in kept]), 0)
    return np.logaddexp.reduce([metrics.log_softmax(z) + np.log(w) for w, z in kept], axis=0)


def search_weights(logits: list[np.ndarray], y: np.ndarray, space: str, steps: int = 20) -> tuple[list[float], float]:
    """The weights on a grid of 1/``steps`` with the best macro-F1, ties by accuracy, then by nearness to equal weights.

    Returns (weights, macro-F1).  For two members the grid has ``steps`` + 1 points; it is thinned for more members so
    that at most some thousand combinations are tried.
    """
    members = len(logits)
    if members == 1:
        return [1.0], metrics.macro_f1(logits[0].argmax(1), y)
    while steps > 2 and _compositions(steps, members) > 5000:
        steps -= 1
    best, chosen = (-1.0, -1.0, -np.inf), None
    for cuts in itertools.combinations_with_replacement(range(steps + 1), members - 1):
        parts = np.diff([0, *cuts, steps]) / steps
        predicted = combine(logits, parts.tolist(), space).argmax(1)
        key = (
            metrics.macro_f1(predicted, y),
            metrics.accuracy(predicted, y),
            -float(((parts - 1 / members) ** 2).sum()),
        )
        if key > best:
            best, chosen = key, parts.tolist()
    return chosen, best[0]


def _compositions(steps: int, members: int) -> int:
    from math import comb

    return comb(steps + members - 1, members - 1)
