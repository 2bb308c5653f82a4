"""Conformal prediction sets, and a confidence below which a model answers "Unknown".

A set holds the true class with probability at least 1 - alpha over the draw of the calibration rows and of the new row,
if these are exchangeable; per class, with that probability for each true class.  Scores of class y, p sorted from the
largest, r the rank of y (ties in the order of the classes), u uniform in [0, 1):

- ``lac`` (Sadinle 2019): 1 - p_y.  The smallest sets on average;
- ``aps`` (Romano 2020): sum of the probabilities above p_y, plus u p_y.  Sets grow with the difficulty of the row;
- ``raps`` (Angelopoulos 2021): the same plus penalty x max(0, r - free_ranks), which cuts long tails.

The threshold is the k-th smallest score of the calibration rows, k = ceil((n + 1)(1 - alpha)), and a set holds the
classes whose score does not exceed it; with k > n it holds all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import beta

from fer_lib.calibration.metrics import checked_probs, class_names, top_label
from fer_lib.calibration.temperature import View
from fer_lib.errors import DataError, FerError

Method = Literal["lac", "aps", "raps"]
START = 5
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class ConformalSets(BaseModel):
    """Thresholds of one score.  ``thresholds``: one, or one a class (``per_class``); None: every row has that class."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: Method
    alpha: Share
    per_class: bool
    thresholds: list[Annotated[float, Field(allow_inf_nan=False)] | None] = Field(min_length=1)
    n: list[Annotated[int, Field(ge=0)]]  # calibration rows of each threshold
    penalty: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0  # raps
    free_ranks: Annotated[int, Field(ge=0)] = 0  # raps
    fitted_on: str = ""
    view: View | None = None  # of the logits behind the probabilities

    def sets(self, probs, uniform=None) -> np.ndarray:
        """Which classes each row's set holds, bool [N, K], for probabilities [N, K].

        ``uniform`` float64 [N] in [0, 1): the draw of each row for ``aps`` and ``raps``; None: 0 for every row, whose
        sets are larger and cover at least as often.  A set may be empty: no class conforms.
        Raises DataError for another number of classes than the thresholds'.
        """
        probs, _ = checked_probs(probs)
        if self.per_class and probs.shape[1] != len(self.thresholds):
            raise DataError(
                f"{probs.shape[1]} classes, {len(self.thresholds)} conformal thresholds: use those fitted on this model"
            )
        limits = np.array([np.inf if t is None else t for t in self.thresholds])
        return scores(probs, self.method, uniform, self.penalty, self.free_ranks) <= limits


def scores(probs, method: Method, uniform=None, penalty: float = 0.0, free_ranks: int = 0) -> np.ndarray:
    """The score of every class, float64 [N, K]; see the module.  ``uniform`` [N]: u of each row, None: 0."""
    probs, _ = checked_probs(probs)
    if method == "lac":
        return 1.0 - probs
    if method not in ("aps", "raps"):
        raise FerError(f"conformal method {method!r} is unknown: use lac, aps or raps")
    u = np.zeros(len(probs)) if uniform is None else np.asarray(uniform, np.float64)
    if u.shape != (len(probs),) or not ((u >= 0) & (u <= 1)).all():
        raise DataError(f"uniform draws of shape {u.shape} where {len(probs)} rows need one in [0, 1) each")
    order = np.argsort(-probs, axis=1, kind="stable")
    ranked = np.take_along_axis(probs, order, axis=1)
    total = np.cumsum(ranked, axis=1) - ranked + u[:, None] * ranked
    if method == "raps":
        total += penalty * np.maximum(0, np.arange(1, probs.shape[1] + 1) - free_ranks)
    return np.take_along_axis(total, np.argsort(order, axis=1), axis=1)


