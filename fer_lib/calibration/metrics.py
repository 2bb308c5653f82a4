"""Scores of a classifier: pure float64 functions of ``logits[N, K]`` or ``probs[N, K]`` and ``y[N]``.

Conventions that hold for every score here:

- the prediction is the arg-max, the first class winning a tie;
- confidence is the largest probability;
- rows that share a confidence are interchangeable: scores that sort by confidence use the mean correctness of the tie,
  so that no score depends on the order of the rows;
- an empty set, a NaN or infinity, a label outside 0..K-1, or shapes that disagree raise :class:`DataError`, naming
  the row.
"""

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.errors import DataError

METRIC_VERSION = "1"
BINS = 15
_ROW_SUM_TOLERANCE = 1e-4  # float32 probabilities of a few classes sum to one well within this


def checked_labels(y, n: int, k: int) -> np.ndarray:
    """``y`` as int64 [n], every value in 0..k-1; :class:`DataError` otherwise."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise DataError(f"labels have shape {y.shape} where {n} rows of scores need ({n},): pass one label per row")
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(f"labels are {y.dtype}, not integers: pass class ids 0..{k - 1}")
    bad = np.flatnonzero((y < 0) | (y >= k))
    if bad.size:
        raise DataError(
            f"label of row {bad[0]} is {y[bad[0]]}, outside 0..{k - 1} ({bad.size} such rows): fix the labels"
        )
    return y.astype(np.int64)


def _checked_matrix(values, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.dtype == object or not (
        np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)
    ):
        raise DataError(f"{what} are {values.dtype}, not real numbers: pass a float array [N, K]")
    values = values.astype(np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(f"{what} have shape {values.shape}: they must be [N, K] with K >= 2")
    if not len(values):
        raise DataError(
            f"no rows: {what} have shape {values.shape}; a score of nothing is undefined, check what was selected"
        )
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise DataError(
            f"{what} of row {bad[0]} are not finite: {values[bad[0]].tolist()} ({bad.size} such rows); "
            "look at the model's output for that row"
        )
    return values


def checked_logits(logits, y=None) -> tuple[np.ndarray, np.ndarray | None]:
    """Finite float64 logits [N, K], N >= 1, K >= 2, and (when given) their int64 labels [N]."""
    logits = _checked_matrix(logits, "logits")
    return logits, None if y is None else checked_labels(y, *logits.shape)


def checked_probs(probs, y=None) -> tuple[np.ndarray, np.ndarray | None]:
    """Float64 probabilities [N, K] whose rows lie in [0, 1] and sum to one, and (when given) their int64 labels [N]."""
    probs = _checked_matrix(probs, "probabilities")
    off = (probs < 0).any(axis=1) | (np.abs(probs.sum(axis=1) - 1.0) > _ROW_SUM_TOLERANCE)
    bad = np.flatnonzero(off)
    if bad.size:
        raise DataError(
            f"row {bad[0]} is not a distribution: {probs[bad[0]].tolist()} ({bad.size} such rows); "
            "pass softmax(logits), not the logits"
        )
    return probs, None if y is None else checked_labels(y, *probs.shape)


def log_softmax(logits) -> np.ndarray:
    """log p [N, K], by log-sum-exp around the row's maximum: finite for any finite logits."""
    logits, _ = checked_logits(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits) -> np.ndarray:
    """p [N, K]; rows sum to one to rounding."""
    logits, _ = checked_logits(logits)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def nll(logits, y) -> float:
    """Mean negative log-likelihood in nats, straight from the logits."""
    logits, y = checked_logits(logits, y)
    return float(-log_softmax(logits)[np.arange(len(y)), y].mean())


def brier(probs, y) -> float:
    """mean_i sum_k (p_ik - [k = y_i])^2, in 0..2 (Brier 1950)."""
    probs, y = checked_probs(probs, y)
    error = probs.copy()
    error[np.arange(len(y)), y] -= 1.0
    return float((error**2).sum(axis=1).mean())


def top_label(probs, y) -> tuple[np.ndarray, np.ndarray]:
    """Confidence float64 [N] (at most 1) and correctness float64 [N] (0 or 1) of the arg-max."""
    probs, y = checked_probs(probs, y)
    # a float32 softmax may round to slightly above one, which must not count as a gap
    return np.minimum(probs.max(axis=1), 1.0), (probs.argmax(axis=1) == y).astype(np.float64)


