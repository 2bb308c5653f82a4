"""Losses as pure functions of logits: ArcFace's margin, cross-entropy, KD and DKD, negative learning, class weights.

Shapes: ``logits``, ``student``, ``teacher`` ``[B, 7]``; ``y`` int64 ``[B]``; ``targets`` ``[B, 7]`` rows that sum to 1.
Each loss returns one value per sample, ``[B]``; the caller takes the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fer_lib.emotions import NUM_CLASSES


def arcface_logits(cosine: torch.Tensor, y: torch.Tensor, s: float, margin: float, eps: float = 1e-7) -> torch.Tensor:
    """Additive angular margin (Deng 2019, eq. 3): target logit s cos(theta + m), the others s cos(theta).

    For theta > pi - m, where cos(theta + m) rises again, the target logit is s (cos theta - m sin m).
    ``cosine`` [B, 7]: cos(theta); ``eps`` keeps the gradient of the sine finite.  Returns logits [B, 7].
    """
    cosine = cosine.float() if cosine.dtype in (torch.float16, torch.bfloat16) else cosine
    if margin == 0.0:
        return s * cosine
    target = cosine.gather(1, y[:, None])
    sine = torch.sqrt((1.0 - target * target).clamp_min(0.0) + eps)
    shifted = target * math.cos(margin) - sine * math.sin(margin)
    monotone = torch.where(target > -math.cos(margin), shifted, target - margin * math.sin(margin))
    return s * cosine.scatter(1, y[:, None], monotone)


def soft_targets(
    y: torch.Tensor, smoothing: float = 0.0, votes: torch.Tensor | None = None, votes_weight: float = 0.0
) -> torch.Tensor:
    """Targets [B, 7]: one-hot labels, mixed with the annotator votes ``votes`` [B, 7] of a row, then smoothed.

    A row of NaN has no votes.
    """
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
    """tau log pi, float32 [7], added to the logits in the loss only (Menon 2021, eq. 10), pi the training prior.

    With tau 1 the model learns scores for equally frequent classes.  A class without rows gets the log of the smallest
    positive float32, which a softmax turns into 0.
    """
    return tau * torch.tensor(prior, dtype=torch.float32).clamp_min(torch.finfo(torch.float32).tiny).log()


def mixup(images: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Mixed images, the partner of each row (int64 [B]) and the share l of the row itself (Zhang 2018).

    x' = l x + (1 - l) x[partner], with one l per micro-batch.  l ~ Beta(alpha, alpha) is mirrored to l >= 1/2, so the
    label of the row itself has the larger weight.  Draws come from torch's CPU generator, which the step seeds.
    """
    sample = torch.distributions.Beta(alpha, alpha).sample().item()
    share, partner = max(sample, 1.0 - sample), torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[partner], images, share), partner, share


def distillation_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)) (Hinton 2015)."""
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


def decoupled_kl(
    student: torch.Tensor, teacher: torch.Tensor, y: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """TCKD and NCKD of Zhao 2022 (without T^2), so that KL = TCKD + (1 - p_t) NCKD, p_t the teacher's p_y at T.

    Computed by log-softmax and log-sum-exp with the label masked out.  Subtraction for log(1 - p), or sums of large
    logits, lose all digits on sharp predictions.
    """
    label = F.one_hot(y, NUM_CLASSES).bool()

    def log_probs(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """log p_y, log(1 - p_y), and the log-probabilities among the other classes (-inf at the label)."""
        log_p = F.log_softmax(z, dim=1)
        log_others = torch.logsumexp(log_p.masked_fill(label, -torch.inf), dim=1)
        log_rest = F.log_softmax(z.masked_fill(label, -torch.inf), dim=1)
        return log_p.gather(1, y[:, None]).squeeze(1), log_others, log_rest

    log_pt, log_pn, log_p_rest = log_probs(teacher / temperature)
    log_qt, log_qn, log_q_rest = log_probs(student / temperature)
    tckd = log_pt.exp() * (log_pt - log_qt) + log_pn.exp() * (log_pn - log_qn)
    gap = (log_p_rest - log_q_rest).masked_fill(label, 0.0)
    return tckd, (log_p_rest.exp() * gap).sum(1)


def negative_loss(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """-log(1 - p_k) of each sample, [B] (Kim 2019, eq. 2), p = softmax(z).  Minimising it lowers p_k.

    ``logits`` [B, K], half precision is converted to float32; ``k`` int64 [B], a class that the sample is not.

        L = logsumexp(z) - logsumexp_{j != k}(z) = softplus(z_k - logsumexp_{j != k}(z))
        dL/dz_k = p_k        dL/dz_j = -p_k q_j,  q the softmax over the others

    The second form is computed: the first is a difference of two nearly equal numbers when p_k is below 1e-7.  The
    largest z_j is subtracted first: float32 would round a logsumexp of 1e4, and with it the gradient, to 1e-3.
    Example: z = (0, 0, 0), k = 0 gives L = log 3 - log 2 = 0.4055 and the gradient (1/3, -1/6, -1/6).
    """
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    index = k[:, None]
    z = z - z.detach().scatter(1, index, -torch.inf).amax(1, keepdim=True)
    others = torch.logsumexp(z.scatter(1, index, -torch.inf), dim=1)
    # torch's default threshold of 20 would show in float64
    return F.softplus(z.gather(1, index).squeeze(1) - others, threshold=50.0)


def effective_number_weights(counts: list[int], beta: float = 0.9999) -> list[float]:
    """Class weights (1 - b) / (1 - b^n_c) (Cui 2019), rescaled to sum to 7; 0 for a class without rows.

    1 - b^n is computed as -expm1(n log b), which is exact when b^n is close to 1.
    """
    raw = [0.0 if n == 0 else (1.0 if beta == 0.0 else (1.0 - beta) / -math.expm1(n * math.log(beta))) for n in counts]
    return [w * NUM_CLASSES / sum(raw) for w in raw]
