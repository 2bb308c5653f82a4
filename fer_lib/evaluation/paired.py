"""Two models on the same rows: what the difference is, within what, and whether chance explains it (float64)."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from fer_lib.calibration.intervals import checked_tail
from fer_lib.calibration.metrics import checked_labels, checked_logits, class_names, f1_from_confusion, log_softmax
from fer_lib.errors import DataError

METHOD = "plain percentile bootstrap over rows (Efron 1979), the same resampled rows for both models; not stratified"


def paired_differences(
    before, after, y, resamples: int = 1000, seed: int = 0, level: float = 0.95, minority: bool = False
) -> dict[str, dict]:
    """``after`` minus ``before``, with an interval that keeps the pairing of the rows.

    Both are logits [N, K] of the rows whose labels are ``y`` int [N].  Keys: ``accuracy``, ``macro_f1`` (over all K
    classes), ``f1/<class>`` for each and ``nll`` (nats), with ``minority`` also ``minority_f1`` (the mean of each
    model's own three lowest F1 among the classes that the rows hold); each {value, lo, hi}.  Rows are resampled with
    replacement, every resample scored for both models (:data:`METHOD`).  The ECE is not among them: a bootstrap
    interval of it does not cover (see :mod:`fer_lib.calibration.intervals`).  Raises DataError when the shapes differ.
    """
    tail = checked_tail(level, resamples)
    before, after, y = _pair(before, after, y)
    k = before.shape[1]
    cells = (y * k + before.argmax(axis=1)) * k + after.argmax(axis=1)  # label, first prediction, second prediction
    lost = _row_nll(after, y) - _row_nll(before, y)
    rng = np.random.default_rng(seed)
    counts, losses = np.empty((resamples, k**3), np.int64), np.empty(resamples)
    for i in range(resamples):
        rows = rng.integers(0, len(y), len(y))
        counts[i], losses[i] = np.bincount(cells[rows], minlength=k**3), lost[rows].mean()
    whole = np.bincount(cells, minlength=k**3)[None]
    values = _of_cells(whole, k) | {"nll": lost.mean(keepdims=True)}
    drawn = _of_cells(counts, k) | {"nll": losses}
    if minority:
        values["minority_f1"], drawn["minority_f1"] = _minority_gain(whole, k), _minority_gain(counts, k)
    ends = {name: np.quantile(drawn[name], [tail, 1.0 - tail]) for name in values}
    return {
        name: {"value": float(value[0]), "lo": float(ends[name][0]), "hi": float(ends[name][1])}
        for name, value in values.items()
    }


def mcnemar(before, after, y) -> dict[str, float]:
    """McNemar's exact test (1947) that both models are wrong equally often, on the rows where one of them alone is.

    ``before`` and ``after`` are predicted class ids int [N].  Returns ``only_before`` and ``only_after`` (rows that
    only this one has right) and the two-sided ``p`` of a fair coin among them; 1 where there are none.
    """
    y = np.asarray(y)
    k = int(max(np.max(a, initial=0) for a in (before, after, y))) + 1
    y = checked_labels(y, len(y), k)
    right = [checked_labels(a, len(y), k) == y for a in (before, after)]
    first, second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = binomtest(first, first + second).pvalue if first + second else 1.0
    return {"only_before": first, "only_after": second, "p": float(p)}


def _pair(before, after, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    (before, y), (after, _) = checked_logits(before, y), checked_logits(after)
    if before.shape != after.shape:
        raise DataError(f"logits of shapes {before.shape} and {after.shape} are no pair: pass both for the same rows")
    return before, after, y


def _row_nll(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return -log_softmax(logits)[np.arange(len(y)), y]


def _of_cells(counts: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Differences [R] of the scores that a confusion matrix decides, of counts [R, k^3] of (label, first, second)."""
    joint = counts.reshape(-1, k, k, k)
    first, second = joint.sum(axis=3), joint.sum(axis=2)
    gain = f1_from_confusion(second) - f1_from_confusion(first)
    hits = [np.trace(cm, axis1=1, axis2=2) for cm in (first, second)]
    each: Sequence[tuple[str, np.ndarray]] = [(f"f1/{n}", gain[:, i]) for i, n in enumerate(class_names(k))]
    return {"accuracy": (hits[1] - hits[0]) / joint[0].sum(), "macro_f1": gain.mean(axis=1), **dict(each)}


def _minority_gain(counts: np.ndarray, k: int) -> np.ndarray:
    """Differences [R] of minority-F1, of counts [R, k^3] as in :func:`_of_cells`."""
    joint = counts.reshape(-1, k, k, k)

    def minority(cm: np.ndarray) -> np.ndarray:
        present = cm.sum(axis=2) > 0
        lowest = np.sort(np.where(present, f1_from_confusion(cm), np.inf), axis=1)[:, :3]
        there = np.isfinite(lowest)
        return np.where(there, lowest, 0.0).sum(axis=1) / there.sum(axis=1)

    return minority(joint.sum(axis=2)) - minority(joint.sum(axis=3))
