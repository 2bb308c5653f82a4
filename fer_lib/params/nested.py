"""Parameters of nested learning in teachers and students (Behrouz et al. 2025)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fer_lib.params.base import Fraction, Positive
from fer_lib.params.strict import Strict


class NestedParams(Strict):
    """``kind``: residual ``blocks``, or the ``prototypes`` of an earlier variant, for comparison.

    ``blocks``: one residual block per interval between embedding and head; block l is updated every ``intervals[l]``
    steps by the sum of its gradients.  ``prototypes``: a loss that is part of the training alone.
    """

    kind: Literal["off", "blocks", "prototypes"] = "off"
    intervals: Annotated[list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1, max_length=8)] = [1, 4, 16]
    lr_scale: list[Positive] = []  # learning rate of each block as a multiple of lr; blank: 1
    weight: Annotated[float, Field(ge=0.0)] = 0.1  # of the prototype loss
    prototype_dim: Annotated[int, Field(ge=2, le=8192)] = 32
    prototype_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    gate: Literal["threshold", "top"] = "threshold"
    gate_threshold: Fraction = 0.2  # rows with 1 - p_y of at least this
    gate_top: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1  # or this share of the rows, those with the largest 1 - p_y

    @model_validator(mode="after")
    def _check_rates(self):
        if self.lr_scale and len(self.lr_scale) != len(self.intervals):
            raise ValueError(
                f"lr_scale has {len(self.lr_scale)} values for {len(self.intervals)} intervals: give one per interval, "
                "or leave it blank"
            )
        return self
