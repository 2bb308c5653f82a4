"""Two uncertainties of a prediction, without training again: of the data and of the model.

- Of the data: the entropy of the calibrated probabilities, in nats.  A prediction is ambiguous when its largest
  probability is below 1/2, so that the other classes together are more likely.
- Of the model: the energy -log sum_k exp s_k of the scaled logits s (Liu 2020, divided by T).  A face is unlike what
  the model was trained on when its energy is above a limit that few calibration rows exceed.

``benchmarks/uncertainty.py`` compares the energy with other scores.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import entr, logsumexp

from fer_lib.calibration.conformal import Share, threshold
from fer_lib.calibration.metrics import checked_logits
from fer_lib.calibration.temperature import View

AMBIGUOUS, UNLIKE = "ambiguous", "unlike what this model was trained on"


class EnergyLimit(BaseModel):
    """A new row like the calibration rows has an energy above ``value`` with a probability of at most ``share``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    value: Annotated[float, Field(allow_inf_nan=False)]
    share: Share
    n: Annotated[int, Field(ge=0)]
    fitted_on: str = ""
    view: View | None = None  # of the logits


def energy(scaled) -> np.ndarray:
    """float64 [N] of logits [N, K] after the temperature."""
    return -logsumexp(checked_logits(scaled)[0], axis=1)


def entropy(probs) -> np.ndarray:
    """float64 [N] in nats, of probabilities [N, K]."""
    return entr(probs).sum(axis=1)


def fit_energy_limit(
    scaled, share: float = 0.01, fitted_on: str = "val/conformal", view: View = "none"
) -> EnergyLimit | None:
    """The limit from calibration rows that were not trained on, logits [N, K] after the temperature.

    None with fewer than 1 / share - 1 rows.
    """
    values = energy(scaled)
    if (value := threshold(values, share)) is None:
        return None
    return EnergyLimit(value=value, share=share, n=len(values), fitted_on=fitted_on, view=view)


def notes(confidence: float, energy: float | None, limit: EnergyLimit | None) -> list[str]:
    """What to say of one prediction: :data:`UNLIKE`, :data:`AMBIGUOUS`, both or nothing."""
    unlike = limit is not None and energy is not None and energy > limit.value
    found = {UNLIKE: unlike, AMBIGUOUS: confidence < 0.5}
    return [note for note, holds in found.items() if holds]
