"""Soft labels: the logits of a teacher ensemble on disk, computed once per manifest and verified when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.calibration import metrics
from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.facepack import LIBRARIES, FacePack, open_or_build, rows_key
from fer_lib.datasets.interchange import escape_formula
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import TrainingExposure, read_exposure
from fer_lib.errors import FerError
from fer_lib.models.bundle import Bundle
from fer_lib.models.cache import cached_array
from fer_lib.models.ensemble import SPACES, Mix, combine, rank_mixes
from fer_lib.models.ensemble_folder import Ensemble, open_teachers
from fer_lib.models.inference import network, predict_logits
from fer_lib.models.softlabels_format import COSTS, RANKING, RANKING_CSV, write_softlabels
from fer_lib.params import SoftLabelParams
from fer_lib.params.base import PackKind
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.progress import each, step

SHARPNESS_TEMPERATURES = (1.0, 1.2, 2.0, 4.0, 5.0, 6.0)


def cached_logits(
    bundle: Bundle,
    rows: Manifest,
    cache_dir: Path,
    *,
    flip_average: bool,
    batch_size: int,
    device,
    pack_kind: PackKind = "faces",
) -> tuple[np.ndarray, FacePack]:
    """float64 logits [N, 7] of the bundle's model for ``rows``, and the pack that holds these N faces.

    A bundle without torch weights is run by ONNX Runtime.  The logits are cached under a key of weights, rows,
    contract, view and image libraries.  N is smaller than the number of ``rows`` when a tolerance left images out.
    """
    tolerance = int(rows.meta.get("tolerance", 0))
    pack = open_or_build(rows, bundle.contract, cache_dir, tolerance, kind=pack_kind)
    pack_rows = rows_key(pack.manifest)  # changes when an image that a tolerance left out is restored
    parts = [bundle.network_sha256, pack_rows, bundle.contract.id, flip_average, tolerance, LIBRARIES]
    file = cache_dir / f"logits-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.npz"

    def compute() -> np.ndarray:
        return predict_logits(network(bundle).to(device), pack, batch_size, device, flip_average)

    return cached_array(file, compute), pack


def members_logits(
    bundles: Sequence[Bundle], rows: Manifest, cache_dir: Path, **options: Any
) -> tuple[list[np.ndarray], Manifest]:
    """:func:`cached_logits` of each bundle, and the rows that they are of.

    Raises FerError when a tolerance left the bundles with different rows.
    """
    logits, packs = zip(*[cached_logits(b, rows, cache_dir, **options) for b in each("teacher", bundles)], strict=True)
    used = packs[0].manifest
    if any(pack.manifest.sample_ids != used.sample_ids for pack in packs):
        raise FerError("the teachers' face packs hold different rows: repair the unreadable images of the manifest")
    return list(logits), used


def export_softlabels(
    p: SoftLabelParams, manifest: Manifest, teachers: list[Path], out: Path, cache_dir: Path, device
) -> dict[str, Any]:
    """Write the ensemble logits of all train rows into ``out`` and return the content of ``alignmentreport.json``.

    ``teachers``: bundle folders, or the folder of one ensemble, which has its own weights and space.  Without
    ``p.weights`` the ensemble is the best on val/select in ``p.space``.  ``ensemble_ranking.json`` and ``.csv`` list
    the best of every set of teachers.
    Raises FerError when there are no teachers, or not one weight per teacher.
    """
    if not teachers:
        raise FerError("no teachers: name at least one finished 04_train_teacher phase, or bundle folders")
    bundles, ensemble = open_teachers(teachers)
    if p.weights and ensemble:
        raise FerError(f"{ensemble.path} is an ensemble, whose weights are fixed: leave weights blank")
    if p.weights and len(p.weights) != len(bundles):
        raise FerError(
            f"{len(p.weights)} weights for {len(bundles)} teachers: give one per teacher, or none to search them"
        )
    out.mkdir(parents=True, exist_ok=True)
    train, select = manifest.rows(split="train"), manifest.rows(split="val", val_role="select")
    options = dict(flip_average=p.flip_average, batch_size=p.batch_size, device=device, pack_kind=p.pack)
    select_logits, select_rows = members_logits(bundles, select, cache_dir, **options)
    with step("searching ensemble weights"):
        mixes = rank_mixes(select_logits, select_rows.labels)
    weights, space = _chosen(p, ensemble, mixes)
    ensemble_logits = combine(select_logits, weights, space)
    train_logits, rows = members_logits(bundles, train, cache_dir, **options)
    logits = combine(train_logits, weights, space)

    tolerance = int(manifest.meta.get("tolerance", 0))
    evalset = evalset_id(select_rows.sample_ids, select_rows.labels, "val/select", tolerance)
    counts = {"n_expected": len(select), "n_used": len(select_rows)}
    identity = {"evalset_id": evalset, "protocol_id": _protocol(evalset, bundles, p), **counts}
    summaries = [metrics.summary(z, select_rows.labels) for z in select_logits]
    members = [
        {"uri": _relative_path(out, b.path), "model": b.name, "backbone": b.meta["model"]["backbone"],
         "epoch": b.meta["ids"].get("epoch"), "weight": w, "weights_sha256": b.weights_sha256,
         "face_contract_id": b.contract.id, "face_contract": b.contract.model_dump(mode="json"),
         "val_select": {k: s[k] for k in ("accuracy", "macro_f1", "nll", "ece")}}
        for b, w, s in zip(bundles, weights, summaries, strict=True)
    ]  # fmt: skip
    ranking = sorted(members, key=lambda m: (-m["val_select"]["macro_f1"], -m["val_select"]["accuracy"]))
    record = {
        "manifest_sha256": manifest.sha256, "split": "train", "rows": len(rows), "rows_sha256": rows.sha256,
        "image_size": [b.contract.image_size for b in bundles], "use_clahe": [b.contract.clahe for b in bundles],
        "teachers": members, "ranking": [m["model"] for m in ranking], "ensemble_space": space, "logits_kind": "raw",
        "flip_average": p.flip_average, "sharpness": sharpness(logits), **identity,
    }  # fmt: skip
    summary = metrics.summary(ensemble_logits, select_rows.labels)
    scores = {k: summary[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier")} | identity
    selection = TrainingExposure.of((), select_rows.frame["content_id"])  # the ensemble's weights depend on these rows
    exposure = selection.with_ancestors([read_exposure(b.path) for b in bundles])
    write_softlabels(out, logits, rows, record, scores, exposure)
    costs = [{"weights_sha256": bundle.weights_sha256, "cost": bundle.meta.get("cost")} for bundle in bundles]
    write_json(out / COSTS, costs)
    _write_ranking(out, mixes, bundles, {"split": "val/select", "evalset_id": evalset, **counts}, p)
    return record


def _chosen(p: SoftLabelParams, ensemble: Ensemble | None, mixes: list[Mix]) -> tuple[list[float], str]:
    """Weights and space: the ensemble's own, those of the parameters, or the best of the search."""
    if ensemble:
        return ensemble.weights, ensemble.space
    if p.weights:
        return list(p.weights), p.space
    best = next(mix for mix in mixes if p.space in (mix.space, "best"))
    return list(best.weights), best.space


