"""Negative learning (Kim 2019): the loss of a class that a sample does not belong to, and the draw of that class."""

from __future__ import annotations

import torch
from torch.nn import functional as F


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


def draw_class(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a class of each row, int64 [B], drawn in proportion to ``weights``; bool [B]: whether it has a weight above 0).

    ``weights`` int64 [B, K]: integers, because a GPU's cumulative sum of floats is not deterministic; ``uniform``
    float32 [B] in [0, 1).  A row without a weight gets the last class.
    """
    below = weights.cumsum(1)
    total = below[:, -1]
    k = (below <= (uniform * total)[:, None]).sum(1).clamp_max(weights.shape[1] - 1)
    return k, total > 0
