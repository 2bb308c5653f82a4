"""Losses as pure functions of logits: ArcFace's margin, cross-entropy over soft targets, KD and DKD, class weights.

Shapes: ``logits``, ``student``, ``teacher`` ``[B, 7]``; ``y`` int64 ``[B]``; ``targets`` ``[B, 7]`` rows that sum to 1.
Each returns one value a sample, ``[B]``, unless it says otherwise; the caller takes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fer_lib.emotions import NUM_CLASSES


def arcface_logits(cosine: torch.Tensor, y: torch.Tensor, s: float, margin: float, eps: float = 1e-7) -> torch.Tensor:
    """Additive angular margin (Deng 2019, eq. 3): target logit s cos(theta + m), the others s cos(theta).

    Past theta > pi - m, where cos(theta + m) would rise again, the target is s (cos theta - m sin m).
    """
    cosine = cosine.float() if cosine.dtype in (torch.float16, torch.bfloat16) else cosine
    if margin == 0.0:
        return s * cosine
    target = cosine.gather(1, y[:, None])
    sine = torch.sqrt((1.0 - target * target).clamp_min(0.0) + eps)
    turned = target * math.cos(margin) - sine * math.sin(margin)
    guarded = torch.where(target > -math.cos(margin), turned, target - margin * math.sin(margin))
    return s * cosine.scatter(1, y[:, None], guarded)


def soft_targets(
    y: torch.Tensor, smoothing: float = 0.0, votes: torch.Tensor | None = None, votes_weight: float = 0.0
) -> torch.Tensor:
    """One-hot labels, mixed with the annotators' votes where a row has them (NaN rows have none), then smoothed."""
    targets = F.one_hot(y, NUM_CLASSES).to(torch.get_default_dtype())
    if votes is not None and votes_weight > 0.0:
        has_votes = ~torch.isnan(votes).any(1, keepdim=True)
        mixed = (1.0 - votes_weight) * targets + votes_weight * torch.nan_to_num(votes)
        targets = torch.where(has_votes, mixed, targets)
    return targets * (1.0 - smoothing) + smoothing / NUM_CLASSES


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, focal_gamma: float = 0.0) -> torch.Tensor:
    """-sum_k t_k (1 - p_k)^gamma log p_k with p = softmax(z): cross-entropy at gamma 0, else focal loss (Lin 2017)."""
    log_p = F.log_softmax(logits, dim=1)
    if focal_gamma:
        return -(targets * (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny) ** focal_gamma * log_p).sum(1)
    return -(targets * log_p).sum(1)


def logit_adjustment(prior: Sequence[float], tau: float) -> torch.Tensor:
    """tau log pi, float32 [7], to be added to logits in the loss alone (Menon 2021, eq. 10), pi the training prior.

    The model then learns scores for classes that are equally frequent (tau 1).  A class of no rows gets the least
    number that a softmax takes for nothing.
    """
    return tau * torch.tensor(prior, dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny).log()


def mixup(images: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(mixed pictures, the partner of each row int64 [B], the rows' own share): Zhang 2018, one share a micro-batch.

    x' = l x + (1 - l) x[partner], l ~ Beta(alpha, alpha), turned to l >= 1/2 so that a row's own label stays the
    heavier one.  Drawn on the CPU from torch's generator, which the step has seeded.
    """
    drawn = torch.distributions.Beta(alpha, alpha).sample().item()
    own, partner = max(drawn, 1.0 - drawn), torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[partner], images, own), partner, own


def distillation_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) (Hinton 2015)."""
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


def decoupled_kl(
    student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """TCKD and NCKD of Zhao 2022 (without T^2), so that KL = TCKD + (1 - p_t) NCKD, p_t the teacher's p_y at T.

    All by log-softmax and log-sum-exp with the label masked out: log(1 - p) by subtraction, or sums of large logits,
    lose every digit on sharp ones.
    """
    label = F.one_hot(y, NUM_CLASSES).bool()

    def halves(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log p_y, log(1 - p_y), and the log-probabilities among the other classes (-inf at the label)."""
        log_p = F.log_softmax(z, dim=1)
        log_others = torch.logsumexp(log_p.masked_fill(label, -torch.inf), dim=1)
        log_rest = F.log_softmax(z.masked_fill(label, -torch.inf), dim=1)
        return log_p.gather(1, y[:, None]).squeeze(1), log_others, log_rest

    log_pt, log_pn, log_p_rest = halves(teacher / temperature)
    log_qt, log_qn, log_q_rest = halves(student / temperature)
    tckd = log_pt.exp() * (log_pt - log_qt) + log_pn.exp() * (log_pn - log_qn)
    gap = (log_p_rest - log_q_rest).masked_fill(label, 0.0)
    return tckd, (log_p_rest.exp() * gap).sum(1)


def effective_number_weights(counts: list[int], beta: float = 0.9999) -> list[float]:
    """(1 - b) / (1 - b^n_c) (Cui 2019), rescaled to sum to the number of classes; a class without rows weighs 0.

    1 - b^n is -expm1(n log b), exact where b^n is close to 1.
    """
    raw = [0.0 if n == 0 else (1.0 if beta == 0.0 else (1.0 - beta) / -math.expm1(n * math.log(beta))) for n in counts]
    return [w * NUM_CLASSES / sum(raw) for w in raw]
