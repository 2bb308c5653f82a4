"""The loss against labels and annotator votes, shared by teachers and students."""

from __future__ import annotations

import torch

from fer_lib.errors import DataError
from fer_lib.models.losses import cross_entropy, logit_adjustment, soft_targets
from fer_lib.params import FitParams
from fer_lib.training.fit_inputs import FitData


class LabelLoss:
    """Cross-entropy against labels, which ``p`` may mix with annotator votes and smooth.

    ``p`` also sets focal weighting, logit adjustment by the class shares of the drawn rows, and class weights.
    Raises DataError when training rows carry sample weights.
    """

    def __init__(self, p: FitParams, data: FitData, device: torch.device):
        self.p = p
        if weighted := int((data.train.manifest.weights != 1.0).sum()):
            raise DataError(
                f"{weighted:,} of {len(data.sampler.labels):,} training rows carry a weight (they come from a live "
                "buffer, whose labels are guesses): train on them with notebook 11_adapt, or exclude their source "
                "(exclude_sources)"
            )
        self.votes = torch.from_numpy(data.train.manifest.soft_labels).float()
        self.weights = None if data.class_weights is None else torch.from_numpy(data.class_weights).to(device)
        tau = p.logit_adjustment
        self.adjustment = logit_adjustment(data.class_shares, tau).to(device) if tau else None

    def targets(self, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Target distributions, float32 [B, 7], of pack rows ``rows`` (int64 [B]) with labels ``y`` (int64 [B])."""
        votes = self.votes[rows].to(y.device)
        return soft_targets(y, self.p.label_smoothing, votes, self.p.soft_label_weight)

    def __call__(self, logits: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, float32 [B]; ``logits`` and ``targets`` [B, 7], ``y`` int64 [B]."""
        adjusted = logits if self.adjustment is None else logits + self.adjustment
        loss = cross_entropy(adjusted, targets, self.p.focal_gamma)
        return loss if self.weights is None else loss * self.weights[y]
