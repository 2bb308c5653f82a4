"""Intervals for scores; the coverage of the ECE's was measured (``benchmarks/ece_coverage.py``).

Why the ECE needs its own: it is a sum of absolute values, so noise only ever adds to it.  Resampling the rows adds the
noise a second time, and a percentile interval then lies above a small true value altogether.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.special import ndtri

from fer_lib.calibration.metrics import BINS, bin_index, confusion, reliability_table, top_label
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import FerError

CHANCE = 1 / NUM_CLASSES  # the accuracy of guessing where rows have all classes
_CHUNK = 2_000_000  # random numbers held at once: 16 MB


def checked_tail(level: float, resamples: int) -> float:
    """The share of each tail outside an interval; FerError for a level or a number of resamples that is none."""
    if not 0 < level < 1:
        raise FerError(f"level is {level}: an interval needs one between 0 and 1, such as 0.95")
    if resamples < 100:
        raise FerError(f"resamples is {resamples}: fewer than 100 say nothing about a tail, use 1000")
    return (1.0 - level) / 2.0


def ece_null(probs, resamples: int = 1000, seed: int = 0, bins: int = BINS) -> dict[str, float]:
    """What a perfectly calibrated model would score here: the ECE of labels redrawn from ``probs`` [N, K].

    Returns ``mean`` and ``q95`` (95 % quantile) over ``resamples`` redraws.  Only whether the top label is right
    matters, so each redraw is one Bernoulli(confidence) a row.
    """
    checked_tail(0.95, resamples)
    probs = np.asarray(probs)
    confidence, _ = top_label(probs, np.zeros(len(probs), dtype=np.int64))
    index = bin_index(confidence, bins)
    order = np.argsort(index, kind="stable")
    confidence, index = confidence[order], index[order]
    starts = np.flatnonzero(np.r_[True, np.diff(index) > 0])
    expected = np.add.reduceat(confidence, starts)
    rng, scores = np.random.default_rng(seed), []
    per_chunk = max(1, _CHUNK // len(confidence))
    for begin in range(0, resamples, per_chunk):
        drawn = rng.random((min(per_chunk, resamples - begin), len(confidence))) < confidence
        hits = np.add.reduceat(drawn, starts, axis=1, dtype=np.int64)
        scores.append(np.abs(hits - expected).sum(axis=1) / len(confidence))
    scores = np.concatenate(scores)
    return {"mean": float(scores.mean()), "q95": float(np.quantile(scores, 0.95))}


class _BinnedModel:
    """The bins of one set of rows, and the ECE that it would have shown had its bins' true gaps been others."""

    def __init__(self, table: Mapping[str, np.ndarray], resamples: int, seed: int):
        filled = table["count"] > 0
        self.count, self.confidence, accuracy = (table[k][filled] for k in ("count", "confidence", "accuracy"))
        self.n = int(self.count.sum())
        self.share = self.count / self.n
        self.gap = self.confidence - accuracy
        self.observed = float((self.share * np.abs(self.gap)).sum())
        # half a success and half a failure more, so that a bin without errors still has a variance
        smooth = (accuracy * self.count + 0.5) / (self.count + 1.0)
        self.gap_sd = np.sqrt(smooth * (1.0 - smooth) / self.count)
        self.drawn = np.random.default_rng(seed).multinomial(self.n, self.share / self.share.sum(), size=resamples)
        self.seed = seed + 1

    def size(self, gap: np.ndarray) -> float:
        """The ECE of true gaps [B]."""
        return float((self.share * np.abs(gap)).sum())

    def draws(self, gap: np.ndarray) -> np.ndarray:
        """ECEs [resamples] that new samples of n rows show when the true gaps are ``gap`` [B]; always the same seed."""
        hits = np.random.default_rng(self.seed).binomial(self.drawn, np.clip(self.confidence - gap, 0.0, 1.0))
        return np.abs(self.drawn * self.confidence - hits).sum(axis=1) / self.n

    def gathered(self, total: float) -> np.ndarray:
        """The observed gaps of the most significant bins, as many as make up an ECE of ``total``; 0 in the others."""
        order = np.argsort(-np.abs(self.gap) / self.gap_sd, kind="stable")
        size = (self.share * np.abs(self.gap))[order]
        mass = np.clip(total - (np.cumsum(size) - size), 0.0, size)
        gap = np.empty_like(self.gap)
        gap[order] = np.sign(self.gap[order]) * mass / self.share[order]
        return gap

    def spread(self, ratio: float, sign: int) -> np.ndarray:
        """Gaps of ``ratio`` standard deviations in every bin, as far as accuracy stays within 0..1."""
        return sign * np.minimum(ratio * self.gap_sd, self.room(sign))

    def room(self, sign: int) -> np.ndarray:
        """How far each gap can go in that direction before accuracy leaves 0..1."""
        return self.confidence if sign > 0 else 1.0 - self.confidence


