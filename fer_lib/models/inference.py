"""Logits of a model for a face pack."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fer_lib.datasets.batches import eval_batches
from fer_lib.datasets.facepack import FacePack
from fer_lib.emotions import NUM_CLASSES


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    pack: FacePack,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    flip_average: bool = False,
    max_batches: int = 0,
) -> np.ndarray:
    """float64 logits [N, 7] of the rows of ``pack`` in order.  ``model``, already on ``device``, is put into eval mode.

    ``flip_average``: mean of the logits of the view and of its mirror image.  ``max_batches`` > 0: only the rows of
    that many batches.
    """
    model.eval()
    views = [False, True] if flip_average else [False]
    total = np.zeros((len(pack.faces), NUM_CLASSES))
    done = 0
    for flip in views:
        for i, (rows, images) in enumerate(eval_batches(pack, batch_size, flip)):
            if max_batches and i >= max_batches:
                break
            x = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
            total[rows] += model(x).double().cpu().numpy()
            done = rows[-1] + 1
    return total[:done] / len(views)
