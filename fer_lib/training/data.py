"""What a fit sees: the packs of train and val, the sampler, roles, prior and class weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fer_lib.datasets.batches import Sampler
from fer_lib.datasets.facepack import FacePack, check_room, open_or_build
from fer_lib.datasets.manifest import Manifest
from fer_lib.devices import cores
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract
from fer_lib.models.losses import effective_number_weights
from fer_lib.params import FitParams


@dataclass(frozen=True)
class FitData:
    """``val_roles`` [N_val] str (select, temperature, conformal); ``prior`` [7] as the loss sees the classes.

    ``n_select`` counts the val/select rows of the manifest, also those that a tolerance left out of the pack.
    """

    train: FacePack
    val: FacePack
    sampler: Sampler
    contract: FaceContract
    prior: list[float]
    class_weights: np.ndarray | None  # float32 [7]
    val_roles: np.ndarray
    n_select: int

    @property
    def class_counts(self) -> list[int]:
        return np.bincount(self.sampler.labels, minlength=NUM_CLASSES).tolist()

    @property
    def rows_with_votes(self) -> int:
        return int((~np.isnan(self.train.manifest.soft_labels).any(1)).sum())

    def seen_before(self, step: int, steps_per_epoch: int) -> np.ndarray:
        """bool [N_train]: the rows that the first ``step`` steps drew, computed again rather than stored."""
        seen = np.zeros(len(self.sampler.labels), bool)
        for k in range(step):
            epoch, index = divmod(k, steps_per_epoch)
            seen[self.sampler.rows(epoch * self.sampler.steps_per_epoch + index)[0]] = True
        return seen


def make_contract(p: FitParams) -> FaceContract:
    """The face contract that these parameters ask for, with the backbone's own mean and std."""
    import timm

    known = timm.models.get_pretrained_cfg(p.backbone)  # None for an architecture that never had weights
    stats = {} if known is None else {"mean": known.mean, "std": known.std}
    return FaceContract(image_size=p.image_size, align=p.align, margin=p.margin, clahe=p.clahe, **stats)


def loader_threads(p: FitParams, device: torch.device) -> int:
    """``workers`` made out: ``auto`` takes cores that do not compute, up to 4 for a GPU and 1 for a CPU.

    Where every core computes it is 0: each batch is then made between two steps, since a thread beside them would only
    keep the others of a step waiting for the one that it displaced.
    """
    if p.workers != "auto":
        return p.workers
    if device.type == "cpu":
        return int(cores() > p.processes * torch.get_num_threads())
    return max(1, min(4, cores() // p.processes - 1))


def open_data(manifest: Manifest, p: FitParams, cache_dir: Path) -> FitData:
    """Packs and sampler of a fit.  DataError when train or val/select has no rows.

    Test rows are never opened here; they only count when the room for all packs is reckoned, for evaluation packs them.
    """
    contract = make_contract(p)
    keep = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    train, val = manifest.rows(split="train", **keep), manifest.rows(split="val", **keep)
    n_select = int((val.frame["val_role"] == "select").sum())
    if not n_select:
        raise DataError(
            f"manifest {manifest.path}: none of its {len(val)} val rows has the role select after include_sources "
            f"{p.include_sources} and exclude_sources {p.exclude_sources}; build it with a larger val_roles share"
        )
    tolerance = int(manifest.meta.get("tolerance", 0))
    frame = manifest.frame[manifest.frame["split"] == "test"].reset_index(drop=True)  # may be empty
    test = Manifest(frame, manifest.meta, manifest.path)
    check_room((train, val), contract, cache_dir, tolerance, p.pack, later=(test,))
    packs = [open_or_build(rows, contract, cache_dir, tolerance, kind=p.pack) for rows in (train, val)]
    labels = packs[0].manifest.labels
    balanced = p.imbalance in ("balanced", "both")
    sampler = Sampler(labels, p.batch_size, balanced, p.seed)
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    shares = np.bincount(labels, weights=packs[0].manifest.weights, minlength=NUM_CLASSES)
    if not shares.any():  # no label counts, so none says that a class is more frequent
        shares = np.ones(NUM_CLASSES)
    weighted = p.imbalance in ("class_weights", "both")
    weights = np.asarray(effective_number_weights(counts.tolist(), p.cb_beta), np.float32) if weighted else None
    drawn = np.full(NUM_CLASSES, 1.0) if balanced else shares
    effective = drawn * (weights if weighted else 1.0)
    if p.logit_adjustment:  # of the prior pi, the adjusted loss leaves pi^(1 - tau) in the logits
        seen = counts > 0  # 0 to a power below 0 is no share
        effective = np.power(counts / counts.sum(), 1.0 - p.logit_adjustment, where=seen, out=np.zeros(NUM_CLASSES))
    roles = packs[1].manifest.frame["val_role"].to_numpy(dtype=str)
    prior = (effective / effective.sum()).tolist()
    return FitData(packs[0], packs[1], sampler, contract, prior, weights, roles, n_select)