def bin_index(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Equal-width bin of each confidence: the first is [0, 1/bins], the others (lo, hi]; exactly 1.0 is in the last.

    Edges are the doubles nearest to m / bins, so a confidence of 0.2 lies on the edge 3/15 and belongs below it.
    """
    if bins < 1:
        raise DataError(f"bins is {bins}: at least one is needed")
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


def _bin_gaps(confidence, correct, bins) -> tuple[np.ndarray, np.ndarray]:
    """Counts [bins] and sums [bins] of (confidence - correct) in each equal-width bin."""
    index = bin_index(confidence, bins)
    return np.bincount(index, minlength=bins), np.bincount(index, weights=confidence - correct, minlength=bins)


def reliability_table(probs, y, bins: int = BINS) -> dict[str, np.ndarray]:
    """Per equal-width bin [bins]: ``lower``, ``upper``, ``count``, mean ``confidence``, ``accuracy`` (NaN: empty)."""
    confidence, correct = top_label(probs, y)
    index = bin_index(confidence, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights=v, minlength=bins) / count for v in (confidence, correct)]
    edges = np.arange(bins + 1) / bins
    return {"lower": edges[:-1], "upper": edges[1:], "count": count, "confidence": means[0], "accuracy": means[1]}


def ece(probs, y, bins: int = BINS) -> float:
    """Expected calibration error of the top label: sum_b n_b/N |conf_b - acc_b| (Guo 2017), equal-width bins."""
    count, gaps = _bin_gaps(*top_label(probs, y), bins)
    return float(np.abs(gaps).sum() / count.sum())


def mce(probs, y, bins: int = BINS) -> float:
    """Maximum calibration error: the largest |conf_b - acc_b| over the bins that hold anything (Guo 2017)."""
    count, gaps = _bin_gaps(*top_label(probs, y), bins)
    filled = count > 0
    return float((np.abs(gaps[filled]) / count[filled]).max())


def _tie_means(key: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` with each group of equal ``key`` replaced by its mean; both [N]."""
    _, group = np.unique(key, return_inverse=True)
    return (np.bincount(group, weights=values) / np.bincount(group))[group]


def adaptive_ece(probs, y, bins: int = BINS) -> float:
    """ECE over equal-mass bins (Nguyen & O'Connor 2015): sorted by confidence, sizes that differ by at most one.

    The first N mod bins bins take the extra row; with N < bins every row is its own bin.  A tie that a bin border cuts
    counts with its mean correctness on both sides.
    """
    confidence, correct = top_label(probs, y)
    order = np.argsort(confidence, kind="stable")
    gap = (confidence - _tie_means(confidence, correct))[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, bins)) / len(gap))


def classwise_ece(probs, y, bins: int = BINS) -> float:
    """Mean over the K classes of the ECE of p_k against [y = k], equal-width bins (Kull 2019)."""
    probs, y = checked_probs(probs, y)
    per_class = [
        np.abs(_bin_gaps(np.minimum(probs[:, k], 1.0), (y == k).astype(np.float64), bins)[1]).sum()
        for k in range(probs.shape[1])
    ]
    return float(np.mean(per_class) / len(y))


def squared_l2_ce(probs, y, bins: int = BINS) -> float:
    """Debiased squared L2 calibration error of the top label (Kumar 2019), over the ECE's equal-width bins.

    sum_b n_b/N [(conf_b - acc_b)^2 - acc_b (1 - acc_b) / (n_b - 1)]: what a squared gap gains from sampling noise
    alone is taken off, so a calibrated model scores about zero and may score below.  A bin of one row has no such
    estimate and adds 0.
    """
    table = reliability_table(probs, y, bins)
    many = table["count"] >= 2
    n, conf, acc = (table[name][many] for name in ("count", "confidence", "accuracy"))
    return float((n * ((conf - acc) ** 2 - acc * (1 - acc) / (n - 1))).sum() / table["count"].sum())


