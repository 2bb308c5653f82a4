"""The adaptation fit: cross-entropy on confident rows and negative learning (Kim et al. 2019, NLNL) on the others.

    L = sum_i w_i CE_i / sum_i w_i  +  negl_weight x mean NegL over the rows with a ``neg_label``

Both terms are over the rows of a step.  w is 1 for positives and replayed rows, 0 for rows of negative learning only.
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
from fer_lib.models.losses import cross_entropy, negative_loss, soft_targets
from fer_lib.params import AdaptFit, AdaptParams
from fer_lib.training.fit import run_fit
from fer_lib.training.fit_inputs import FitData, make_contract

LOOP_TUNE = {"head": "head", "bn": "norms", "both": "bn"}  # the parameter ``tune`` in the terms of run_fit
_SHARED = AdaptFit.model_fields.keys() & AdaptParams.model_fields.keys() - {"manifest", "output_dir"}


class AdaptObjective:
    """The loss above.  Raises DataError when no train row has a weight or a class for negative learning."""

    state: dict[str, torch.Tensor] = {}

    def __init__(self, p: AdaptFit, data: FitData, device: torch.device):
        self.p, self.sampler = p, data.sampler
        rows = data.train.manifest
        self.weight = torch.tensor(rows.weights, dtype=torch.float32)
        self.negative = torch.from_numpy(rows.negatives)
        if not (self.weight > 0).any() and not (p.negl_weight and (self.negative >= 0).any()):
            raise DataError(
                "no train row can be learned from: none has a weight, and none a class for negative learning"
            )
        self._sum, self._n = torch.zeros((), device=device), 0

    def loss(self, model, images, batch, epoch):
        logits, own, step = model(images), torch.from_numpy(batch.rows), torch.from_numpy(batch.step_rows)
        device, rows = logits.device, len(step)
        y, weight = torch.from_numpy(batch.labels).to(device), self.weight[own].to(device)
        ce = cross_entropy(logits, soft_targets(y, self.p.label_smoothing))
        total = float(self.weight[step].sum())
        loss = weight * ce * (rows / total if total else 0.0)
        negative, applied = self.negative[own].to(device), int((self.negative[step] >= 0).sum())
        if self.p.negl_weight and applied:  # the step averages over all rows, NegL only over rows with a class
            named = negative >= 0
            row_loss = torch.where(named, negative_loss(logits, negative.clamp_min(0)), 0.0)
            loss = loss + self.p.negl_weight * (rows / applied) * row_loss
            self._sum, self._n = self._sum + row_loss.detach().sum(), self._n + int(named.sum())
        return loss

    def figures(self, epoch):
        """``negl_applied_frac``: the share of the epoch's rows with negative learning.  ``negl_loss``: their mean loss
        in this process since the epoch began or was resumed; None without such rows."""
        steps = min(self.sampler.steps_per_epoch, self.p.max_train_batches or self.sampler.steps_per_epoch)
        first = int(epoch) * self.sampler.steps_per_epoch
        rows = np.concatenate([self.sampler.rows(first + i)[0] for i in range(steps)])
        share = float((self.negative[rows] >= 0).float().mean()) if self.p.negl_weight else 0.0
        mean = float(self._sum) / self._n if self._n else None
        self._sum, self._n = torch.zeros_like(self._sum), 0
        return {"negl_applied_frac": share, "negl_loss": mean}


def fit_params(p: AdaptParams, base: Bundle) -> AdaptFit:
    """The fit parameters for this base: its backbone, size, head and contract.

    Raises BundleError without torch weights, and when this version can't train with the base's face contract.
    """
    if not base.has(WEIGHTS):
        raise BundleError(
            f"{base.name} ({base.path}) holds ONNX alone, as the packaged model does, which can't be trained: name a  "
            "model with torch weights as base (a student phase, its folder, or its registry URI)"
        )
    own, contract = base.meta["model"], base.contract
    cropping = contract.model_dump(include={"image_size", "clahe", "align", "margin"})
    net = {name: own[name] for name in ("backbone", "embed_dim", "dropout", "head")} | {"arcface_s": own["s"]}
    net["backbone_args"] = own.get("backbone_args", {})
    if blocks := own.get("blocks"):  # updated at every step here
        net["nested"] = {"kind": "blocks", "intervals": [1] * blocks}
    fit = AdaptFit(**p.model_dump(include=_SHARED), **net, **cropping)
    if (fit_contract := make_contract(fit)) != contract:
        differing = [k for k, v in fit_contract.model_dump().items() if v != getattr(contract, k)]
        raise BundleError(
            f"the face contract of {base.name} can't be trained with ({', '.join(differing)} differ from what its "
            "backbone is trained with here): train it again with this fer-lab"
        )
    return fit


def train_adapt(
    p: AdaptParams, base: Bundle, manifest: Manifest, out: Path, cache_dir: Path, **record: Any
) -> Iterator[dict[str, Any]]:
    """Adapt ``base`` to the train rows of ``manifest`` (:func:`fer_lib.adapt.data.training_set`) into ``out``.

    Yields the loop's events, and a warning for each epoch in which negative learning is on but no row has a class for
    it.  The training exposure in ``best/`` includes that of the base.
    """
    fit = fit_params(p, base)
    options = dict(tune=LOOP_TUNE[p.tune], norms=p.bn_policy, init_from=str(base.path), **record)
    for event in run_fit(fit, manifest, out, cache_dir, kind=base.meta["kind"], objective=AdaptObjective, **options):
        yield event
        if event["event"] == "epoch" and p.negl_weight and not event["train"]["negl_applied_frac"]:
            message = (
                f"epoch {event['epoch'] + 1}: negative learning is on (negl_weight {p.negl_weight:g}) and was applied "
                "to no row: the buffers have no row with a neg_label; set negl_weight: 0 if that is meant"
            )
            yield {"event": "note", "level": "warning", "message": message}