def _protocol(evalset: str, bundles: list[Bundle], p: SoftLabelParams) -> str:
    view = "flip" if p.flip_average else "none"
    return protocol_id(evalset, bundles[0].contract, f"{view}:ensemble:{[b.contract.id for b in bundles]}")


def _write_ranking(
    out: Path, mixes: list[Mix], bundles: list[Bundle], rows: dict[str, Any], p: SoftLabelParams
) -> None:
    """Write ``ensemble_ranking.json`` and ``.csv``: the mixes, scored on the same rows; a member alone in one space."""
    sets = []
    for mix in mixes:
        members, weights = zip(*[(b, w) for b, w in zip(bundles, mix.weights, strict=True) if w], strict=True)
        if len(members) > 1 or mix.space == SPACES[0]:
            scores = {"space": mix.space, "macro_f1": mix.macro_f1, "accuracy": mix.accuracy}
            scores["protocol_id"] = _protocol(rows["evalset_id"], list(members), p)
            sets.append({"members": [b.name for b in members], "weights": weights, **scores})
    write_json(out / RANKING, {**rows, "sets": sets})
    table = pd.DataFrame(sets).assign(**rows)
    table["members"] = [escape_formula(" + ".join(names)) for names in table["members"]]
    table["weights"] = [" + ".join(f"{w:g}" for w in weights) for weights in table["weights"]]
    with fresh_file(out / RANKING_CSV) as work:
        table.to_csv(work, index=False)


def _relative_path(out: Path, bundle: Path) -> str:
    """The bundle's path relative to ``out`` when both are below one parent, which may then be moved; else absolute."""
    out, bundle = out.resolve(), bundle.resolve()
    near = bundle.is_relative_to(out.parent)
    return (Path("..") / bundle.relative_to(out.parent) if near else bundle).as_posix()


def sharpness(logits: np.ndarray) -> list[dict[str, float]]:
    """Quantiles of the largest probability and of the entropy (nats) at each of ``SHARPNESS_TEMPERATURES``.

    ``logits`` float [N, 7].
    """
    table = []
    for t in SHARPNESS_TEMPERATURES:
        log_p = metrics.log_softmax(logits / t)
        p = np.exp(log_p)
        top, entropy = p.max(1), -(p * log_p).sum(1)
        quantiles = {
            f"{name}_q{q:02d}": float(np.quantile(values, q / 100))
            for name, values in (("max_prob", top), ("entropy", entropy))
            for q in (5, 25, 50, 75, 95)
        }
        table.append({"temperature": t, **quantiles})
    return table
