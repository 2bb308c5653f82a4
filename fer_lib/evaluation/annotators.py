"""Comparison of a model with annotator votes: divergence from their distribution, and both accuracies.

Per row, v are the votes for the seven classes as shares, p the model's probabilities, y the manifest's label and c the
model's arg-max.  Every figure is a mean over the rows with votes:

- ``kl``: KL(v || p) = sum_k v_k (ln v_k - ln p_k), in nats, with 0 ln 0 = 0;
- ``entropy``: the entropy of v in nats.  ``kl`` + ``entropy`` is the cross-entropy of p under the votes, so ``entropy``
  is its lower bound;
- ``js``: Jensen-Shannon divergence (Lin 1991), KL(v || m) / 2 + KL(p || m) / 2 with m = (v + p) / 2, at most ln 2;
- ``annotators.label``: v_y, the probability that a random vote is the label, that is the annotators' accuracy.  Compare
  it with ``model.label``;
- ``annotators.label_of_all``: the same for a random vote among all that were cast.  Votes outside the seven classes
  (contempt, unknown, no face) count as misses; only rows with counted votes, ``votes.counts``;
- ``annotators.plurality``: max_k v_k, the probability that a random vote is the most frequent class.  Compare it with
  ``model.plurality``.  The vote is part of that plurality, so a new annotator would score slightly less;
- ``annotators.each_other``: sum_k v_k^2, the probability that two votes drawn with replacement agree.  Compare it with
  ``model.vote``: v_c, the probability that the model agrees with a random vote, at most ``annotators.plurality``;
- ``model.plurality``: whether c is the most frequent class; each of m tied classes counts 1/m;
- ``model.top2``: the same for the model's two most probable classes, added up.

The votes are the raw ones of the source.  A rule that turns them into labels (FERPlus' majority rule drops single
votes) removes disagreement and would overstate agreement.  Where a source publishes only shares, as RAF-ML does, the
shares are the votes; ``votes`` counts the rows of either kind.  KL, JS and ``entropy`` use the same raw votes, so they
are larger than against the soft labels used in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import rel_entr, xlogy

from fer_lib.calibration import metrics


def annotator_report(logits, scaled, y, votes, votes_all) -> dict[str, Any] | None:
    """The figures above, JSON-ready; None when no row has votes for the seven classes.

    ``logits`` and ``scaled`` [N, K]: before and after the temperature (``kl`` and ``js`` use both, ``model`` uses the
    raw logits).  ``y``: int [N].  ``votes`` [N, K] and ``votes_all`` [N]: of :attr:`Manifest.votes`, shares or counts,
    NaN or zeros for a row without votes.  ``n`` counts the rows with votes, ``n_without`` the others.
    """
    logits, y = metrics.checked_logits(logits, y)
    scaled, _ = metrics.checked_logits(scaled, y)
    votes = np.asarray(votes, np.float64)
    totals = votes.sum(axis=1, keepdims=True)
    shares = np.divide(votes, totals, out=np.full(votes.shape, np.nan), where=totals > 0)
    voted = ~np.isnan(shares).any(axis=1)
    if not voted.any():
        return None
    v, z, y = shares[voted], logits[voted], y[voted]
    rows = np.arange(len(v))
    most = v == v.max(axis=1, keepdims=True)
    credit = most / most.sum(axis=1, keepdims=True)
    order = np.argsort(-z, axis=1, kind="stable")  # the first class wins a tie
    top = order[:, 0]
    log_probs = {"raw": metrics.log_softmax(logits)[voted], "scaled": metrics.log_softmax(scaled)[voted]}
    distances = {
        name: {kind: float(measure(v, log_p).mean()) for kind, log_p in log_probs.items()}
        for name, measure in (("kl", kl), ("js", js))
    }
    cast, total = votes[voted], np.asarray(votes_all, np.float64)[voted]
    of_all = (cast[rows, y] / total)[np.isfinite(total)]
    return {
        "n": len(v),
        "n_without": len(shares) - len(v),
        "votes": {"counts": len(of_all), "shares": len(v) - len(of_all)},
        **distances,
        "entropy": float(-xlogy(v, v).sum(axis=1).mean()),
        "annotators": {
            "label": float(v[rows, y].mean()),
            "plurality": float(v.max(axis=1).mean()),
            "each_other": float((v**2).sum(axis=1).mean()),
            **({"label_of_all": float(of_all.mean())} if len(of_all) else {}),
        },
        "model": {
            "label": float((top == y).mean()),
            "plurality": float(credit[rows, top].mean()),
            "top2": float((credit[rows, top] + credit[rows, order[:, 1]]).mean()),
            "vote": float(v[rows, top].mean()),
        },
    }


def kl(v: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """KL(v || p) of each row, [N], in nats; log-probabilities keep it finite where p underflows."""
    return (xlogy(v, v) - v * log_p).sum(axis=1)


def js(v: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each row, [N], in nats."""
    p = np.exp(log_p)
    middle = (v + p) / 2
    return (rel_entr(v, middle) + rel_entr(p, middle)).sum(axis=1) / 2
