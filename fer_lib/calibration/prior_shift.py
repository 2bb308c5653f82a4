"""Prior correction: a model's posteriors for a population whose classes are not as frequent as in its training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_lib.calibration.metrics import checked_probs
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError

UNIFORM = tuple([1.0 / NUM_CLASSES] * NUM_CLASSES)
SMALLEST = 1e-9  # share of a class that EM finds no row of: the correction is a finite logarithm


def checked_prior(prior: Sequence[float]) -> np.ndarray:
    """float64 [7] of shares that sum to 1 and are above 0; DataError for anything else."""
    shares = np.asarray(prior, np.float64)
    if shares.shape != (NUM_CLASSES,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise DataError(
            f"a target prior is {NUM_CLASSES} shares above 0, in the order {', '.join(EMOTIONS)}; got {list(prior)}"
        )
    if abs(shares.sum() - 1.0) > 1e-6:
        raise DataError(f"a target prior sums to 1, and {[float(x) for x in shares]} sums to {shares.sum():.6g}")
    return shares


def prior_correction(train: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """log(target / train), float64 [7], to be added to calibrated logits (Saerens 2002, eq. 2.4).

    By Bayes' rule p'(y | x) is proportional to p(y | x) target(y) / train(y), as long as the faces of a class look
    alike in both populations.  ``train``: the prior that the loss saw, as the bundle keeps it; a class that it never
    saw stays as the model has it.  Raises DataError when ``target`` is no prior.
    """
    train = np.asarray(train, np.float64)
    in_training = train > 0
    correction = np.zeros(NUM_CLASSES)
    correction[in_training] = np.log(checked_prior(target)[in_training] / train[in_training])
    return correction


@dataclass(frozen=True)
class PriorEstimate:
    """``prior`` float64 [7], every share above 0; ``converged``: no share changed by more than the tolerance."""

    prior: np.ndarray
    iterations: int
    converged: bool


def estimate_prior(
    probs, train: Sequence[float], tolerance: float = 1e-7, max_iterations: int = 10_000
) -> PriorEstimate:
    """The class shares of unlabelled rows, by EM from the prior of training (Saerens 2002, eq. 2.9).

    ``probs`` float64 [N, 7]: calibrated posteriors under the prior ``train`` [7].  Each iteration corrects the
    posteriors by the shares so far and takes their mean as the next shares, which never lowers the likelihood of the
    rows.  A class that training never saw keeps its posterior, as in :func:`prior_correction`.
    Posteriors equal to the prior say nothing and leave it as it is.  Other posteriors that are all equal end at the one
    class that they raise most.  Raises DataError when ``probs`` are no probabilities of seven classes, or without rows.
    """
    probs, train = checked_probs(probs)[0], np.asarray(train, np.float64)
    if probs.shape[1] != NUM_CLASSES:
        raise DataError(f"probabilities have shape {probs.shape}: a prior is estimated from [N, {NUM_CLASSES}]")
    prior, in_training, iterations, converged = train, train > 0, 0, False
    while not converged and iterations < max_iterations:
        joint = probs * np.divide(prior, train, out=np.ones(NUM_CLASSES), where=in_training)
        before, prior = prior, (joint / joint.sum(axis=1, keepdims=True)).mean(axis=0)
        converged, iterations = bool(np.abs(prior - before).max() <= tolerance), iterations + 1
    floored = np.maximum(prior, SMALLEST)
    return PriorEstimate(floored / floored.sum(), iterations, converged)
