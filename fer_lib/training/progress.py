"""Where a fit stands, and what is said of it: the rows of ``history.json``, the line of a running epoch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fer_lib.devices import peak_memory_gb
from fer_lib.params import FitParams
from fer_lib.training.step import Objective, Stepper

COLLAPSE = 0.5  # of the usual images/s
LOST = 1.0  # seconds that an epoch must have lost


@dataclass
class Progress:
    """Where a fit stands: what a checkpoint holds beside tensors."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0  # over the samples of the running epoch
    loss_n: int = 0
    epoch_seconds: float = 0.0
    wait_seconds: float = 0.0  # of these, waiting for batches
    total_seconds: float = 0.0


def running(state: Progress, stepper: Stepper, steps: int, total: int, seconds: float) -> dict[str, Any]:
    """A ``step`` event: how far, the epoch's mean loss so far, and images/s of this epoch."""
    n = stepper.loss_n
    rates = {"loss": stepper.loss_sum / n, "images_per_sec": n / max(seconds, 1e-9)} if n else {}
    return {"event": "step", "step": state.step, "total_steps": total, "epoch": state.step / steps, **rates}


def history_row(
    epoch: int, state: Progress, steps: int, lr: float, seen: np.ndarray, objective: Objective, p: FitParams,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """What is known of an epoch of ``steps`` steps before validation; ``lr`` and the figures are its last step's."""
    figures = objective.figures((state.step - 1) / steps)
    return {
        "epoch": epoch,
        "train": {"loss": state.loss_sum / state.loss_n, "coverage": float(seen.mean()), **figures},
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


def collapse(history: list[dict[str, Any]], row: dict[str, Any]) -> str:
    """What to say of an epoch that ran at less than half the usual pace and lost ``LOST`` seconds by it; blank for any
    other: what lasts less is the clock's noise."""
    before = [earlier["timing"]["images_per_sec"] for earlier in history]
    usual = statistics.median(before or [0.0])
    rate, wait = row["timing"]["images_per_sec"], row["timing"]["data_wait_share"]
    if rate >= COLLAPSE * usual or row["timing"]["epoch_sec"] * (1 - rate / usual) < LOST:
        return ""
    cause = (
        f"{wait:.0%} of the time went into waiting for batches: raise workers, or look at the disk"
        if wait > 0.5
        else f"device memory may be spilling into the host's (peak {row['timing']['peak_memory_gb']:.1f} GB: lower "
        "batch_size and raise accum_steps), or something else is using this machine"
    )
    return f"epoch {row['epoch'] + 1} ran at {rate:.4g} images/s, earlier ones at {usual:.4g}: {cause}"
