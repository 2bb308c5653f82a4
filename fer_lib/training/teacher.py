"""The teacher: ArcFace over balanced batches (SPEC 5), margin 0 first, then a linear ramp."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fer_lib.datasets.manifest import Manifest
from fer_lib.models.losses import arcface_logits, cross_entropy, soft_targets
from fer_lib.params import TeacherParams
from fer_lib.training.data import FitData
from fer_lib.training.run import run_fit
from fer_lib.training.schedule import as_epochs, margin

log = logging.getLogger(__name__)


class TeacherObjective:
    """Cross-entropy over ArcFace's logits at the epoch's margin, against labels mixed with votes where asked."""

    def __init__(self, p: TeacherParams, data: FitData, device: torch.device):
        self.p = p
        self.start, self.end = as_epochs(p.plain_epochs, p.epochs), as_epochs(p.ramp_end, p.epochs)
        self.weights = None if data.class_weights is None else torch.from_numpy(data.class_weights).to(device)
        self.votes = torch.from_numpy(data.train.manifest.soft_labels).float()

    def margin(self, epoch: float) -> float:
        return margin(epoch, start=self.start, end=self.end, top=self.p.arcface_m)

    def loss(self, model, images, batch, epoch):
        cosine = model.scores(images)
        y = torch.from_numpy(batch.labels).to(cosine.device)
        votes = self.votes[torch.from_numpy(batch.rows)].to(cosine.device)
        targets = soft_targets(y, self.p.label_smoothing, votes, self.p.soft_label_weight)
        loss = cross_entropy(arcface_logits(cosine, y, self.p.arcface_s, self.margin(epoch)), targets)
        return loss if self.weights is None else loss * self.weights[y]

    def figures(self, epoch):
        return {"arcface_margin": self.margin(epoch)}


def train_teacher(
    p: TeacherParams, manifest: Manifest, out: Path, cache_dir: Path, **record: Any
) -> Iterator[dict[str, Any]]:
    """Train a teacher into ``out``; yields the loop's events.  ``record``: init_from, run_id of the run that asks."""
    if p.arcface_m and as_epochs(p.ramp_end, p.epochs) > p.epochs:
        message = (
            f"the margin ramp ends at epoch {as_epochs(p.ramp_end, p.epochs):g}, the run at {p.epochs}: the margin "
            f"stays below {p.arcface_m} (give plain_epochs and ramp_end as fractions of the run to fit it)"
        )
        log.warning(message)
        yield {"event": "note", "level": "warning", "message": message}
    config = dict(
        backbone=p.backbone,
        image_size=p.image_size,
        embed_dim=p.embed_dim,
        dropout=p.dropout,
        head="cosine",
        s=p.arcface_s,
    )
    yield from run_fit(p, manifest, out, cache_dir, kind="teacher", config=config, objective=TeacherObjective, **record)
