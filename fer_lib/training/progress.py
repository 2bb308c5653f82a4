"""The progress of a fit: its counters, the rows of ``history.json``, step events, and warnings about slow epochs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fer_lib.devices import peak_memory_gb
from fer_lib.params import FitParams

if TYPE_CHECKING:
    from fer_lib.training.step import Objective

SLOW_RATE = 0.5  # of the median images/s
MIN_LOST_SECONDS = 1.0  # shorter losses are noise of the clock
_IDLE = {  # what to do when a part of the training is applied to nothing
    "negl": "lower negative.entropy, raise negative.ratio, or choose another negative.draw",
    "selnlpl": "no row has a running mean of p_y that high: train for more epochs, or raise the first of the shares",
    "prototypes": "no row passed the gate: lower nested.gate_threshold, or set nested.gate: top",
    "blocks": "every interval is longer than the epoch: set smaller nested.intervals",
}


@dataclass
class Progress:
    """What a checkpoint stores beside its tensors."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0  # over the samples of the running epoch
    loss_n: int = 0
    epoch_seconds: float = 0.0
    wait_seconds: float = 0.0  # part of epoch_seconds, spent waiting for batches
    total_seconds: float = 0.0


def step_event(state: Progress, steps: int, total: int, seconds: float) -> dict[str, Any]:
    """A ``step`` event: position, mean loss and images/s of the running epoch, which has taken ``seconds``."""
    n = state.loss_n
    rates = {"loss": state.loss_sum / n, "images_per_sec": n / max(seconds, 1e-9)} if n else {}
    return {"event": "step", "step": state.step, "total_steps": total, "epoch": state.step / steps, **rates}


def history_row(
    epoch: int, state: Progress, steps: int, lr: float, coverage: np.ndarray, objective: Objective, p: FitParams,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """The row of an epoch of ``steps`` steps before validation.

    ``coverage`` bool [N_train]: rows used so far.  ``lr`` and the objective's figures are those of the last step.
    """
    figures = objective.figures((state.step - 1) / steps)
    return {
        "epoch": epoch,
        "train": {"loss": state.loss_sum / state.loss_n, "coverage": float(coverage.mean()), **figures},
        "val": None,
        "calibration": {"mode": p.calibration, "temperature": None},
        "lr": lr,
        "timing": {
            "epoch_sec": state.epoch_seconds,
            "total_sec": state.total_seconds + state.epoch_seconds,
            "images_per_sec": state.loss_n / max(state.epoch_seconds, 1e-9),
            "data_wait_share": state.wait_seconds / max(state.epoch_seconds, 1e-9),
            "peak_memory_gb": peak_memory_gb(device),
        },
    }


def slow_epoch_warning(history: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """A warning when the epoch of ``row`` ran below ``SLOW_RATE`` and lost ``MIN_LOST_SECONDS``; else blank."""
    rates = [earlier["timing"]["images_per_sec"] for earlier in history]
    usual = statistics.median(rates or [0.0])
    rate, wait = row["timing"]["images_per_sec"], row["timing"]["data_wait_share"]
    if rate >= SLOW_RATE * usual or row["timing"]["epoch_sec"] * (1 - rate / usual) < MIN_LOST_SECONDS:
        return ""
    cause = (
        f"{wait:.0%} of the time went into waiting for batches: raise workers, or look at the disk"
        if wait > 0.5
        else f"device memory may be spilling into host memory (peak {row['timing']['peak_memory_gb']:.1f} GB: lower "
        "batch_size and raise accum_steps), or another program is using this machine"
    )
    return f"epoch {row['epoch'] + 1} ran at {rate:.4g} images/s, earlier ones at {usual:.4g}: {cause}"


def idle_warnings(p: FitParams, row: dict[str, Any]) -> list[str]:
    """A warning for each of negative and nested learning that is on and had no effect in the epoch of ``row``."""
    parts = {"negl": ("negative", p.negative.method), "nested": ("nested", p.nested.kind)}
    return [
        f"epoch {row['epoch'] + 1}: {name} learning was applied to nothing ({name}: {kind}): {_IDLE[kind]}"
        for key, (name, kind) in parts.items()
        if kind in _IDLE and row["train"].get(f"{key}_applied_frac") == 0.0
    ]
