"""The objective of labels and annotator votes, with negative learning: what teachers and students share."""

from __future__ import annotations

import numpy as np
import torch

from fer_lib.errors import DataError
from fer_lib.models.losses import cross_entropy, logit_adjustment, soft_targets
from fer_lib.params import FitParams
from fer_lib.training.fit_inputs import FitData
from fer_lib.training.negative import NegativeLearning


class LabelObjective:
    """Cross-entropy against labels, which ``p`` may mix with annotator votes and smooth; negative learning.

    ``p`` also sets focal weighting, logit adjustment by the class shares of the drawn rows, and class weights.
    Raises DataError when training rows carry sample weights, and the errors of :class:`NegativeLearning`.
    """

    def __init__(self, p: FitParams, data: FitData, device: torch.device, teacher_logits: np.ndarray | None = None):
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
        self.negative, self.state = None, {}
        if p.negative.method != "none":
            self.negative = NegativeLearning(p, data, device, teacher_logits)
            self.state = self.negative.state

    def targets(self, y: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Target distributions, float32 [B, 7], of pack rows ``rows`` (int64 [B]) with labels ``y`` (int64 [B])."""
        votes = self.votes[rows].to(y.device)
        return soft_targets(y, self.p.label_smoothing, votes, self.p.soft_label_weight)

    def label_loss(self, logits: torch.Tensor, y: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of each sample, float32 [B]; ``logits`` and ``targets`` [B, 7], ``y`` int64 [B]."""
        adjusted = logits if self.adjustment is None else logits + self.adjustment
        loss = cross_entropy(adjusted, targets, self.p.focal_gamma)
        return loss if self.weights is None else loss * self.weights[y]

    def figures(self, epoch: float) -> dict[str, float | None]:
        return {} if self.negative is None else self.negative.figures(epoch)
