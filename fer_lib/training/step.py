"""One optimiser step, in micro-batches and over the processes of a team, and the loss that it came to."""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from fer_lib.datasets.batches import Batch
from fer_lib.errors import FerError
from fer_lib.params import FitParams
from fer_lib.training.distributed import SingleProcess

_LOOK_EVERY = 32  # steps between two looks at the losses on a device that would have to wait for them


class Objective(Protocol):
    """What a phase adds to the loop: its loss, and the figures it wants in the history."""

    def loss(self, model: nn.Module, images: torch.Tensor, batch: Batch, epoch: float) -> torch.Tensor:
        """Loss of each sample, float32 [B]; ``epoch`` is fractional."""

    def figures(self, epoch: float) -> dict[str, float]:
        """Figures of the epoch's ``train`` section (margin, for one)."""


class Stepper:
    """Takes steps, and keeps the sum of their losses (``loss_sum``, over ``loss_n`` rows) since it was last set.

    A batch is cut into ``accum_steps`` x team size micro-batches; micro-batch k holds every such-and-such row from the
    k-th on, for a balanced batch stands class by class and BatchNorm sees each micro-batch by itself.  Dropout and
    mixup are drawn from (seed, step, k), so that a team takes the same step as one process with as many micro-batches.
    """

    def __init__(self, model: nn.Module, objective: Objective, optimiser: Any, p: FitParams, team: SingleProcess):
        self.objective, self.optimiser, self.p, self.team = objective, optimiser, p, team
        compiled = torch.compile(model) if p.compile else model
        self.model = team.wrap(compiled)
        self.autocast = precision(p, team.device) == "bf16"
        self.parameters = [q for q in model.parameters() if q.requires_grad]
        self.loss_sum, self.loss_n = 0.0, 0
        self._unseen: list[tuple[torch.Tensor, int, float]] = []

    def __call__(self, batch: Batch, step: int, epoch: float) -> None:
        """Raises FerError when the loss is not a finite number, or the card's memory does not hold the step."""
        try:
            self._take(batch, step, epoch)
        except torch.OutOfMemoryError as error:
            raise FerError(
                f"a step of {len(batch.rows)} rows in {self.p.accum_steps} parts does not fit into the memory of "
                f"{self.team.device}: raise accum_steps (the batch stays the same), or lower batch_size or image_size"
            ) from error

    def _take(self, batch: Batch, step: int, epoch: float) -> None:
        p, device, rows = self.p, self.team.device, len(batch.step_rows)
        self.optimiser.zero_grad(set_to_none=True)
        mean = torch.zeros((), device=device)
        whole = torch.from_numpy(batch.images).to(device, non_blocking=True)  # cut there: a cut is no pinned memory
        for k in range(p.accum_steps):
            part = slice(k, None, p.accum_steps)
            piece = Batch(batch.rows[part], batch.images[part], batch.labels[part], batch.step_rows)
            images = whole[part].contiguous(memory_format=torch.channels_last)
            _seed_generators(device, _seed(p.seed, step, k * self.team.size + self.team.rank))
            last = k + 1 == p.accum_steps
            with nullcontext() if last else self.team.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                    loss = self.objective.loss(self.model, images, piece, epoch).sum() * (self.team.size / rows)
                loss.backward()
            mean += loss.detach()
        self._unseen.append((self.team.mean(mean), rows, epoch))
        if device.type == "cpu" or len(self._unseen) >= _LOOK_EVERY:
            self.look()
        if p.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.parameters, p.clip_grad)
        self.optimiser.step()

    def look(self) -> None:
        """Add up the losses of the steps since the last look; FerError when one is not a finite number."""
        unseen, self._unseen = self._unseen, []
        values = torch.stack([mean for mean, _, _ in unseen]).tolist() if unseen else []
        for value, (_, rows, epoch) in zip(values, unseen, strict=True):
            if not math.isfinite(value):
                raise diverged(f"the loss became {value}", epoch, self.p)
            self.loss_sum += value * rows
            self.loss_n += rows


def diverged(what: str, epoch: float, p: FitParams) -> FerError:
    """The error of a training that left the finite numbers."""
    return FerError(
        f"{what} in epoch {epoch:.2f}: lower lr (now {p.lr}), set clip_grad to 1, or use precision fp32; with these "
        "parameters the same would happen again"
    )


def precision(p: FitParams, device: torch.device) -> str:
    """``auto`` made out: bf16 where a CUDA card computes in it, fp32 anywhere else."""
    if p.precision != "auto":
        return p.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _seed_generators(device: torch.device, seed: int) -> None:
    """What ``torch.manual_seed`` does for the generators in use; for all that could be it takes 0.4 ms."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _seed(seed: int, step: int, part: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{step}:{part}".encode(), digest_size=7).digest())
