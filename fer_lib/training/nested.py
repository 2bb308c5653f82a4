"""Nested learning in the training loop: when each block is updated, and the objective with the prototype loss.

Both are modules, so that a checkpoint stores their tensors, and a run that is killed between two updates resumes to the
bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fer_lib.models.classifier import FerClassifier
from fer_lib.models.nested import PrototypeLoss
from fer_lib.params import FitParams

if TYPE_CHECKING:
    from fer_lib.training.step import Objective


class BlockUpdates(nn.Module):
    """Updates block l of a model every C_l steps, by the sum of its gradients since its last update.

    A block without gradient is skipped by the optimiser: its weights, moments, step counter and weight decay change at
    its updates alone.  C_l = 1 leaves the gradients as they are.  The sums go on over epochs; what a fit has summed
    when it ends is dropped.  With ``clip_grad`` the sum of each block is clipped alone.
    """

    def __init__(self, model: FerClassifier, optimiser: torch.optim.Optimizer, p: FitParams):
        super().__init__()
        self.intervals, self.clip_grad = p.nested.intervals, p.clip_grad
        self.blocks = [[q for q in block.parameters() if q.requires_grad] for block in model.blocks]
        for level, (block, interval) in enumerate(zip(self.blocks, self.intervals, strict=True)):
            for i, parameter in enumerate(block if interval > 1 else ()):
                self.register_buffer(f"sum_{level}_{i}", torch.zeros_like(parameter, requires_grad=False))
        for block, scale in zip(self.blocks, p.nested.lr_scale, strict=False):
            _set_rate(optimiser, block, scale)

    @torch.no_grad()
    def forward(self, step: int) -> None:
        """Put the sums in place of the gradients of step ``step`` (from 0), or no gradient where none is due."""
        for level, (block, interval) in enumerate(zip(self.blocks, self.intervals, strict=True)):
            due = (step + 1) % interval == 0
            for i, parameter in enumerate(block if interval > 1 else ()):
                total = getattr(self, f"sum_{level}_{i}").add_(parameter.grad)
                parameter.grad = total.clone() if due else None
                if due:
                    total.zero_()
            if due and self.clip_grad:
                clip_grad_norm_(block, self.clip_grad)

    def figures(self, first: int, last: int) -> dict[str, float]:
        """``nested_applied_frac``: updates as a share of blocks x steps, over the steps ``first`` to ``last`` - 1."""
        updates = sum(last // interval - first // interval for interval in self.intervals)
        return {"nested_applied_frac": updates / (len(self.intervals) * (last - first))}


def _set_rate(optimiser: torch.optim.Optimizer, block: list[nn.Parameter], scale: float) -> None:
    """Move the parameters of ``block`` into groups of their own with the learning rate times ``scale``."""
    own = set(block)  # tensors are compared by identity
    for group in list(optimiser.param_groups):
        moved = [q for q in group["params"] if q in own]
        if moved:
            group["params"] = [q for q in group["params"] if q not in own]
            optimiser.add_param_group({**group, "params": moved, "lr_scale": scale})


class PrototypeObjective(nn.Module):
    """An objective with the prototype loss of :class:`fer_lib.models.nested.PrototypeLoss` added."""

    def __init__(self, objective: Objective, model: FerClassifier, p: FitParams, device: torch.device):
        super().__init__()
        self.objective = objective
        self.prototypes = PrototypeLoss(model.config["embed_dim"], p.nested).to(device)
        self.register_buffer("epoch", torch.tensor(-1))  # that the totals are about

    def loss(self, model: FerClassifier, images: torch.Tensor, batch: Any, epoch: float) -> torch.Tensor:
        if self.epoch != int(epoch):
            self.epoch.fill_(int(epoch))
            self.prototypes.totals.zero_()
        embeddings = []

        def forward(images: torch.Tensor, scaled: bool = True) -> torch.Tensor:
            embeddings.append(model.embed(images))
            return model.classify(embeddings[-1], scaled)

        losses = self.objective.loss(forward, images, batch, epoch)
        with torch.no_grad():
            logits = model.classify(embeddings[-1])
        y = torch.from_numpy(batch.labels).to(images.device)
        return losses + self.prototypes(embeddings[-1], logits, y)

    def figures(self, epoch: float) -> dict[str, float | None]:
        """Means over the epoch: the share of rows that the gate let through, the loss and its parts, and 1 - p_y."""
        rows, gated, distance, spread, doubt = self.prototypes.totals.tolist()
        return self.objective.figures(epoch) | {
            "nested_applied_frac": gated / rows,
            "nested_loss": self.prototypes.p.weight * (distance + spread) / rows,
            "nested_distance": distance / gated if gated else None,
            "nested_uniformity": spread / rows,
            "nested_doubt": doubt / rows,
        }


def nested_warning(row: dict[str, Any], p: FitParams) -> str:
    """A warning when nested learning was on and applied to nothing in the epoch of ``row``; else blank."""
    if row["train"].get("nested_applied_frac") != 0.0:
        return ""
    cause = (
        f"no row passed the gate (nested.gate_threshold {p.nested.gate_threshold:g}): lower it, or set gate: top"
        if p.nested.kind == "prototypes"
        else f"every interval {p.nested.intervals} is longer than the epoch: set smaller nested.intervals"
    )
    return f"epoch {row['epoch'] + 1}: nested learning was applied to nothing; {cause}"
