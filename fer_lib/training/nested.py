"""Nested learning in the training loop: when each block is updated, and the objective with the prototype loss.

What both sum up or average is part of a checkpoint, so a run that is killed between two updates resumes to the bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from fer_lib.models.classifier import FerClassifier
from fer_lib.models.nested import PrototypeLoss
from fer_lib.params import FitParams

if TYPE_CHECKING:
    from fer_lib.datasets.batches import Batch
    from fer_lib.training.step import Objective


class BlockUpdates:
    """Updates block l of a model every C_l steps, by the sum of its gradients since its last update.

    The optimiser skips a block that has no gradient: its weights, moments, step counter and weight decay change at its
    updates alone.  C_l = 1 leaves the gradients as they are.  With ``clip_grad`` the sum of each block is clipped
    alone.  ``state``: the sums, which go on over epochs; what a fit has summed when it ends is dropped.
    """

    def __init__(self, model: FerClassifier, optimiser: torch.optim.Optimizer, p: FitParams):
        self.intervals, self.clip_grad = p.nested.intervals, p.clip_grad
        self.blocks = [[q for q in block.parameters() if q.requires_grad] for block in model.blocks]
        self.sums = [
            [torch.zeros_like(q, requires_grad=False) for q in block] if interval > 1 else []
            for block, interval in zip(self.blocks, self.intervals, strict=True)
        ]
        self.state = {f"nested.sum_{k}_{i}": total for k, own in enumerate(self.sums) for i, total in enumerate(own)}
        for block, scale in zip(self.blocks, p.nested.lr_scale, strict=False):
            _set_rate(optimiser, block, scale)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Put the sums in place of the gradients of step ``step`` (from 0), or no gradient where no update is due."""
        for block, sums, interval in zip(self.blocks, self.sums, self.intervals, strict=True):
            due = (step + 1) % interval == 0
            for parameter, total in zip(block, sums, strict=False):  # no sums where every step is an update
                total += parameter.grad
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
    """Move the parameters of ``block`` into separate groups with the learning rate times ``scale``."""
    own = set(block)  # tensors are compared by identity
    for group in list(optimiser.param_groups):
        moved = [q for q in group["params"] if q in own]
        if moved:
            group["params"] = [q for q in group["params"] if q not in own]
            optimiser.add_param_group({**group, "params": moved, "lr_scale": scale})


class PrototypeObjective:
    """An objective with the prototype loss of :class:`fer_lib.models.nested.PrototypeLoss` added."""

    def __init__(self, objective: Objective, model: FerClassifier, p: FitParams, device: torch.device):
        self.objective = objective
        self.prototypes = PrototypeLoss(model.config["embed_dim"], p.nested).to(device)
        self.sums = torch.zeros(2, 5, device=device)  # [epoch modulo 2]: those of the prototype loss
        own = self.prototypes.state_dict() | {"sums": self.sums}
        self.state = objective.state | {f"nested.{name}": value for name, value in own.items()}

    def loss(self, model: FerClassifier, images: torch.Tensor, batch: Batch, epoch: float) -> torch.Tensor:
        embeddings = []

        def forward(images: torch.Tensor, scaled: bool = True) -> torch.Tensor:
            embeddings.append(model.embed(images))
            return model.classify(embeddings[-1], scaled)

        losses = self.objective.loss(forward, images, batch, epoch)
        with torch.no_grad():
            logits = model.classify(embeddings[-1])
        y = torch.from_numpy(batch.labels).to(images.device)
        own, sums = self.prototypes(embeddings[-1], logits, y)
        self.sums[int(epoch) % 2] += sums
        return losses + own

    def figures(self, epoch: float) -> dict[str, float | None]:
        """Means over the epoch: the share of rows that the gate let through, the loss and its parts, and 1 - p_y.

        A second call changes nothing: a fit may be resumed between the last step of an epoch and its checkpoint.
        """
        rows, gated, distance, spread, doubt = self.sums[int(epoch) % 2].tolist()
        self.sums[(int(epoch) + 1) % 2].zero_()
        return self.objective.figures(epoch) | {
            "nested_applied_frac": gated / rows,
            "nested_loss": self.prototypes.p.weight * (distance + spread) / rows,
            "nested_distance": distance / gated if gated else None,
            "nested_uniformity": spread / rows,
            "nested_doubt": doubt / rows,
        }
