"""A model held against the people who voted: how near it comes to their distribution, and how well they do themselves.

v are the votes of a row for the seven classes as shares of them, p the model's probabilities, y the manifest's label,
and c the model's arg-max; every figure is a mean over the rows that have votes:

- ``kl``: KL(v || p) = sum_k v_k (ln v_k - ln p_k), in nats, 0 ln 0 = 0; ``entropy``: that of v, so that the
  cross-entropy of p under the votes is their sum, and no p can bring it below ``entropy``;
- ``js``: Jensen-Shannon divergence (Lin 1991), KL(v || m) / 2 + KL(p || m) / 2 with m = (v + p) / 2, at most ln 2;
- ``annotators.label``: v_y, the chance that one vote drawn at random is the label: the accuracy that people reach on
  these very labels, to be held against ``model.label``;
- ``annotators.label_of_all``: the same of a vote drawn among all that were cast, also those for what is none of the
  seven (contempt, unknown, no face), which then miss; only over rows whose votes were counted, ``votes.counts``;
- ``annotators.plurality``: max_k v_k, the same against the class most voted for (a tie needs no rule: each of its
  classes has this share), to be held against ``model.plurality``.  The drawn vote took part in making that plurality,
  so this is a little more than a newcomer would reach;
- ``annotators.each_other``: sum_k v_k^2, the chance that two votes drawn with replacement agree, to be held against
  ``model.vote``: v_c, the chance that the model agrees with one vote drawn at random, whose ceiling is
  ``annotators.plurality``;
- ``model.plurality``: whether c is the class most voted for, a tie of m classes giving 1/m for each of them;
- ``model.top2``: the same for the model's two likeliest classes, each giving its part.

The votes are those that were cast, as the source counts them: a rule that makes labels of them (FERPlus' majority rule
takes lone votes away before it looks) also takes away the people who disagree, and would flatter the rest.  Only where
a source publishes shares alone, as RAF-ML does, these are the votes; ``votes`` says how many rows are of either kind.
KL, JS and ``entropy`` are of the same votes, so they are larger than against the soft labels that models learn from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import rel_entr, xlogy

from fer_lib.calibration import metrics
from fer_lib.errors import DataError


def people_report(logits, scaled, y, votes, votes_all) -> dict[str, Any] | None:
    """The figures above, JSON-ready; None when no row has votes for the seven.

    ``logits`` and ``scaled`` [N, K] before and after the temperature (``kl`` and ``js`` are given for both; scaling by
    class may change the arg-max, the ``model`` figures are of the raw logits, as the report's accuracy is), ``y`` int
    [N], ``votes`` [N, K]: shares or counts, a row of NaN or zeros where nobody voted, and ``votes_all`` [N], the number
    of all votes, NaN where only shares are known (both as :attr:`Manifest.votes` has them).  ``n`` counts the rows with
    votes, ``n_without`` the others.  Raises DataError for shapes that disagree and for votes that are negative,
    infinite, or NaN in a part of a row.
    """
    logits, y = metrics.checked_logits(logits, y)
    scaled, _ = metrics.checked_logits(scaled, y)
    shares = checked_votes(votes, logits.shape)
    voted = ~np.isnan(shares).any(axis=1)
    if not voted.any():
        return None
    v, z, y = shares[voted], logits[voted], y[voted]
    rows = np.arange(len(v))
    most = v == v.max(axis=1, keepdims=True)
    credit = most / most.sum(axis=1, keepdims=True)
    order = np.argsort(-z, axis=1, kind="stable")  # the first class wins a tie, as everywhere
    chosen = order[:, 0]
    distances = {
        name: {kind: float(measure(v, log_p[voted]).mean()) for kind, log_p in log_probs(logits, scaled).items()}
        for name, measure in (("kl", kl), ("js", js))
    }
    cast, total = np.asarray(votes, np.float64)[voted], np.asarray(votes_all, np.float64)[voted]
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
            "label": float((chosen == y).mean()),
            "plurality": float(credit[rows, chosen].mean()),
            "top2": float((credit[rows, chosen] + credit[rows, order[:, 1]]).mean()),
            "vote": float(v[rows, chosen].mean()),
        },
    }


def checked_votes(votes, shape: tuple[int, int]) -> np.ndarray:
    """Votes as shares, float64 [N, K], each row summing to 1 or all NaN (nobody voted)."""
    votes = np.asarray(votes, np.float64)
    if votes.shape != shape:
        raise DataError(f"votes have shape {votes.shape} where {shape[0]} rows of {shape[1]} classes are scored")
    missing = np.isnan(votes)
    bad = np.flatnonzero(
        (missing.any(axis=1) & ~missing.all(axis=1)) | (votes < 0).any(axis=1) | np.isinf(votes).any(1)
    )
    if bad.size:
        raise DataError(
            f"votes of row {bad[0]} are {votes[bad[0]].tolist()} ({bad.size} such rows): shares must be at least 0 and "
            "finite, a row without votes all NaN; import the source again"
        )
    totals = votes.sum(axis=1, keepdims=True)
    return np.divide(votes, totals, out=np.full(shape, np.nan), where=totals > 0)


def log_probs(logits: np.ndarray, scaled: np.ndarray) -> dict[str, np.ndarray]:
    return {"raw": metrics.log_softmax(logits), "scaled": metrics.log_softmax(scaled)}


def kl(v: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """KL(v || p) of each row, [N]; from log-probabilities, so that a p that underflows still gives a finite value."""
    return (xlogy(v, v) - v * log_p).sum(axis=1)


def js(v: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of each row, [N], in nats."""
    p = np.exp(log_p)
    middle = (v + p) / 2
    return (rel_entr(v, middle) + rel_entr(p, middle)).sum(axis=1) / 2
