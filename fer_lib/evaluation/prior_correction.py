"""Prior correction in an evaluation: the class shares of each source, and what correcting for them changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.prior_shift import UNIFORM, checked_prior, estimate_prior, prior_correction
from fer_lib.emotions import EMOTIONS
from fer_lib.evaluation.paired_comparison import LogitPair, compare


@dataclass(frozen=True)
class CorrectedLogits:
    """``logits`` float64 [N, 7], corrected for the class shares of each row's source; ``by_source``: these shares."""

    logits: np.ndarray
    by_source: dict[str, dict[str, Any]]

    def report(self, scaled: np.ndarray, y: np.ndarray, keep: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
        """What the correction of ``scaled`` [N, 7] changes on the rows ``keep`` bool [N] with labels ``y`` [N].

        ``corrected``: all scores after it.  ``difference`` and ``mcnemar`` of
        :func:`fer_lib.evaluation.paired_comparison.compare`, with ``macro_f1_present`` over the classes that have rows.
        """
        change = compare(LogitPair(scaled[keep], self.logits[keep], y[keep]), resamples, seed)
        # an absent class has an F1 of 0 before and after, so both means have the same sum
        ratio = scaled.shape[1] / len(np.unique(y[keep]))
        present = {end: value * ratio for end, value in change["difference"]["macro_f1"].items()}
        difference = change["difference"] | {"macro_f1_present": present}
        return {"corrected": metrics.summary(self.logits[keep], y[keep])} | change | {"difference": difference}


def correct_prior(
    scaled: np.ndarray, sources: np.ndarray, train: np.ndarray, method: str | Sequence[float]
) -> CorrectedLogits:
    """Correct ``scaled`` float64 [N, 7], of rows from ``sources`` [N], from the training prior ``train`` [7].

    ``method``: ``em`` estimates the class shares of each source from its unlabelled rows, ``uniform`` and seven shares
    are the same for all.  Raises DataError for shares that are no prior.
    """
    logits, by_source = scaled.copy(), {}
    for source in sorted(set(sources)):
        rows = sources == source
        about: dict[str, Any] = {}
        if method == "em":
            estimate = estimate_prior(metrics.softmax(scaled[rows]), train)
            target, about = estimate.prior, {"iterations": estimate.iterations, "converged": estimate.converged}
        else:
            target = target_prior(method)
        logits[rows] += prior_correction(train, target)
        by_source[source] = {"target_prior": dict(zip(EMOTIONS, target.tolist(), strict=True)), **about}
    return CorrectedLogits(logits, by_source)


def target_prior(method: str | Sequence[float]) -> np.ndarray:
    """float64 [7] of ``uniform`` or seven shares; DataError for anything else."""
    return checked_prior(UNIFORM if method == "uniform" else method)
