"""Prior correction: a model's posteriors for a population whose classes are not as frequent as in its training."""

from collections.abc import Sequence

import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError

UNIFORM = tuple([1.0 / NUM_CLASSES] * NUM_CLASSES)


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
