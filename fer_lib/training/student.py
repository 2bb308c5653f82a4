"""Training of a student: cross-entropy, or distillation from teachers by KD (Hinton 2015) or DKD (Zhao 2022).

The teachers' logits are cached soft labels, or computed on the student's own augmented view.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from fer_lib.datasets.manifest import Manifest
from fer_lib.errors import FerError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.ensemble import combine
from fer_lib.models.ensemble_folder import member_bundles
from fer_lib.models.losses import decoupled_kl, distillation_kl, mixup
from fer_lib.models.softlabels_format import read_softlabels
from fer_lib.params import StudentParams
from fer_lib.training.fit import run_fit
from fer_lib.training.fit_inputs import FitData
from fer_lib.training.label_objective import LabelObjective


class StudentObjective(LabelObjective):
    """Cross-entropy, plus a distillation term for the modes kd, dkd and dkd_mixed, plus negative learning.

    With mixup (Zhang 2018) the loss of a row is split between its label and its partner's label, and the teachers see
    the mixed images too ("consistent teaching", Beyer 2021).
    Raises FerError when such a mode has no soft labels, BundleError when they belong to other rows or faces.
    """

    def __init__(self, p: StudentParams, data: FitData, device: torch.device, softlabels: Path | None):
        self.teacher_logits = targets = None
        if p.mode != "ce" and softlabels is None:
            raise FerError(
                f"student mode '{p.mode}' needs softlabels: name a finished 06_export_softlabels phase or folder"
            )
        if reads_softlabels(p) and softlabels is not None:
            targets = read_softlabels(softlabels, data.train.manifest, data.contract)
        if p.mode != "ce" and p.teacher_view == "cached":
            self.teacher_logits = torch.from_numpy(targets.logits).float()
        elif p.mode != "ce":
            self.teachers = LiveTeachers(targets.record, data.contract, device)
        super().__init__(p, data, device, targets and targets.logits)

    def loss(self, model, images, batch, epoch):
        y, rows = torch.from_numpy(batch.labels).to(images.device), torch.from_numpy(batch.rows)
        targets = self.targets(y, rows)
        partner_y = negative = None
        if self.p.mixup:
            images, partner, share = mixup(images, self.p.mixup)
            partner_y = y[partner]
        logits, teacher = model(images), None
        if self.teacher_logits is not None:
            teacher = self.teacher_logits[rows].to(logits.device) / self.p.teacher_temperature
        elif self.p.mode != "ce":
            teacher = self.teachers(images) / self.p.teacher_temperature
        ce = self.label_loss(logits, y, targets)
        if self.negative is not None:
            ce, negative = self.negative(logits, y, ce, batch.rows, epoch, partner_y)
        loss = self._mode_loss(logits, teacher, y, ce, epoch)
        if partner_y is not None:
            ce = self.label_loss(logits, partner_y, targets[partner])
            loss = share * loss + (1.0 - share) * self._mode_loss(logits, teacher, partner_y, ce, epoch)
        return loss if negative is None else loss + negative

    def _mode_loss(self, logits, teacher, y, ce, epoch) -> torch.Tensor:
        """The loss for labels ``y``; ``ce`` [B]: their own loss; ``teacher`` [B, 7]: logits for the same images."""
        p = self.p
        if p.mode == "ce":
            return ce
        if p.mode == "kd":
            return (1 - p.alpha) * ce + p.alpha * distillation_kl(logits, teacher, p.temperature)
        tckd, nckd = decoupled_kl(logits, teacher, y, p.temperature)
        if p.mode == "dkd_mixed":  # DKD terms with fixed weights 1 and 4, mixed with the cross-entropy as in KD
            return (1 - p.alpha) * ce + p.alpha * p.temperature**2 * (tckd + 4.0 * nckd)
        decoupled = p.temperature**2 * (p.dkd_alpha * tckd + p.dkd_beta * nckd)
        return ce + self.warmup(epoch) * decoupled

    def warmup(self, epoch: float) -> float:
        """Weight of the DKD term: linear from 0 over min(dkd_warmup_epochs, epochs / 4) epochs."""
        length = min(self.p.dkd_warmup_epochs, self.p.epochs / 4)
        return 1.0 if length == 0 else min(1.0, epoch / length)

    def figures(self, epoch):
        weight = {"distillation_weight": self.warmup(epoch)} if self.p.mode == "dkd" else {}
        return weight | super().figures(epoch)


def reads_softlabels(p: StudentParams) -> bool:
    """Whether the weights depend on soft labels: by distillation, or by the classes of negative learning."""
    return p.mode != "ce" or (p.negative.method != "none" and p.negative.draw == "confusion")


class LiveTeachers:
    """The ensemble of a soft-label folder, run on the student's own augmented view (Beyer 2021).

    Raises BundleError when a teacher's weights or face contract differ from those that the folder records.
    """

    def __init__(self, record: dict[str, Any], contract: FaceContract, device: torch.device):
        self.contract, self.space = contract, record["ensemble_space"]
        self.weights = [t["weight"] for t in record["teachers"]]
        bundles = member_bundles(record)
        self.models = [b.model().to(device) for b in bundles]
        self.views = [partial(self._view, teacher=b.contract) for b in bundles]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Ensemble logits [B, 7] of ``images`` float32 [B, 3, S, S], normalised for the student."""
        logits = [model(view(images)) for model, view in zip(self.models, self.views, strict=True)]
        return combine(logits, self.weights, self.space)

    def _view(self, images: torch.Tensor, teacher: FaceContract) -> torch.Tensor:
        """The images at the size and normalisation of the ``teacher`` contract."""

        def channels(values):
            return torch.tensor(values, dtype=images.dtype, device=images.device)[None, :, None, None]

        pixels = images * channels(self.contract.std) + channels(self.contract.mean)
        if teacher.image_size != images.shape[-1]:
            pixels = F.interpolate(
                pixels, size=(teacher.image_size,) * 2, mode="bilinear", antialias=True, align_corners=False
            )
        return (pixels - channels(teacher.mean)) / channels(teacher.std)


def train_student(
    p: StudentParams, manifest: Manifest, out: Path, cache_dir: Path, softlabels: Path | None = None, **record: Any
) -> Iterator[dict[str, Any]]:
    """Train a student into ``out``; yields the events of :func:`fer_lib.training.loop.fit`.

    ``softlabels``: a folder of :func:`fer_lib.models.softlabels.export_softlabels`; ``record``: as for a teacher.
    Raises the errors of :class:`StudentObjective` and :func:`fer_lib.training.fit.run_fit`.
    """
    objective = partial(StudentObjective, softlabels=softlabels)
    used = softlabels if reads_softlabels(p) else None
    options = dict(kind="student", objective=objective, tune=p.tune, softlabels=used, **record)
    yield from run_fit(p, manifest, out, cache_dir, **options)
