"""Nested learning (Behrouz et al. 2025): residual blocks of a classifier, and the prototype loss of an earlier variant.

The paper's continuum memory is a chain of MLP blocks, each updated at its own frequency.  The blocks are part of the
model; :mod:`fer_lib.training.nested` decides when each is updated.  The prototype loss belongs to the training alone.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from fer_lib.emotions import NUM_CLASSES
from fer_lib.params import NestedParams


class ResidualBlock(nn.Module):
    """x + W2 SiLU(W1 x + b1) + b2 over embeddings [B, width].  W2 and b2 start at 0: the block starts as identity."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.inner[-1].weight)
        nn.init.zeros_(self.inner[-1].bias)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding + self.inner(embedding)


class PrototypeLoss(nn.Module):
    """Pulls gated embeddings to the prototype of their class and spreads all embeddings over the sphere.

        z = normalise(W e + b) [B, 32]
        L_i = weight (gate_i (1 - cos(z_i, P_y)) + uniformity(z))

    The gate is 1 for rows that the classifier is unsure of: 1 - p_y >= ``gate_threshold``, or the share ``gate_top`` of
    the micro-batch with the largest 1 - p_y, the size of the cross-entropy's gradient at the label's logit.  It is 0
    for a class without prototype.  After the loss, the prototype of each class c in the micro-batch becomes
    normalise(d P_c + (1 - d) mean z of class c), d = ``prototype_decay``.
    """

    def __init__(self, embed_dim: int, p: NestedParams):
        super().__init__()
        self.p = p
        self.projection = nn.Linear(embed_dim, p.prototype_dim)
        self.register_buffer("prototypes", torch.zeros(NUM_CLASSES, p.prototype_dim))

    def forward(
        self, embedding: torch.Tensor, logits: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each row, float32 [B]; ``embedding`` [B, D], ``logits`` [B, 7] without gradient, ``y`` int64 [B].

        Also float32 [5]: rows, gated rows, and the sums of gate (1 - cos), uniformity and 1 - p_y over the rows.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            z = F.normalize(self.projection(embedding.float()))
            doubt = 1.0 - F.softmax(logits.float(), dim=1).gather(1, y[:, None]).squeeze(1)
            gate = self._gate(doubt) * self.prototypes.any(1)[y]
            distance = gate * (1.0 - (z * self.prototypes[y]).sum(1))
            spread = uniformity(z)
        with torch.no_grad():
            rows = torch.full_like(spread, len(y))
            sums = torch.stack([rows, gate.sum(), distance.sum(), spread * rows, doubt.sum()])
            one_hot = F.one_hot(y, NUM_CLASSES).float()
            counts = one_hot.sum(0)[:, None]
            means = one_hot.T @ z / counts.clamp_min(1.0)
            moved = F.normalize(torch.lerp(means, self.prototypes, self.p.prototype_decay))
            self.prototypes.copy_(torch.where(counts > 0, moved, self.prototypes))
        return self.p.weight * (distance + spread), sums

    def _gate(self, doubt: torch.Tensor) -> torch.Tensor:
        if self.p.gate == "threshold":
            return (doubt >= self.p.gate_threshold).float()
        largest = doubt.topk(max(1, round(self.p.gate_top * len(doubt)))).indices
        return torch.zeros_like(doubt).index_fill(0, largest, 1.0)


def uniformity(z: torch.Tensor) -> torch.Tensor:
    """log mean over pairs i < j of exp(-2 |z_i - z_j|^2) (Wang & Isola 2020, t = 2), a scalar; ``z`` [B, d] unit rows.

    0 when all rows are equal (or there is one), and the lower, the more evenly they cover the sphere.
    """
    if len(z) < 2:
        return z.sum() * 0.0
    i, j = torch.triu_indices(len(z), len(z), offset=1, device=z.device)
    squared = 2.0 - 2.0 * (z @ z.T)[i, j]
    return torch.logsumexp(-2.0 * squared, dim=0) - math.log(len(squared))
