"""Paired comparison of two models on the same rows: differences, bootstrap intervals and McNemar's test (float64)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from fer_lib.calibration.intervals import checked_tail
from fer_lib.calibration.metrics import checked_logits, class_names, f1_from_confusion, log_softmax
from fer_lib.errors import DataError

METHOD = "plain percentile bootstrap over rows (Efron 1979), the same resampled rows for both models; not stratified"


@dataclass(frozen=True)
class Measurement:
    """One model on one set of rows: its ``report`` there, ``logits`` [N, K], labels ``y`` [N] and their sample ids."""

    name: str
    report: dict[str, Any]
    logits: np.ndarray
    y: np.ndarray
    sample_ids: list[str]


@dataclass(frozen=True)
class LogitPair:
    """Logits [N, K] of two models on the same rows, and the rows' labels ``y`` int [N]."""

    before: np.ndarray
    after: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, before: Measurement, after: Measurement) -> LogitPair:
        """Join two measurements by sample id, in the order of ``before``.

        Raises DataError when their evalset ids, sample ids or labels differ.
        """
        ids = [model.report["evalset_id"] for model in (before, after)]
        if ids[0] != ids[1] or sorted(before.sample_ids) != sorted(after.sample_ids):
            raise DataError(
                f"{before.name} was measured on {len(before.y):,} rows (evalset {ids[0]}), {after.name} on "
                f"{len(after.y):,} (evalset {ids[1]}): results on different rows can't be compared; measure both on "
                "one manifest and the same sources (include_sources, exclude_sources)"
            )
        position = {sample: i for i, sample in enumerate(after.sample_ids)}
        order = [position[sample] for sample in before.sample_ids]
        if (after.y[order] != before.y).any():
            raise DataError(
                f"{before.name} and {after.name} were measured with different labels: measure both on one manifest"
            )
        return cls(before.logits, after.logits[order], before.y)


def compare(
    pair: LogitPair, resamples: int = 1000, seed: int = 0, level: float = 0.95, minority: bool = False
) -> dict[str, dict[str, Any]]:
    """Differences ``after`` minus ``before`` with paired intervals, and McNemar's exact test.

    Returns ``difference``: ``accuracy``, ``macro_f1`` (over all K classes), ``f1/<class>`` for each class, ``nll``
    (nats) and, with ``minority``, ``minority_f1`` (mean of each model's own three lowest F1 among the classes present);
    each {value, lo, hi}.  Every bootstrap resample scores both models (:data:`METHOD`).  The ECE is left out because a
    bootstrap interval of it does not cover (see :mod:`fer_lib.calibration.intervals`).

    Returns ``mcnemar`` (McNemar 1947): ``only_before`` and ``only_after`` count the rows that one model alone has
    right; ``p`` is the two-sided p-value of equal error rates, 1 where no such row exists.

    Raises DataError when the shapes differ, FerError for an unusable level or too few resamples.
    """
    tail = checked_tail(level, resamples)
    (before, y), (after, _) = checked_logits(pair.before, pair.y), checked_logits(pair.after)
    if before.shape != after.shape:
        raise DataError(f"logits of shapes {before.shape} and {after.shape} are no pair: pass both for the same rows")
    k = before.shape[1]
    cells = (y * k + before.argmax(axis=1)) * k + after.argmax(axis=1)  # label, first prediction, second prediction
    nll_change = _row_nll(after, y) - _row_nll(before, y)
    rng = np.random.default_rng(seed)
    counts, nll = np.empty((resamples, k**3), np.int64), np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(0, len(y), len(y))
        counts[i], nll[i] = np.bincount(cells[rows], minlength=k**3), nll_change[rows].mean()
    observed = np.bincount(cells, minlength=k**3)[None]
    values = _score_changes(observed, k, minority) | {"nll": nll_change.mean(keepdims=True)}
    resampled = _score_changes(counts, k, minority) | {"nll": nll}
    bounds = {name: np.quantile(resampled[name], [tail, 1.0 - tail]) for name in values}
    difference = {
        name: {"value": float(value[0]), "lo": float(bounds[name][0]), "hi": float(bounds[name][1])}
        for name, value in values.items()
    }
    return {"difference": difference, "mcnemar": _mcnemar(before.argmax(axis=1) == y, after.argmax(axis=1) == y)}


def _mcnemar(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test on correctness, bool [N] per model."""
    first, second = int((before & ~after).sum()), int((after & ~before).sum())
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return {"only_before": first, "only_after": second, "p": float(p)}


def _row_nll(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -log_softmax(logits)[np.arange(len(y)), y]


def _score_changes(counts: np.ndarray, k: int, minority: bool) -> dict[str, np.ndarray]:
    """Changes [R] of the scores that a confusion matrix decides; ``counts`` [R, k^3] of (label, first, second)."""
    joint = counts.reshape(-1, k, k, k)
    before, after = joint.sum(axis=3), joint.sum(axis=2)
    f1_change = f1_from_confusion(after) - f1_from_confusion(before)
    hits = [np.trace(confusion, axis1=1, axis2=2) for confusion in (before, after)]
    changes = {"accuracy": (hits[1] - hits[0]) / joint[0].sum(), "macro_f1": f1_change.mean(axis=1)}
    changes |= {f"f1/{name}": f1_change[:, i] for i, name in enumerate(class_names(k))}
    return changes | ({"minority_f1": _minority_f1(after) - _minority_f1(before)} if minority else {})


def _minority_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean [R] of the three lowest F1 among the classes present; ``confusion`` [R, k, k]."""
    present = confusion.sum(axis=2) > 0
    lowest = np.sort(np.where(present, f1_from_confusion(confusion), np.inf), axis=1)[:, :3]
    finite = np.isfinite(lowest)
    return np.where(finite, lowest, 0.0).sum(axis=1) / finite.sum(axis=1)
