"""Training of a teacher: ArcFace (Deng 2019) over balanced batches, with margin 0 first and then a linear ramp."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fer_lib.datasets.manifest import Manifest
from fer_lib.models.losses import arcface_logits, mixup
from fer_lib.params import TeacherParams
from fer_lib.training.fit import run_fit
from fer_lib.training.fit_inputs import FitData
from fer_lib.training.label_objective import LabelObjective


class TeacherObjective(LabelObjective):
    """The label loss over ArcFace's logits at the epoch's margin; over the head's logits for a linear head.

    With mixup (Zhang 2018) the loss of a row is split between its label and its partner's label.  The margin is on the
    class of the respective label.  Negative learning reads the logits without a margin.
    """

    def __init__(self, p: TeacherParams, data: FitData, device: torch.device):
        super().__init__(p, data, device)
        self.start, self.end = as_epochs(p.plain_epochs, p.epochs), as_epochs(p.ramp_end, p.epochs)

    def margin(self, epoch: float) -> float:
        if self.p.head == "linear":
            return 0.0
        return margin(epoch, start=self.start, end=self.end, top=self.p.arcface_m)

    def loss(self, model, images, batch, epoch):
        y = torch.from_numpy(batch.labels).to(images.device)
        targets = self.targets(y, torch.from_numpy(batch.rows))
        partner_y = None
        if not self.p.mixup:
            scores = model(images, scaled=False)
            loss = self._margin_loss(scores, y, targets, epoch)
        else:
            mixed, partner, share = mixup(images, self.p.mixup)
            scores, partner_y = model(mixed, scaled=False), y[partner]
            partner_loss = self._margin_loss(scores, partner_y, targets[partner], epoch)
            loss = share * self._margin_loss(scores, y, targets, epoch) + (1.0 - share) * partner_loss
        if self.negative is None:
            return loss
        logits = scores * self.p.arcface_s if self.p.head == "cosine" else scores
        loss, negative = self.negative(logits, y, loss, batch.rows, epoch, partner_y)
        return loss + negative

    def _margin_loss(self, scores: torch.Tensor, y: torch.Tensor, targets: torch.Tensor, epoch: float) -> torch.Tensor:
        if self.p.head == "cosine":
            scores = arcface_logits(scores, y, self.p.arcface_s, self.margin(epoch))
        return self.label_loss(scores, y, targets)

    def figures(self, epoch):
        return {"arcface_margin": self.margin(epoch)} | super().figures(epoch)


def as_epochs(value: float, epochs: int) -> float:
    """``value`` in epochs; a value between 0 and 1 is a fraction of the run of ``epochs``."""
    return value * epochs if 0.0 < value < 1.0 else value


def margin(epoch: float, *, start: float, end: float, top: float) -> float:
    """ArcFace's margin at a fractional epoch: 0 up to ``start``, linear to ``top`` at ``end``, ``top`` afterwards."""
    if epoch < start or top == 0.0:
        return 0.0
    return top if epoch >= end else top * (epoch - start) / (end - start)


def train_teacher(
    p: TeacherParams, manifest: Manifest, out: Path, cache_dir: Path, **record: Any
) -> Iterator[dict[str, Any]]:
    """Train a teacher into ``out``; yields the events of :func:`fer_lib.training.loop.fit`.

    ``record``: ``init_from``, a bundle folder to start from, and ``run_id`` for the bundle's ids.
    Raises the errors of :func:`fer_lib.training.fit.run_fit`.
    """
    if p.head == "cosine" and p.arcface_m and as_epochs(p.ramp_end, p.epochs) > p.epochs:
        message = (
            f"the margin ramp ends at epoch {as_epochs(p.ramp_end, p.epochs):g}, the run at {p.epochs}: the margin "
            f"stays below {p.arcface_m}; set epochs >= {math.ceil(as_epochs(p.ramp_end, p.epochs))}, or plain_epochs: "
            "0.08 and ramp_end: 0.25 (fractions of the run), or arcface_m: 0 for training without a margin"
        )
        yield {"event": "note", "level": "warning", "message": message}
    yield from run_fit(p, manifest, out, cache_dir, kind="teacher", objective=TeacherObjective, **record)
