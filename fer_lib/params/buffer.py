"""Parameters of the buffer: which frames of a live session may be learned from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fer_lib.params.base import Count, Fraction, Positive, Strict


class BufferParams(Strict):
    """``fer live buffer`` (SPEC 10).  Probabilities are the calibrated ones of the frame itself, before smoothing."""

    positive: Fraction = 0.90  # from here on, and stable, a frame counts as one of its class
    negative: Fraction = 0.50  # from here on a frame says which class it is not; below it is ignored
    min_gap: Annotated[int, Field(ge=1)] = 10  # frames between any two that are taken
    cap: Count = 300  # frames of a class, of positives and of negatives each; 0: all
    context: Fraction = 0.5  # what is kept round a face on each side, as a share of its box's longer side
    block_sec: Positive = 10.0  # rows of one such stretch share a group, so that no split by groups parts neighbours

    @model_validator(mode="after")
    def _from_low_to_high(self):
        if self.negative > self.positive:
            raise ValueError(f"negative {self.negative} must not lie above positive {self.positive}")
        return self
