"""The data of a fit: packs of train and val, the sampler, val roles, prior and class weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """``val_roles`` str [N_val] (select, temperature, conformal); ``prior`` [7]: the class shares in the loss.

    ``n_select`` counts the val/select rows of the manifest, including those that a tolerance left out of the pack.
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
    def class_shares(self) -> list[float]:
        """The shares of the classes [7] among the drawn rows where classes are not balanced."""
        sums = class_sums(self.sampler, self.train.manifest.weights)
        return (sums / sums.sum()).tolist()

    @property
    def rows_with_votes(self) -> int:
        return int((~np.isnan(self.train.manifest.soft_labels).any(1)).sum())

    def coverage(self, step: int, steps_per_epoch: int) -> np.ndarray:
        """bool [N_train]: the rows that the first ``step`` steps used, computed again rather than stored."""
        covered = np.zeros(len(self.sampler.labels), bool)
        for k in range(step):
            epoch, index = divmod(k, steps_per_epoch)
            covered[self.sampler.rows(epoch * self.sampler.steps_per_epoch + index)[0]] = True
        return covered


def class_sums(sampler: Sampler, weights: np.ndarray) -> np.ndarray:
    """float64 [7]: the sums of the rows' ``weights`` [N] by class; where sources are balanced, each counts once."""
    if sampler.sources is not None:
        _, source, rows = np.unique(sampler.sources, return_inverse=True, return_counts=True)
        weights = weights / rows[source]
    return np.bincount(sampler.labels, weights=weights, minlength=NUM_CLASSES)


def make_contract(p: FitParams) -> FaceContract:
    """The face contract of these parameters, with the backbone's own mean and std."""
    import timm

    cfg = timm.models.get_pretrained_cfg(p.backbone)  # None for an architecture without pretrained weights
    stats = {} if cfg is None else {"mean": cfg.mean, "std": cfg.std}
    return FaceContract(image_size=p.image_size, align=p.align, margin=p.margin, clahe=p.clahe, **stats)


def model_config(p: FitParams) -> dict[str, Any]:
    """The options of :func:`fer_lib.models.classifier.build_classifier` in these parameters."""
    blocks = len(p.nested.intervals) if p.nested.kind == "blocks" else 0
    names = {"backbone", "backbone_args", "image_size", "embed_dim", "dropout", "head"}
    return p.model_dump(include=names) | {"s": p.arcface_s, "blocks": blocks}


def loader_threads(p: FitParams, device: torch.device) -> int:
    """The number of loader threads.  ``workers: auto`` uses idle cores: up to 4 for a GPU, 1 for a CPU.

    It is 0 when torch computes on every core, and batches are then made between steps.  A loader thread would displace
    one of torch's threads, and the others would wait for it.
    """
    if p.workers != "auto":
        return p.workers
    if device.type == "cpu":
        return int(cores() > p.processes * torch.get_num_threads())
    return max(1, min(4, cores() // p.processes - 1))


def open_data(manifest: Manifest, p: FitParams, cache_dir: Path) -> FitData:
    """Packs and sampler of a fit.  DataError when train or val/select has no rows, or the packs do not fit on the disk.

    Test images are not read.  Test rows only count in the disk space that is checked, because evaluation packs them.
    """
    contract = make_contract(p)
    sources = dict(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    train, val = manifest.rows(split="train", **sources), manifest.rows(split="val", **sources)
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
    sources = packs[0].manifest.frame["source"].to_numpy(str) if p.balance_sources else None
    sampler = Sampler(labels, p.batch_size, balanced, p.seed, sources)
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    shares = class_sums(sampler, packs[0].manifest.weights)
    if not shares.any():  # every sample weight is 0: no class is more frequent than another
        shares = np.ones(NUM_CLASSES)
    weighted = p.imbalance in ("class_weights", "both")
    weights = np.asarray(effective_number_weights(counts.tolist(), p.cb_beta), np.float32) if weighted else None
    sampling = np.full(NUM_CLASSES, 1.0) if balanced else shares
    effective = sampling * (weights if weighted else 1.0)
    if p.logit_adjustment:  # the adjusted loss leaves pi^(1 - tau) of the prior pi in the logits
        present = shares > 0  # 0 to a negative power is undefined
        effective = np.power(shares / shares.sum(), 1.0 - p.logit_adjustment, where=present, out=np.zeros(NUM_CLASSES))
    roles = packs[1].manifest.frame["val_role"].to_numpy(dtype=str)
    prior = (effective / effective.sum()).tolist()
    return FitData(packs[0], packs[1], sampler, contract, prior, weights, roles, n_select)
