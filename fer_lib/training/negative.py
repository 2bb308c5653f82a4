"""Negative learning in a fit (Kim et al. 2019, NLNL): the rows it is applied to, the class of each, and SelNLPL."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from fer_lib.datasets.batches import keyed_rng
from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import DataError, FerError
from fer_lib.models.losses import negative_loss
from fer_lib.params import FitParams
from fer_lib.training.distributed import sum_over_processes
from fer_lib.training.fit_inputs import FitData

WINDOW = 10  # epochs of SelNLPL's running mean
NL, SEL_NL, SEL_PL = range(3)  # the phases of SelNLPL


class NegativeLearning:
    """The losses of ``p.negative``; every mean is over the rows of a micro-batch to which the loss is applied.

    negl: the loss of the labels plus weight x the mean of -log(1 - p_k) over the rows that are drawn (by the ratio of
    their class), whose prediction has an entropy of at least ``entropy`` ln 7, and that have a class k to draw.
    selnlpl: -log(1 - p_k) on all rows, later on those whose running mean of p_y is at least 1/7, then the loss of the
    labels on those where it exceeds 1/2.  The running mean is over the views of the last ``WINDOW`` whole epochs.

    Draws are a function of (seed, epoch, sample): micro-batches and processes agree.  ``state`` is what a resumed fit
    needs.  Raises FerError when ``draw: confusion`` has no ``teacher_logits`` [N, 7], DataError when ``draw:
    neg_label`` has no row with one.
    """

    def __init__(self, p: FitParams, data: FitData, device: torch.device, teacher_logits: np.ndarray | None = None):
        self.p, self.options, rows = p, p.negative, data.train.manifest
        self.sample_ids = rows.sample_ids
        ratios = [self.options.class_ratios.get(name, self.options.ratio) for name in EMOTIONS]
        self.ratios = torch.tensor(ratios, device=device)
        self.weights = torch.ones(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
        if self.options.draw == "confusion":
            if teacher_logits is None:
                raise FerError(
                    "negative.draw: confusion needs a teacher's predictions on the train rows: name softlabels (a "
                    "finished 06_export_softlabels phase or folder) for a student, or set draw: uniform or lowest"
                )
            self.weights = torch.from_numpy(confusions(rows.labels, teacher_logits)).to(device)
        self.negatives = torch.from_numpy(rows.negatives).to(device)
        if self.options.draw == "neg_label" and not (self.negatives >= 0).any():
            raise DataError(
                "negative.draw: neg_label, but no train row has a neg_label: use a manifest with that column, or set "
                "draw: uniform, lowest or confusion"
            )
        bounds = np.rint(np.cumsum(self.options.shares[:2]) * p.epochs)  # first epochs of SelNL and SelPL
        self.bounds = bounds.astype(int).tolist()
        # [epoch modulo 2]: rows, rows that pass the gate, rows it is applied to, sum of their NegL
        self.state = {"negative_counts": torch.zeros(2, 4, device=device)}
        if self.options.method == "selnlpl":  # [epoch modulo WINDOW + 1]: sum of p_y and number of views of each row
            self.state["label_probs"] = torch.zeros(WINDOW + 1, 2, len(rows), device=device)

    def __call__(
        self,
        logits: torch.Tensor,
        y: torch.Tensor,
        label_loss: torch.Tensor,
        rows: np.ndarray,
        epoch: float,
        partner_y: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(the loss of the labels, or what replaces it; the loss to add to the complete one), each float32 [B].

        ``logits`` [B, 7] without a margin; ``label_loss`` [B]; ``rows`` int64 [B], positions in the pack.  With mixup,
        k is also not the label ``partner_y`` (int64 [B]) of the row's partner, and the ratio is that of ``y``.
        """
        number, index = int(epoch), torch.from_numpy(rows).to(logits.device)
        probs = F.softmax(logits.detach().float(), dim=1)
        selected, *drawn = torch.from_numpy(self._draws(rows, number)).to(logits.device).unbind(1)
        weights = self._class_weights(probs, index, y, partner_y)
        classes = [draw_class(weights, uniform) for uniform in drawn]
        has_class = classes[0][1]
        negative = torch.stack([negative_loss(logits, k) for k, _ in classes]).mean(0)
        if self.options.method == "negl":
            gate = torch.special.entr(probs).sum(1) >= self.options.entropy * math.log(NUM_CLASSES)
            loss, applied = negative, gate & has_class & (selected < self.ratios[y])
        else:
            phase, gate = self.phase(number), self._selection(probs, index, y, number)
            loss, applied = (label_loss, gate) if phase == SEL_PL else (negative, gate & has_class)
        n = applied.sum()
        self._count(number, gate, applied, negative.detach())
        term = torch.where(applied, loss, 0.0) * (len(rows) / n.clamp_min(1))
        if self.options.method == "negl":
            return label_loss, self.options.weight * term
        return term, torch.zeros_like(term)

    def phase(self, number: int) -> int:
        """The phase of SelNLPL in epoch ``number``: ``NL``, ``SEL_NL`` or ``SEL_PL``."""
        return sum(number >= bound for bound in self.bounds)

    def _draws(self, rows: np.ndarray, number: int) -> np.ndarray:
        """float32 [B, 1 + draws] in [0, 1): whether a row is drawn, and its classes."""
        keys = ((self.p.seed, "negative", number, self.sample_ids[row]) for row in rows.tolist())
        return np.stack([keyed_rng(*key).random(1 + self.options.draws, np.float32) for key in keys])

    def _class_weights(
        self, probs: torch.Tensor, index: torch.Tensor, y: torch.Tensor, partner_y: torch.Tensor | None
    ) -> torch.Tensor:
        """int64 [B, 7]: k is drawn in proportion to these; 0 for the labels."""
        wrong = F.one_hot(y, NUM_CLASSES) == 0
        if partner_y is not None:
            wrong &= F.one_hot(partner_y, NUM_CLASSES) == 0
        if self.options.draw == "neg_label":
            named = self.negatives[index][:, None]
            return (torch.arange(NUM_CLASSES, device=y.device) == named) * wrong
        if self.options.draw == "lowest":
            order = probs.masked_fill(~wrong, torch.inf).argsort(dim=1, stable=True)  # the labels last
            return torch.zeros_like(order).scatter(1, order[:, : self.options.lowest], 1) * wrong
        return self.weights[y] * wrong

    def _selection(self, probs: torch.Tensor, index: torch.Tensor, y: torch.Tensor, number: int) -> torch.Tensor:
        """bool [B]: the rows that SelNLPL's phase selects by the epochs before ``number``; also records p_y."""
        history, slot = self.state["label_probs"], number % (WINDOW + 1)
        label_probs = probs.gather(1, y[:, None]).squeeze(1)
        history[slot].index_add_(1, index, torch.stack([label_probs, torch.ones_like(label_probs)]))
        earlier = torch.arange(WINDOW + 1, device=index.device) != slot
        total, views = history[:, :, index][earlier].sum(0)
        phase, mean = self.phase(number), total / views.clamp_min(1)  # 0 for a row without a view: not selected
        if phase == NL:
            return torch.ones_like(y, dtype=torch.bool)
        return mean > 0.5 if phase == SEL_PL else mean >= 1 / NUM_CLASSES

    def _count(self, number: int, gate: torch.Tensor, applied: torch.Tensor, negative: torch.Tensor) -> None:
        counts = torch.stack([torch.ones_like(negative), gate, applied, torch.where(applied, negative, 0.0)]).sum(1)
        self.state["negative_counts"][number % 2] += sum_over_processes(counts)

    def figures(self, epoch: float) -> dict[str, float | None]:
        """Of the epoch's rows, all processes': the share that a loss was applied to, the share that passed the gate
        (negl: of the entropy; selnlpl: of the running mean), and the mean NegL; None where it was applied to none.

        A second call changes nothing: a fit may be resumed between the last step of an epoch and its checkpoint.
        """
        number = int(epoch)
        rows, gate, applied, loss = self.state["negative_counts"][number % 2].tolist()
        self.state["negative_counts"][(number + 1) % 2].zero_()
        positive = False
        if self.options.method == "selnlpl":
            self.state["label_probs"][(number + 1) % (WINDOW + 1)].zero_()
            positive = self.phase(number) == SEL_PL
        mean = None if positive or not applied else loss / applied
        return {"negl_applied_frac": applied / rows, "negl_gate_share": gate / rows, "negl_loss": mean}


def confusions(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """int64 [7, 7]: how often the rows of each label are predicted as each other class; the diagonal is 0.

    ``labels`` int64 [N], ``logits`` [N, 7].  A label whose rows are all predicted right, or that has none, gets 1 for
    every other class.
    """
    counts = np.bincount(labels * NUM_CLASSES + logits.argmax(1), minlength=NUM_CLASSES**2)
    counts = counts.reshape(NUM_CLASSES, NUM_CLASSES)
    np.fill_diagonal(counts, 0)
    counts[counts.sum(1) == 0] = 1
    np.fill_diagonal(counts, 0)
    return counts


def draw_class(weights: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a class of each row, int64 [B], drawn in proportion to ``weights``; bool [B]: whether it has a weight above 0).

    ``weights`` int64 [B, K]: integers, because a GPU's cumulative sum of floats is not deterministic; ``uniform``
    float32 [B] in [0, 1).  A row without a weight gets the last class.
    """
    below = weights.cumsum(1)
    total = below[:, -1]
    k = (below <= (uniform * total)[:, None]).sum(1).clamp_max(weights.shape[1] - 1)
    return k, total > 0
