"""Out-of-fold logits: each row is predicted by a net that was trained without it and without its duplicates."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from fer_lib.datasets.batches import Sampler
from fer_lib.datasets.duplicate_records import components, equal_rows
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import FacePack, Faces, rows_key
from fer_lib.datasets.manifest import Manifest
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.models.bundle import read_bundle
from fer_lib.models.cache import cached_array
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.params import FitParams, StudentParams
from fer_lib.storage.progress import step
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.fit import apply_settings
from fer_lib.training.fit_inputs import FitData, model_config
from fer_lib.training.loop import fit
from fer_lib.training.student import StudentObjective

FOLDS_VERSION = 1  # raise it when code of this module changes the logits


def assign_folds(frame: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """The fold of each row, int64 [N] in 0..folds-1: a function of seed and content, independent of the row order.

    Rows of one ``content_id`` or one ``group`` (near-duplicates in an audit's manifest) are linked, and linked rows
    share a fold.  For each label in turn, the sets of linked rows are sorted by hash; each goes to the fold that has
    the fewest rows of the label.  Raises DataError when there are fewer sets than folds.
    """
    names = [frame["content_id"]]
    if "group" in frame:  # a row without a group is linked by its content alone
        names.append(frame["group"].fillna("content " + frame["content_id"]))
    component = components(len(frame), [equal_rows(name.factorize()[0]) for name in names])
    table = frame[["content_id", "label"]].assign(component=component)
    sets = table.groupby("component").agg(name=("content_id", "min"), label=("label", "min"), size=("label", "size"))
    if len(sets) < folds:
        raise DataError(f"{len(frame)} rows are {len(sets)} different images, too few for {folds} folds: use fewer")
    sets["hash"] = [hashlib.sha256(f"fold:{seed}:{name}".encode()).hexdigest() for name in sets["name"]]
    fold = pd.Series(0, index=sets.index)
    totals = np.zeros(folds, np.int64)
    for _, of_label in sets.sort_values("hash").groupby("label"):
        label_totals = np.zeros(folds, np.int64)
        for number, size in zip(of_label.index, of_label["size"].tolist(), strict=True):
            smallest = int(np.lexsort((totals, label_totals))[0])
            fold[number] = smallest
            label_totals[smallest] += size
            totals[smallest] += size
    return fold.loc[component].to_numpy(np.int64)


def out_of_fold(
    pack: FacePack,
    fold: np.ndarray,
    trainable: np.ndarray,
    p: StudentParams,
    cache_dir: Path,
    device: torch.device,
) -> np.ndarray:
    """float64 logits [N, 7] of each row of ``pack``, by a net trained on the other folds.

    ``fold`` int [N]; ``trainable`` bool [N]: the rows that may be trained on.  The net of the last epoch predicts,
    because a selection by score would use the rows that it predicts.  Logits are averaged over a face and its mirror
    image.

    The logits of a fold are cached in ``cache_dir``.  A stopped audit resumes there, within a fold too.
    Raises DataError when a fold leaves fewer than two rows to train on.
    """
    apply_settings(p)
    folds = np.unique(fold)
    logits = np.empty((len(fold), NUM_CLASSES))
    with step("training nets, epoch", total=len(folds) * p.epochs) as epochs:
        for number, k in enumerate(folds):
            val, train = np.flatnonzero(fold == k), np.flatnonzero((fold != k) & trainable)
            if len(train) < 2:  # batch norm needs two
                raise DataError(
                    f"fold {k} of {len(folds)} leaves {len(train)} rows to train on: use more rows or folds"
                )

            def count_epochs(done: int, before: int = number * p.epochs) -> None:
                epochs.update(before + done)

            logits[val] = _cached_fold(subset(pack, train), subset(pack, val), p, cache_dir, device, count_epochs)
            count_epochs(p.epochs)
    return logits


def subset(pack: FacePack, rows: np.ndarray) -> FacePack:
    """A pack of the ``rows`` (int [M]) of ``pack``; faces are read from ``pack``, not copied."""
    numbers = rows.tolist()
    manifest = Manifest(pack.manifest.frame.iloc[rows].reset_index(drop=True), pack.manifest.meta, pack.manifest.path)
    faces = Faces(len(numbers), pack.faces.shape[1], lambda i: pack.faces.compact(numbers[i]))
    return FacePack(faces, manifest, pack.contract, len(numbers))


def _cached_fold(
    train: FacePack, val: FacePack, p: StudentParams, cache_dir: Path, device: torch.device, count_epochs: Callable
) -> np.ndarray:
    apart = {"output_dir", "name", "device", "threads", "workers", "pack", *FitParams.unused_fields(p.model_dump())}
    fields = p.model_dump(mode="json", exclude=apart)
    parts = [FOLDS_VERSION, rows_key(train.manifest), rows_key(val.manifest), train.contract.id, fields]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    file, work = cache_dir / f"fold-{key}.npz", cache_dir / f".fold-{key}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".fold-{key}.lock"):
        logits = cached_array(file, lambda: _fit_fold(train, val, p, work, device, key, count_epochs))
        if work.is_dir():  # removed only now: until the logits are written a resume needs it
            shutil.rmtree(work)
    return logits


def _fit_fold(train, val, p: StudentParams, work: Path, device, key: str, count_epochs: Callable) -> np.ndarray:
    labels = train.manifest.labels
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    sampler = Sampler(labels, p.batch_size, False, p.seed)
    roles = np.full(len(val.manifest), "select")  # no temperature is fitted
    prior = (counts / counts.sum()).tolist()
    data = FitData(train, val, sampler, train.contract, prior, None, roles, len(roles))
    torch.manual_seed(p.seed)
    model = build_classifier(model_config(p))
    evalset = evalset_id(val.manifest.frame["sample_id"].tolist(), val.manifest.labels, "fold", 0)
    ids = {"fold": key, "evalset_id": evalset, "protocol_id": protocol_id(evalset, train.contract, "none")}
    options = dict(kind="student", name=p.name, ids=ids, context=SingleProcess(device))
    for event in fit(model, StudentObjective(p, data, device, None), data, p, work, **options):
        if event["event"] == "epoch":
            count_epochs(event["epoch"] + 1)
    return predict_logits(read_bundle(work / "best").model().to(device), val, 256, device, flip_average=True)
