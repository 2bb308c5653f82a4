"""Adapting a model to a live session: cross-entropy on what is sure, negative learning on the rest (SPEC 8, 10).

    L = sum_i w_i CE_i / sum_i w_i  +  negl_weight x mean of NegL over the rows that name a class they are not

each taken over the step's rows; ``w`` is 1 for positives and replayed rows and 0 for rows of negative learning alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import BundleError, DataError
from fer_lib.models.bundle import WEIGHTS, Bundle
from fer_lib.models.losses import cross_entropy, soft_targets
from fer_lib.models.negative import negative_loss
from fer_lib.params import AdaptFit, AdaptParams
from fer_lib.training.data import FitData, make_contract
from fer_lib.training.fit import run_fit

TRAINED = {"head": "head", "bn": "norms", "both": "bn"}  # what the loop calls it
_SHARED = (
    "epochs", "batch_size", "lr", "min_lr", "weight_decay", "warmup_epochs", "clip_grad", "label_smoothing", "augment",
    "max_train_batches", "max_val_batches", "calibration", "pack", "workers", "device", "threads", "deterministic",
    "name", "seed", "smoke", "tune", "bn_policy", "negl_weight",
)  # fmt: skip


class AdaptObjective:
    """The loss above.  DataError when no row of train has a label that counts, nor a class that it is not."""

    def __init__(self, p: AdaptFit, data: FitData, device: torch.device):
        self.p, self.sampler = p, data.sampler
        rows = data.train.manifest
        self.weight = torch.from_numpy(rows.weights).float()
        self.negative = torch.from_numpy(rows.negatives)
        if not (self.weight > 0).any() and not (p.negl_weight and (self.negative >= 0).any()):
            raise DataError("no row of train says anything: none has a weight, and none a class for negative learning")
        self._sum, self._n = torch.zeros((), device=device), 0

    def loss(self, model, images, batch, epoch):
        logits, mine, step = model(images), torch.from_numpy(batch.rows), torch.from_numpy(batch.step_rows)
        device, rows = logits.device, len(step)
        y, weight = torch.from_numpy(batch.labels).to(device), self.weight[mine].to(device)
        ce = cross_entropy(logits, soft_targets(y, self.p.label_smoothing))
        total = float(self.weight[step].sum())
        loss = weight * ce * (rows / total if total else 0.0)
        negative, applied = self.negative[mine].to(device), int((self.negative[step] >= 0).sum())
        if self.p.negl_weight and applied:  # the mean over those it is applied to, as the step takes that over all rows
            known = negative >= 0
            each = torch.where(known, negative_loss(logits, negative.clamp_min(0)), 0.0)
            loss = loss + self.p.negl_weight * (rows / applied) * each
            self._sum, self._n = self._sum + each.detach().sum(), self._n + int(known.sum())
        return loss

    def figures(self, epoch):
        """``negl_applied_frac``: of the epoch's rows, those that negative learning was applied to.  ``negl_loss``: its
        mean over them, this process' share since the epoch began or was resumed; None where there are none."""
        steps = min(self.sampler.steps_per_epoch, self.p.max_train_batches or self.sampler.steps_per_epoch)
        first = int(epoch) * self.sampler.steps_per_epoch
        rows = np.concatenate([self.sampler.rows(first + i)[0] for i in range(steps)])
        share = float((self.negative[rows] >= 0).float().mean()) if self.p.negl_weight else 0.0
        mean = float(self._sum) / self._n if self._n else None
        self._sum, self._n = torch.zeros_like(self._sum), 0
        return {"negl_applied_frac": share, "negl_loss": mean}


def fit_params(p: AdaptParams, base: Bundle) -> AdaptFit:
    """The fit on this base: its backbone, size, head and contract.

    BundleError when the base holds no torch weights, or faces are cut for it as no fit of today's cuts them.
    """
    if not base.has(WEIGHTS):
        raise BundleError(
            f"{base.name} ({base.path}) holds ONNX alone, as the packaged model does, and that can't be trained on: "
            "name a model with torch weights as base (a student phase, its folder, or its registry URI)"
        )
    own, contract = base.meta["model"], base.contract
    cut = contract.model_dump(include={"image_size", "clahe", "align", "margin"})
    net = {"backbone": own["backbone"], "embed_dim": own["embed_dim"], "dropout": own["dropout"]}
    head = {"head": own["head"], "arcface_s": own["s"]}
    fit = AdaptFit(**{name: getattr(p, name) for name in _SHARED}, **net, **head, **cut)
    if (made := make_contract(fit)) != contract:
        differing = [k for k, v in made.model_dump().items() if v != getattr(contract, k)]
        raise BundleError(
            f"{base.name} sees faces in a way that a fit can't repeat ({', '.join(differing)} differ from what its "
            "backbone is trained with here): train it again with this fer-lab"
        )
    return fit


def train_adapt(
    p: AdaptParams, base: Bundle, manifest: Manifest, out: Path, cache_dir: Path, **record: Any
) -> Iterator[dict[str, Any]]:
    """Adapt ``base`` to the train rows of ``manifest`` (:func:`adapt_data.training_set`) into ``out``.

    Yields the loop's events, and a warning for an epoch in which negative learning was on and met no row.  ``best/``
    remembers what the base had seen, too.
    """
    fit = fit_params(p, base)
    config = {**base.meta["model"], "dropout": fit.dropout}
    how = dict(tune=TRAINED[p.tune], norms=p.bn_policy, init_from=str(base.path), **record)
    events = run_fit(
        fit, manifest, out, cache_dir, kind=base.meta["kind"], config=config, objective=AdaptObjective, **how
    )
    for event in events:
        yield event
        if event["event"] == "epoch" and p.negl_weight and not event["train"]["negl_applied_frac"]:
            message = (
                f"epoch {event['epoch'] + 1}: negative learning is on (negl_weight {p.negl_weight:g}) and was applied "
                "to no row: the buffers name no class that a face is not; set negl_weight: 0 if that is meant"
            )
            yield {"event": "note", "level": "warning", "message": message}
