"""Negative learning: what a face is not (Kim 2019, SPEC 8), as a pure function of logits."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def negative_loss(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """-log(1 - p_k) of each sample, [B] (Kim 2019, eq. 2), p = softmax(z); a step against its gradient lowers p_k.

    ``logits`` [B, K], half precision taken as float32; ``k`` int64 [B], a class that the sample is not.

        L = logsumexp(z) - logsumexp_{j != k}(z) = softplus(z_k - logsumexp_{j != k}(z))
        dL/dz_k = p_k        dL/dz_j = -p_k q_j,  q the softmax over the others

    The second form of L is the one computed: in the first, p_k below 1e-7 is lost between two equal numbers.
    Worked: z = (0, 0, 0), k = 0 gives L = log 3 - log 2 = 0.4055 and the gradient (1/3, -1/6, -1/6).
    """
    z = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    at = k[:, None]
    others = torch.logsumexp(z.scatter(1, at, -torch.inf), dim=1)
    return F.softplus(z.gather(1, at).squeeze(1) - others, threshold=50.0)  # torch's 20 would be seen in float64
