"""Learning rate and margin as pure functions of progress.  A resume has no schedule state to restore."""

from __future__ import annotations

import math


def learning_rate(step: int, *, total_steps: int, warmup_steps: int, peak: float, floor: float) -> float:
    """Linear warm-up to ``peak`` over ``warmup_steps``, then a cosine to ``floor`` at the last of ``total_steps``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    span = max(1, total_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / span)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def as_epochs(value: float, epochs: int) -> float:
    """``value`` in epochs; a value between 0 and 1 is a fraction of the run of ``epochs``."""
    return value * epochs if 0.0 < value < 1.0 else value


def margin(epoch: float, *, start: float, end: float, top: float) -> float:
    """ArcFace's margin at a fractional epoch: 0 up to ``start``, linear to ``top`` at ``end``, ``top`` afterwards."""
    if epoch < start or top == 0.0:
        return 0.0
    return top if epoch >= end else top * (epoch - start) / (end - start)
