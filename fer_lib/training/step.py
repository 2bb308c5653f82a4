"""One optimiser step over micro-batches and processes, and the sum of the losses."""

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
from fer_lib.training.nested import BlockUpdates
from fer_lib.training.progress import Progress

_LOSS_CHECK_STEPS = 32  # between two transfers of losses from a device; each transfer waits for the device


class Objective(Protocol):
    """What a phase adds to the loop: its loss, its figures for the history, and its own state.

    ``state``: tensors that a checkpoint stores and that a resume sets in place.
    """

    state: dict[str, torch.Tensor]

    def loss(self, model: nn.Module, images: torch.Tensor, batch: Batch, epoch: float) -> torch.Tensor:
        """Loss of each sample, float32 [B]; ``epoch`` is fractional."""

    def figures(self, epoch: float) -> dict[str, float]:
        """Figures for the ``train`` section of an epoch's row, such as the margin; ``epoch`` of its last step."""


class Stepper:
    """Takes optimiser steps and sums their losses in ``progress``: ``loss_sum`` over ``loss_n`` rows.

    A batch is split into n = ``accum_steps`` x processes micro-batches.  Micro-batch k holds every n-th row from row k
    on, because a balanced batch is sorted by class and BatchNorm normalises each micro-batch alone.  Dropout and mixup
    are seeded by (seed, step, k): several processes take the same step as one with as many micro-batches.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimiser: Any,
        p: FitParams,
        context: SingleProcess,
        updates: BlockUpdates | None = None,
        progress: Progress | None = None,
    ):
        self.objective, self.optimiser, self.p, self.context = objective, optimiser, p, context
        self.updates, self.progress = updates, progress or Progress()
        compiled = torch.compile(model) if p.compile else model
        self.model = context.prepare_model(compiled)
        self.autocast = precision(p, context.device) == "bf16"
        apart = set() if updates is None else {q for block in updates.blocks for q in block}
        added = (q for group in optimiser.param_groups for q in group["params"])
        every = dict.fromkeys((*model.parameters(), *added))  # in this order: it decides the last bit of their norm
        self.parameters = [q for q in every if q.requires_grad and q not in apart]
        self._pending: list[tuple[torch.Tensor, int, float]] = []

    def __call__(self, batch: Batch, step: int, epoch: float) -> None:
        """Take one step.  FerError when the loss is not finite or the step does not fit into the device's memory."""
        try:
            self._step(batch, step, epoch)
        except torch.OutOfMemoryError as error:
            raise FerError(
                f"a step of {len(batch.rows)} rows in {self.p.accum_steps} parts does not fit into the memory of "
                f"{self.context.device}: raise accum_steps (the batch stays the same), or lower batch_size or "
                "image_size"
            ) from error

    def _step(self, batch: Batch, step: int, epoch: float) -> None:
        p, device, rows = self.p, self.context.device, len(batch.step_rows)
        self.optimiser.zero_grad(set_to_none=True)
        mean = torch.zeros((), device=device)
        # moved whole and sliced on the device: a slice of pinned memory is not contiguous
        batch_images = torch.from_numpy(batch.images).to(device, non_blocking=True)
        for k in range(p.accum_steps):
            part = slice(k, None, p.accum_steps)
            micro_batch = Batch(batch.rows[part], batch.images[part], batch.labels[part], batch.step_rows)
            images = batch_images[part].contiguous(memory_format=torch.channels_last)
            _seed_generators(device, p.seed, step, k * self.context.num_processes + self.context.process_index)
            last = k + 1 == p.accum_steps
            with nullcontext() if last else self.context.no_sync(self.model):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                    losses = self.objective.loss(self.model, images, micro_batch, epoch)
                    loss = losses.sum() * (self.context.num_processes / rows)
                loss.backward()
            mean += loss.detach()
        self._pending.append((self.context.reduce(mean, "mean"), rows, epoch))
        if device.type == "cpu" or len(self._pending) >= _LOSS_CHECK_STEPS:
            self.collect_losses()
        if self.updates is not None:
            self.updates(step)
        if p.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.parameters, p.clip_grad)
        self.optimiser.step()

    def collect_losses(self) -> None:
        """Add the losses of the steps since the last call; FerError when one is not finite."""
        pending, self._pending = self._pending, []
        values = torch.stack([mean for mean, _, _ in pending]).tolist() if pending else []
        for value, (_, rows, epoch) in zip(values, pending, strict=True):
            if not math.isfinite(value):
                raise divergence_error(f"the loss became {value}", epoch, self.p)
            self.progress.loss_sum += value * rows
            self.progress.loss_n += rows


def divergence_error(event: str, epoch: float, p: FitParams) -> FerError:
    """The error of a training that diverged; ``event`` says what was observed."""
    return FerError(
        f"{event} in epoch {epoch:.2f}: lower lr (now {p.lr}), set clip_grad to 1, or use precision fp32; with these "
        "parameters the same would happen again"
    )


def precision(p: FitParams, device: torch.device) -> str:
    """``p.precision``; ``auto`` is bf16 on a CUDA device that computes in bf16, and fp32 elsewhere."""
    if p.precision != "auto":
        return p.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _seed_generators(device: torch.device, seed: int, step: int, part: int) -> None:
    """Seed the CPU's and the device's generator; ``torch.manual_seed`` seeds all backends, which takes 0.4 ms."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}:{step}:{part}".encode(), digest_size=7).digest())
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
