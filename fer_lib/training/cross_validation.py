"""Out-of-fold logits: every row predicted by a net that saw neither it nor a copy of it."""

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
from fer_lib.datasets.facepack import FacePack, Faces, rows_key
from fer_lib.datasets.manifest import Manifest, evalset_id, protocol_id
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import DataError
from fer_lib.models.bundle import read_bundle
from fer_lib.models.cache import cached_array
from fer_lib.models.classifier import build_classifier
from fer_lib.models.inference import predict_logits
from fer_lib.params import StudentParams
from fer_lib.storage.atomic import explained
from fer_lib.training.data import FitData
from fer_lib.training.distributed import SingleProcess
from fer_lib.training.fit import apply_settings
from fer_lib.training.loop import fit
from fer_lib.training.student import StudentObjective

FOLDS_VERSION = 1  # of everything here that decides logits


def assign_folds(frame: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """The fold 0..folds-1 of each row, int64 [N]: a function of (seed, content), never of the row order.

    Rows of one content, or of one ``group`` (near copies, as an audit's manifest names them), share a fold.  Label by
    label, these families go in hash order to the fold that holds the fewest rows of the label.
    Raises DataError when there are fewer families than folds.
    """
    family = _families(frame)
    table = frame[["content_id", "label"]].assign(family=family)
    one = table.groupby("family").agg(name=("content_id", "min"), label=("label", "min"), size=("label", "size"))
    if len(one) < folds:
        raise DataError(f"{len(frame)} rows are {len(one)} different pictures, too few for {folds} folds: use fewer")
    one["hash"] = [hashlib.sha256(f"fold:{seed}:{name}".encode()).hexdigest() for name in one["name"]]
    fold = pd.Series(0, index=one.index)
    whole = np.zeros(folds, np.int64)
    for _, same in one.sort_values("hash").groupby("label"):
        held = np.zeros(folds, np.int64)
        for name, size in zip(same.index, same["size"].tolist(), strict=True):
            chosen = int(np.lexsort((whole, held))[0])
            fold[name] = chosen
            held[chosen] += size
            whole[chosen] += size
    return fold.loc[family].to_numpy(np.int64)


def _families(frame: pd.DataFrame) -> np.ndarray:
    """A number a row, shared by rows that are linked by content or group, over any number of steps."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(frame)
    content = frame["content_id"].factorize()[0]
    links = [content]
    if "group" in frame:
        codes = frame["group"].factorize()[0]  # -1 where a row has none
        links.append(np.where(codes >= 0, codes + content.max() + 1, content))
    nodes = np.concatenate(links)
    rows = np.tile(np.arange(n), len(links))
    size = n + int(nodes.max()) + 1
    graph = coo_array((np.ones(len(nodes), np.int8), (rows, n + nodes)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n]


def out_of_fold(
    pack: FacePack,
    fold: np.ndarray,
    learned: np.ndarray,
    p: StudentParams,
    cache_dir: Path,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """float64 logits [N, 7] of each row of ``pack``, by a net fitted to the rows of the other folds.

    ``fold`` int [N]; ``learned`` bool [N]: the rows that may be learned from.  The last epoch's net is taken, so that
    no choice looks at the rows it is to predict; logits are the mean of a face's and its mirror image's.  Each fold's
    logits are kept in ``cache_dir``, so that an audit that was stopped goes on where it was, within a fold too.
    ``progress(done, total)`` counts epochs.  Raises DataError when a fold leaves nothing to learn from.
    """
    apply_settings(p)
    folds = np.unique(fold)
    logits = np.empty((len(fold), NUM_CLASSES))
    for number, k in enumerate(folds):
        held, train = np.flatnonzero(fold == k), np.flatnonzero((fold != k) & learned)
        if len(train) < 2:  # batch norm needs two
            raise DataError(f"fold {k} of {len(folds)} leaves {len(train)} rows to learn from: use more rows or folds")

        def epochs(done: int, before: int = number * p.epochs) -> None:
            if progress is not None:
                progress(before + done, len(folds) * p.epochs)

        logits[held] = _cached_fold(subset(pack, train), subset(pack, held), p, cache_dir, device, epochs)
        epochs(p.epochs)
    return logits


def subset(pack: FacePack, rows: np.ndarray) -> FacePack:
    """The faces of some rows of a pack, read through it; nothing is copied."""
    numbers = rows.tolist()
    manifest = Manifest(pack.manifest.frame.iloc[rows].reset_index(drop=True), pack.manifest.meta, pack.manifest.path)
    faces = Faces(len(numbers), pack.faces.shape[1], lambda i: pack.faces.thin(numbers[i]))
    return FacePack(faces, manifest, pack.contract, len(numbers))


def _cached_fold(
    train: FacePack, held: FacePack, p: StudentParams, cache_dir: Path, device: torch.device, epochs: Callable
) -> np.ndarray:
    fields = p.model_dump(mode="json", exclude={"output_dir", "name", "device", "threads", "workers", "pack"})
    parts = [FOLDS_VERSION, rows_key(train.manifest), rows_key(held.manifest), train.contract.id, fields]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    file, work = cache_dir / f"fold-{key}.npy", cache_dir / f".fold-{key}"
    with explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_dir / f".fold-{key}.lock"):
        logits = cached_array(file, lambda: _fit_fold(train, held, p, work, device, key, epochs))
        if work.is_dir():  # kept until the logits are written
            shutil.rmtree(work)
    return logits


def _fit_fold(train, held, p: StudentParams, work: Path, device, key: str, epochs: Callable) -> np.ndarray:
    labels = train.manifest.labels
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    sampler = Sampler(labels, p.batch_size, False, p.seed)
    roles = np.full(len(held.manifest), "select")  # there is no temperature to fit, and nothing is selected
    prior = (counts / counts.sum()).tolist()
    data = FitData(train, held, sampler, train.contract, prior, None, roles, len(roles))
    config = dict(backbone=p.backbone, image_size=p.image_size, embed_dim=p.embed_dim, dropout=p.dropout, head=p.head)
    torch.manual_seed(p.seed)
    model = build_classifier(config)
    evalset = evalset_id(held.manifest.frame["sample_id"].tolist(), held.manifest.labels, "fold", 0)
    ids = {"fold": key, "evalset_id": evalset, "protocol_id": protocol_id(evalset, train.contract, "none")}
    options = dict(kind="student", name=p.name, ids=ids, team=SingleProcess(device))
    for event in fit(model, StudentObjective(p, data, device, None), data, p, work, **options):
        if event["event"] == "epoch":
            epochs(event["epoch"] + 1)
    return predict_logits(read_bundle(work / "best").model().to(device), held, 256, device, flip_average=True)