def aurc(probs, y) -> float:
    """Area under the risk-coverage curve (Geifman 2019): mean over k = 1..N of the error rate of the k surest rows.

    Within a tie of confidence the error is the tie's mean: the expectation over a random order of it.
    """
    confidence, correct = top_label(probs, y)
    error = _tie_means(confidence, 1.0 - correct)[np.argsort(-confidence, kind="stable")]
    return float((np.cumsum(error) / np.arange(1, len(error) + 1)).mean())


def confusion(pred, y, k: int = len(EMOTIONS)) -> np.ndarray:
    """Counts int64 [k, k]: row = true class, column = predicted class.  ``pred``: int [N] class ids."""
    y = np.asarray(y)
    if not y.size:
        raise DataError("no rows: a confusion matrix of nothing is undefined, check the selection")
    y = checked_labels(y, len(np.atleast_1d(pred)), k)
    pred = checked_labels(pred, len(y), k)
    return np.bincount(y * k + pred, minlength=k * k).reshape(k, k)


def accuracy(pred, y, k: int = len(EMOTIONS)) -> float:
    """Share of rows whose predicted class id is the label."""
    cm = confusion(pred, y, k)
    return float(np.trace(cm) / cm.sum())


def f1_per_class(pred, y, k: int = len(EMOTIONS)) -> np.ndarray:
    """F1 float64 [k] = 2 TP / (2 TP + FP + FN); 0 for a class that is neither labelled nor predicted."""
    return f1_from_confusion(confusion(pred, y, k))


def f1_from_confusion(cm: np.ndarray) -> np.ndarray:
    """F1 [..., k] of confusion counts [..., k, k] (row = true class)."""
    hits = 2.0 * np.diagonal(cm, axis1=-2, axis2=-1)
    mass = cm.sum(axis=-1) + cm.sum(axis=-2)
    return np.divide(hits, mass, out=np.zeros(hits.shape), where=mass > 0)


def macro_f1(pred, y, k: int = len(EMOTIONS)) -> float:
    """Mean F1 over all k classes; an absent class counts as 0."""
    return float(f1_per_class(pred, y, k).mean())


def macro_f1_present(pred, y, k: int = len(EMOTIONS)) -> float:
    """Mean F1 over the classes that have at least one labelled row."""
    cm = confusion(pred, y, k)
    return float(f1_from_confusion(cm)[cm.sum(axis=1) > 0].mean())


def minority_f1(pred, y, k: int = len(EMOTIONS)) -> float:
    """Mean of the lowest three F1 among the classes that have labelled rows (of all of them when fewer than three)."""
    cm = confusion(pred, y, k)
    return float(np.sort(f1_from_confusion(cm)[cm.sum(axis=1) > 0])[:3].mean())


def class_names(k: int) -> tuple[str, ...]:
    """The seven emotions for k = 7, else the class ids as text."""
    return EMOTIONS if k == len(EMOTIONS) else tuple(str(i) for i in range(k))


def summary(logits, y) -> dict:
    """Every score of one set of rows, ready for JSON.

    Takes logits [N, K] and y int [N].  Keys: ``accuracy, macro_f1, macro_f1_present, minority_f1,
    per_class_f1{name: f}, per_class_n{name: n}, nll, ece, mce, adaptive_ece, classwise_ece, squared_l2_ce, brier, aurc,
    confusion, n``.
    """
    logits, y = checked_logits(logits, y)
    probs, pred, k = softmax(logits), logits.argmax(axis=1), logits.shape[1]
    cm = confusion(pred, y, k)
    return {
        "accuracy": accuracy(pred, y, k),
        "macro_f1": macro_f1(pred, y, k),
        "macro_f1_present": macro_f1_present(pred, y, k),
        "minority_f1": minority_f1(pred, y, k),
        "per_class_f1": dict(zip(class_names(k), f1_from_confusion(cm).tolist(), strict=True)),
        "per_class_n": dict(zip(class_names(k), cm.sum(axis=1).tolist(), strict=True)),
        "nll": nll(logits, y),
        "ece": ece(probs, y),
        "mce": mce(probs, y),
        "adaptive_ece": adaptive_ece(probs, y),
        "classwise_ece": classwise_ece(probs, y),
        "squared_l2_ce": squared_l2_ce(probs, y),
        "brier": brier(probs, y),
        "aurc": aurc(probs, y),
        "confusion": cm.tolist(),
        "n": len(y),
    }
