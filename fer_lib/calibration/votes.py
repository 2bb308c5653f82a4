"""Calibration to people: a model's probabilities against the distribution of annotators' votes (float64).

Per row, p [K] are the probabilities, v [K] the votes as shares, c the arg-max of p, H the entropy in nats.  The truth
is v, not one label: a model that says 0.6 where six of ten annotators agree with it is calibrated to people.

- ``true_label_ece``: the ECE (15 bins of p_c) whose outcome is v_c, the share of the votes for the predicted class;
- ``dist_ce``: mean total variation, sum_k |p_k - v_k| / 2;
- ``ent_ce``: mean |H(p) - H(v)|; ``ent_bias``: mean H(p) - H(v), above 0 where the model is less certain than people;
- ``rank``: share of rows whose classes p orders as v does; classes with equal votes may come in any order.

DistCE, EntCE and rank agreement: Baan et al. 2022.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import entr

from fer_lib.calibration.intervals import shares_ece_interval
from fer_lib.calibration.metrics import BINS, bin_index, checked_probs
from fer_lib.errors import DataError

THIRDS = ("low", "middle", "high")  # of the rows by the entropy of their votes


def top_share(probs, votes) -> tuple[np.ndarray, np.ndarray]:
    """p_c and v_c of each row, float64 [N] each, of ``probs`` and ``votes`` [N, K]."""
    (probs, _), (votes, _) = checked_probs(probs), checked_probs(votes)
    if probs.shape != votes.shape:
        raise DataError(f"votes have shape {votes.shape}, probabilities {probs.shape}: pass the votes of the same rows")
    rows, top = np.arange(len(probs)), probs.argmax(axis=1)
    return np.minimum(probs[rows, top], 1.0), np.minimum(votes[rows, top], 1.0)


def true_label_ece(probs, votes, bins: int = BINS) -> float:
    """sum_b |sum of p_c - v_c over the rows of bin b| / N."""
    confidence, share = top_share(probs, votes)
    gaps = np.bincount(bin_index(confidence, bins), weights=confidence - share, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def same_order(probs: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Whether p orders the classes of each row as v does, bool [N]: v_i > v_j wherever p_i > p_j, up to ties of v."""
    order = np.argsort(-probs, axis=1, kind="stable")
    return (np.diff(np.take_along_axis(votes, order, axis=1), axis=1) <= 0).all(axis=1)


def vote_calibration(probs, votes, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The figures of this module for ``probs`` and ``votes`` [N, K], ready for JSON.

    ``true_label_ece``: {value, lo, hi} with a 95 % interval (:func:`shares_ece_interval`), and the same for each third
    of the rows by the entropy of their votes under ``thirds`` (rows of equal entropy stay together, so a third may be
    smaller or absent).
    """
    confidence, share = top_share(probs, votes)
    probs, votes = np.asarray(probs, np.float64), np.asarray(votes, np.float64)
    entropies = [entr(values).sum(axis=1) for values in (probs, votes)]
    edges = np.quantile(entropies[1], [1 / 3, 2 / 3])
    third = np.searchsorted(edges, entropies[1], side="left")

    def scored(rows: np.ndarray) -> dict[str, Any]:
        low, high = shares_ece_interval(confidence[rows], share[rows], resamples=resamples, seed=seed)
        return {"n": int(rows.sum()), "value": true_label_ece(probs[rows], votes[rows]), "lo": low, "hi": high}

    return {
        "true_label_ece": scored(np.ones(len(probs), bool)),
        "thirds": {name: scored(third == i) for i, name in enumerate(THIRDS) if (third == i).any()},
        "dist_ce": float(np.abs(probs - votes).sum(axis=1).mean() / 2),
        "ent_ce": float(np.abs(entropies[0] - entropies[1]).mean()),
        "ent_bias": float((entropies[0] - entropies[1]).mean()),
        "rank": float(same_order(probs, votes).mean()),
    }