def _last_true(holds: Callable[[float], bool], end: float, steps: int = 12) -> float:
    """The largest argument in [0, end) at which ``holds``, true at 0 and false at ``end``, still does (bisection).

    On the square root: the argument sought may be far below the end.
    """
    low, high = 0.0, np.sqrt(end)
    for _ in range(steps):
        middle = (low + high) / 2.0
        low, high = (middle, high) if holds(middle**2) else (low, middle)
    return low**2


def _lower(model: _BinnedModel, tail: float) -> float:
    def plausible(less: float) -> bool:
        return np.mean(model.draws(model.gathered(model.observed - less)) >= model.observed) > tail

    return 0.0 if plausible(model.observed) else model.observed - _last_true(plausible, model.observed)


def _upper(model: _BinnedModel, tail: float, sign: int) -> float:
    # a sample luckier than calibration itself explains would give an empty interval: it gets the bound of a typical one
    bound = max(model.observed, float(np.median(model.draws(np.zeros_like(model.gap)))))

    def plausible(ratio: float) -> bool:
        return np.mean(model.draws(model.spread(ratio, sign)) <= bound) > tail

    furthest = float(np.max(model.room(sign) / model.gap_sd))
    ratio = furthest if plausible(furthest) else _last_true(plausible, furthest)
    return model.size(model.spread(ratio, sign))


def ece_interval(
    probs, y, level: float = 0.95, resamples: int = 1000, seed: int = 0, bins: int = BINS
) -> tuple[float, float]:
    """Interval for the ECE (binned, top label) of the population that ``probs`` [N, K] and ``y`` [N] were drawn from.

    By inverting a test of "the true ECE is t" on the observed ECE.  How t is divided over the bins is unknown, so each
    end takes the division that is hard for it, and the observed ECE's law there is simulated (multinomial bins,
    binomial hits):

    - lower end: t gathered in the fewest bins, at their observed gaps, the most significant first (the other bins then
      add their noise in full, which lets the observed value be large);
    - upper end: t spread so that each bin's gap is the same number of standard deviations (there noise adds least to t,
      which lets the observed value be small); never below the end that a calibrated model's median sample would get.

    The lower end is 0 where calibration itself is plausible.
    """
    tail = checked_tail(level, resamples)
    return _ends(_BinnedModel(reliability_table(probs, y, bins), resamples, seed), tail)


def _ends(model: _BinnedModel, tail: float) -> tuple[float, float]:
    return _lower(model, tail), max(model.observed, _upper(model, tail, 1), _upper(model, tail, -1))


class _SharesModel(_BinnedModel):
    """The same where a row's outcome is a share: its spread in a bin is the observed one, and a sum of it is normal."""

    def __init__(self, table: Mapping[str, np.ndarray], resamples: int, seed: int):
        super().__init__(table, resamples, seed)
        self.row_sd = table["spread"][table["count"] > 0]
        self.gap_sd = self.row_sd / np.sqrt(self.count)

    def draws(self, gap: np.ndarray) -> np.ndarray:
        mean = self.drawn * np.clip(gap, self.confidence - 1.0, self.confidence)
        noise = np.random.default_rng(self.seed).standard_normal(self.drawn.shape)
        return np.abs(mean + noise * self.row_sd * np.sqrt(self.drawn)).sum(axis=1) / self.n


