"""Logits of a model for a face pack."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fer_lib.datasets.batches import eval_batches
from fer_lib.datasets.facepack import FacePack
from fer_lib.emotions import NUM_CLASSES
from fer_lib.models.bundle import WEIGHTS, Bundle
from fer_lib.models.logits import logits_function
from fer_lib.storage.progress import step


class OnnxClassifier(nn.Module):
    """A bundle's ONNX file in place of its torch model; it runs on the CPU whatever the device of its input."""

    def __init__(self, bundle: Bundle):
        super().__init__()
        self.logits = logits_function(bundle, "onnx")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.logits(images.cpu().contiguous().numpy()))


def network(bundle: Bundle) -> nn.Module:
    """The torch model of a bundle, or its ONNX file where it holds no torch weights, as the packaged model does."""
    return bundle.model() if bundle.has(WEIGHTS) else OnnxClassifier(bundle)


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    pack: FacePack,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    flip_average: bool = False,
    max_batches: int = 0,
    what: str = "predicting faces",
) -> np.ndarray:
    """float64 logits [N, 7] of the rows of ``pack`` in order.  ``model``, already on ``device``, is put into eval mode.

    ``flip_average``: mean of the logits of the view and of its mirror image.  ``max_batches`` > 0: only the rows of
    that many batches.  ``what`` names the step that the terminal shows.
    """
    model.eval()
    views = [False, True] if flip_average else [False]
    total = np.zeros((len(pack.faces), NUM_CLASSES))
    done, limit = 0, min(len(total), max_batches * batch_size or len(total))
    with step(what, total=limit * len(views), unit="faces") as counter:
        for number, flip in enumerate(views):
            for i, (rows, images) in enumerate(eval_batches(pack, batch_size, flip)):
                if max_batches and i >= max_batches:
                    break
                x = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
                total[rows] += model(x).double().cpu().numpy()
                done = rows[-1] + 1
                counter.update(number * limit + int(done))
    return total[:done] / len(views)
