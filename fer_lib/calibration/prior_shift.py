"""Prior correction: a model's posteriors for a population whose classes are not as frequent as in its training."""

from collections.abc import Sequence

import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError

UNIFORM = tuple([1.0 / NUM_CLASSES] * NUM_CLASSES)


def checked_prior(prior: Sequence[float]) -> np.ndarray:
    """float64 [7] of shares that sum to 1 and are above 0; DataError for anything else."""
    found = np.asarray(prior, np.float64)
    if found.shape != (NUM_CLASSES,) or not np.isfinite(found).all() or (found <= 0).any():
        raise DataError(
            f"a target prior is {NUM_CLASSES} shares above 0, in the order {', '.join(EMOTIONS)}; got {list(prior)}"
        )
    if abs(found.sum() - 1.0) > 1e-6:
        raise DataError(f"a target prior sums to 1, and {[float(x) for x in found]} sums to {found.sum():.6g}")
    return found


def prior_correction(train: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """log(target / train), float64 [7], to be added to calibrated logits (Saerens 2002, eq. 2.4).

    By Bayes' rule p'(y | x) is proportional to p(y | x) target(y) / train(y), as long as the faces of a class look
    alike in both populations.  ``train``: the prior that the loss saw, as the bundle keeps it; a class that it never
    saw stays as the model has it.  Raises DataError when ``target`` is no prior.
    """
    train = np.asarray(train, np.float64)
    known = train > 0
    correction = np.zeros(NUM_CLASSES)
    correction[known] = np.log(checked_prior(target)[known] / train[known])
    return correction