def shares_ece_interval(
    confidence, shares, level: float = 0.95, resamples: int = 1000, seed: int = 0, bins: int = BINS
) -> tuple[float, float]:
    """:func:`ece_interval` where a row's outcome is a share in [0, 1], such as that of the votes for its top label.

    ``confidence`` and ``shares`` float64 [N].  A bin of one row, or of equal outcomes, is given the spread of all rows.
    """
    tail = checked_tail(level, resamples)
    confidence, shares = np.asarray(confidence, np.float64), np.asarray(shares, np.float64)
    index = bin_index(confidence, bins)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(index, weights=v, minlength=bins) / count for v in (confidence, shares, shares**2)]
    gap = confidence - shares
    variance = means[2] - means[1] ** 2
    spread = np.where((count > 1) & (variance > 1e-12), np.sqrt(np.maximum(variance, 0.0)), gap.std())
    table = {"count": count, "confidence": means[0], "accuracy": means[1], "spread": np.maximum(spread, 1e-9)}
    return _ends(_SharesModel(table, resamples, seed), tail)


def proportion_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson (1927) score interval for a proportion of which ``k`` of ``n`` were seen."""
    if not 0 < level < 1:
        raise FerError(f"level is {level}: an interval needs one between 0 and 1, such as 0.95")
    if not 0 <= k <= n or n < 1:
        raise FerError(f"{k} of {n} is no proportion: pass 0 <= k <= n, n >= 1")
    z = float(ndtri(0.5 + level / 2.0))
    centre = (k + z * z / 2.0) / (n + z * z)
    half = z * np.sqrt(k * (n - k) / n + z * z / 4.0) / (n + z * z)
    return (0.0 if k == 0 else float(centre - half)), (1.0 if k == n else float(centre + half))


def chance_level(score: Mapping[str, Any]) -> float:
    """The accuracy of guessing among the classes that have rows; ``score``: with ``per_class_n``, else all classes."""
    return 1 / (sum(n > 0 for n in score.get("per_class_n", {}).values()) or NUM_CLASSES)


def chance_note(scores: Mapping[str, Mapping[str, Any]], smoke: bool = False) -> dict[str, str]:
    """``{"at chance": text}`` for the models whose accuracy guessing explains, else ``{}``; part of a headline.

    ``scores``: model name -> its :func:`fer_lib.calibration.metrics.summary`, all on the same rows.  Guessing explains
    an accuracy whose 95 % Wilson interval begins at or below :func:`chance_level`.
    """
    chance = max(map(chance_level, scores.values()), default=CHANCE)
    names = [
        name for name, s in scores.items() if proportion_interval(round(s["accuracy"] * s["n"]), s["n"])[0] <= chance
    ]
    if not names:
        return {}
    reason = "a smoke run trains too little to learn" if smoke else "the 95 % interval of the accuracy is not above it"
    return {"at chance": f"({chance:.2f}): {', '.join(names)}; {reason}"}


def bootstrap_confusions(pred, y, k: int, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Confusion counts int64 [resamples, k, k] of rows drawn with replacement (Efron 1979); row = true class.

    ``pred`` and ``y``: class ids [N].  Scores of these matrices give percentile intervals (:func:`percentiles`): for F1
    and the like, *not* for the ECE.  Raises DataError without rows, FerError for too few resamples.
    """
    checked_tail(0.95, resamples)
    confusion(pred, y, k)  # checks both
    cells, n = np.asarray(y) * k + np.asarray(pred), len(y)
    rng, counts = np.random.default_rng(seed), np.empty((resamples, k * k), np.int64)
    for i in range(resamples):
        counts[i] = np.bincount(cells[rng.integers(0, n, n)], minlength=k * k)
    return counts.reshape(resamples, k, k)


def percentiles(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval that leaves out the same share of resampled ``values`` [R] on either side."""
    tail = checked_tail(level, len(values))
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
