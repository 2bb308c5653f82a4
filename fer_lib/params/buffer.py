"""Parameters of the buffer: the frames of a live session that a model may learn from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fer_lib.params.base import Count, Fraction, Positive
from fer_lib.params.strict import Strict


class BufferParams(Strict):
    """``fer live buffer``.  Probabilities are calibrated ones of single frames, before smoothing."""

    positive: Fraction = 0.90  # from here a stable frame is a positive of its class
    negative: Fraction = 0.50  # from here a frame is a negative; below it is ignored
    min_gap: Annotated[int, Field(ge=1)] = 10  # frames between two selected ones
    cap: Count = 300  # frames per class, of positives and of negatives each; 0: all
    context: Fraction = 0.5  # margin around a face on each side, as a share of its box's longer side
    block_sec: Positive = 10.0  # rows of one block share a group, so that splits do not separate neighbours

    @model_validator(mode="after")
    def _check_thresholds(self):
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} must not lie above positive {self.positive}")
        return self