def fit(
    probs,
    y,
    alpha: float = 0.1,
    method: Method = "lac",
    per_class: bool = False,
    seed: int = 0,
    penalty: float = 0.01,
    free_ranks: int = 2,
    fitted_on: str = "val/conformal",
    view: View = "none",
) -> ConformalSets:
    """Thresholds from calibration rows that chose nothing else: ``probs`` [N, K], ``y`` int [N].

    ``seed``: of the draws u.  ``penalty`` and ``free_ranks`` belong to ``raps``.  With fewer rows than 1 / alpha - 1
    every set holds all classes; with ``per_class``, the class that has too few.
    """
    probs, y = checked_probs(probs, y)
    if not 0 < alpha < 1:
        raise FerError(f"alpha is {alpha}: a share of sets that may miss the class, such as 0.1")
    if method != "raps":
        penalty, free_ranks = 0.0, 0
    u = np.random.default_rng(seed).random(len(y))
    own = scores(probs, method, u, penalty, free_ranks)[np.arange(len(y)), y]
    groups = [own[y == k] for k in range(probs.shape[1])] if per_class else [own]
    return ConformalSets(
        method=method, alpha=float(alpha), per_class=per_class, thresholds=[_threshold(g, alpha) for g in groups],
        n=[len(g) for g in groups], penalty=float(penalty), free_ranks=free_ranks, fitted_on=fitted_on, view=view,
    )  # fmt: skip


def rank_of_threshold(n: int, alpha: float) -> int:
    """ceil((n + 1)(1 - alpha)) in exact arithmetic of the decimal ``alpha``: 0.1 is a tenth."""
    share = (n + 1) * (1 - Fraction(repr(float(alpha))))
    return -(-share.numerator // share.denominator)


def _threshold(own: np.ndarray, alpha: float) -> float | None:
    k = rank_of_threshold(len(own), alpha)
    return None if k > len(own) else float(np.partition(own, k - 1)[k - 1])


def set_report(sets: np.ndarray, y) -> dict[str, Any]:
    """Coverage, by class too (None: absent), mean size, and the share of rows of each size, of ``sets`` bool [N, K]."""
    y = np.asarray(y)
    hit, sizes = sets[np.arange(len(y)), y], sets.sum(axis=1)
    names = class_names(sets.shape[1])
    by_class = {name: float(hit[y == k].mean()) if (y == k).any() else None for k, name in enumerate(names)}
    shares = np.bincount(sizes, minlength=sets.shape[1] + 1) / len(y)
    return {"n": len(y), "coverage": float(hit.mean()), "coverage_by_class": by_class,
            "mean_size": float(sizes.mean()), "size_shares": shares.tolist()}  # fmt: skip


def confidence_for_risk(probs, y, risk: float, delta: float = 0.05, steps: Sequence[float] | None = None) -> float:
    """The least confidence at which a model should answer, so that its answers are wrong at most ``risk`` of the time.

    That holds with probability 1 - ``delta`` over the draw of the rows, by fixed-sequence testing (Angelopoulos 2022).
    From the highest of ``steps`` (None: 0.99, 0.98 ... 0) that leaves enough rows downwards, each confidence is taken
    whose answers show an error rate below ``risk`` by the exact upper bound (Clopper and Pearson 1934), up to the first
    that does not.  Enough rows: :data:`START` times as many as would show it without an error.

    Returns the lowest confidence taken.  Raises FerError when none is: the rows don't show that risk at any confidence.
    """
    confidence, correct = top_label(probs, y)
    if not 0 < risk < 1 or not 0 < delta < 1:
        raise FerError(f"risk {risk} and delta {delta} must be shares between 0 and 1, such as 0.1 and 0.05")
    enough = min(len(confidence), START * np.log(delta) / np.log1p(-risk))
    taken = None
    for least in np.arange(99, -1, -1) / 100 if steps is None else sorted(steps, reverse=True):
        answered = confidence >= least
        n, wrong = int(answered.sum()), int((1 - correct)[answered].sum())
        if n < enough:  # decided by the confidences alone, so the sequence is fixed before a label is looked at
            continue
        if wrong == n or beta.ppf(1 - delta, wrong + 1, n - wrong) > risk:
            break
        taken = float(least)
    if taken is None:
        raise FerError(
            f"no confidence shows a risk of at most {risk:g} on {len(confidence):,} rows (certain to {1 - delta:g}): "
            "accept a higher risk, or pass more rows"
        )
    return taken
