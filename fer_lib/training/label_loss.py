"""The part of a loss that comes from labels: the same settings for teachers and students."""

from __future__ import annotations

import torch

from fer_lib.errors import DataError
from fer_lib.models.losses import cross_entropy, logit_adjustment, soft_targets
from fer_lib.params import FitParams
from fer_lib.training.data import FitData


class LabelLoss:
    """Cross-entropy against labels, mixed with the annotators' votes and smoothed where asked.

    Focal weighting, logit adjustment by the training rows' class shares, and class weights as ``p`` says.
    """

    def __init__(self, p: FitParams, data: FitData, device: torch.device):
        self.p = p
        if unsure := int((data.train.manifest.weights != 1.0).sum()):
            raise DataError(
                f"{unsure:,} of {len(data.sampler.labels):,} training rows carry a weight (a live buffer's, whose "
                "labels are guesses): train on them with notebook 11_adapt, or leave their source out (exclude_sources)"
            )
        self.votes = torch.from_numpy(data.train.manifest.soft_labels).float()
        self.weights = None if data.class_weights is None else torch.from_numpy(data.class_weights).to(device)
        shares = [n / len(data.sampler.labels) for n in data.class_counts]
        self.adjustment = logit_adjustment(shares, p.logit_adjustment).to(device) if p.logit_adjustment else None

    def targets(self, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """float32 [B, 7] of rows (int64 [B], positions in the pack) whose labels are ``y`` [B]."""
        votes = self.votes[rows].to(y.device)
        return soft_targets(y, self.p.label_smoothing, votes, self.p.soft_label_weight)

    def __call__(self, logits: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, float32 [B]."""
        adjusted = logits if self.adjustment is None else logits + self.adjustment
        loss = cross_entropy(adjusted, targets, self.p.focal_gamma)
        return loss if self.weights is None else loss * self.weights[y]
