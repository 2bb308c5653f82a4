"""A complete fit: device, data, model, starting weights, the training loop, and the reports beside ``best/``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from fer_lib.datasets.evalset_ids import evalset_id, protocol_id
from fer_lib.datasets.manifest import Manifest
from fer_lib.datasets.provenance import (
    EXPOSURE_FILE,
    StartingWeights,
    TrainingData,
    TrainingExposure,
    join_training_data,
    read_exposure,
)
from fer_lib.devices import describe_device
from fer_lib.errors import DataError, FerError
from fer_lib.models.bundle import Bundle, read_bundle
from fer_lib.models.classifier import FerClassifier, build_classifier, check_size
from fer_lib.models.cost import record_cost
from fer_lib.models.softlabels_format import read_costs, softlabels_sha256
from fer_lib.models.weights import load_pretrained, resample_weights
from fer_lib.params import FitParams
from fer_lib.params.strict import first_problem
from fer_lib.storage.atomic import fresh_file, write_json
from fer_lib.storage.environment import environment
from fer_lib.training.checkpoint import LAST, has_checkpoint
from fer_lib.training.distributed import SingleProcess, run_processes
from fer_lib.training.fit_inputs import FitData, make_contract, model_config, open_data
from fer_lib.training.loop import fit
from fer_lib.training.negative_report import write_negative_report
from fer_lib.training.nested import PrototypeObjective
from fer_lib.training.step import precision

# Starting weights with complete exposure records: hub and package weights never trained on these data sets, and the
# bundle of init_from has its own record.  Weights of another file may come from any images.
_RECORDED_SOURCES = ("none", "hub", "package", "init_from")


def run_fit(
    p: FitParams, manifest: Manifest, out: Path, cache_dir: Path, *, kind: str, objective: Callable, **options: Any
) -> Iterator[dict[str, Any]]:
    """Train a model on ``manifest`` into ``out``; yields the events of :func:`fer_lib.training.loop.fit`.

    ``objective(p, data, device)`` makes the loss.  ``options``: ``tune`` and ``norms`` of the loop; ``init_from``, a
    bundle folder to start from; ``run_id``; ``softlabels``, a folder of soft labels that the weights depend on.
    Raises FerError, before any step, for a device, backbone, starting weights or data that cannot be used.
    """
    work = partial(_run_fit, p, manifest, out, cache_dir, kind=kind, objective=objective, **options)
    yield from run_processes(work, p)


def _run_fit(
    p: FitParams,
    manifest: Manifest,
    out: Path,
    cache_dir: Path,
    context: SingleProcess,
    *,
    kind: str,
    objective: Callable,
    tune: str = "all",
    norms: str = "trained",
    init_from: str = "",
    run_id: str = "",
    softlabels: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """The fit of one process.  Rank 0 writes packs and starting weights first, and the other ranks then read them."""
    apply_settings(p)
    inputs = {"softlabels_sha256": softlabels_sha256(softlabels)} if softlabels else {}
    costs = read_costs(softlabels) if softlabels else []  # now: the folder may be gone when the fit ends
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(p.seed)
    model = build_classifier(model_config(p))
    check_size(model)
    if not context.is_main_process:
        context.wait_for_everyone()
    weights = _starting_weights(model, p, init_from, out)
    data = open_data(manifest, p, cache_dir)
    _write_exposure(data, weights, init_from, softlabels, out)
    if context.is_main_process:
        context.wait_for_everyone()
    ids = _ids(p, manifest, data, weights, run_id, inputs)
    record = TrainingData.of(data.train.manifest, p.smoke, weights.get("provenance"))
    if weights["source"] == "init_from":
        start = weights.get("training_data")
        record = join_training_data([record, TrainingData.model_validate(start) if start else None])
    options = dict(kind=kind, name=p.name, ids=ids, context=context, tune=tune, norms=norms)
    loss = objective(p, data, context.device)
    if p.nested.kind == "prototypes":
        loss = PrototypeObjective(loss, model, p, context.device)
    for event in fit(model, loss, data, p, out, training_data=record.record(), **options):
        if event["event"] == "start" and context.is_main_process:
            write_json(out / "environment.json", environment(context.device.type))
            alignment = _alignment(p, manifest, data, weights, event, init_from, context.device, ids)
            write_json(out / "alignmentreport.json", alignment)
        if event["event"] == "end" and context.is_main_process:
            _write_reports(record_cost(out, costs), event, p.smoke, out)
        if p.negative.method != "none" and event["event"] in ("start", "end") and context.is_main_process:
            write_negative_report(p, out)
        yield event


def _write_reports(bundle: Bundle, end: dict[str, Any], smoke: bool, out: Path) -> None:
    """Write ``reliabilitymetrics.json`` and ``calibration.json``, for a smoke run also ``smoke_results.json``."""
    epoch, temperature, metrics = bundle.meta["ids"]["epoch"], bundle.meta["temperature"], bundle.meta["metrics"]
    keys = ("accuracy", "macro_f1", "per_class_f1", "nll", "ece", "brier")
    shared = {k: temperature[k] for k in ("mode", "global_temperature", "temperature_vector")}
    counts = {k: metrics["val_select"][k] for k in ("n_expected", "n_used")}
    identity = {k: bundle.meta["ids"][k] for k in ("evalset_id", "protocol_id")}
    raw = {k: metrics["val_select"][k] for k in keys}
    scaled = {**shared, **{k: metrics["val_select_scaled"][k] for k in keys}}
    reliability = {"epoch": epoch, **identity, **counts, "raw": raw, "temperature_scaled": scaled}
    calibration = {"epoch": epoch, **shared, **{k: temperature[k] for k in ("fitted_on", "view", "n", "note")}}
    write_json(out / "reliabilitymetrics.json", reliability)
    write_json(out / "calibration.json", calibration)
    if smoke:
        scores = {k: v for k, v in end.items() if k != "event"}
        write_json(out / "smoke_results.json", {"smoke": True, **identity, **counts, **scores})


def apply_settings(p: FitParams) -> None:
    """Set torch's threads and determinism in this process as ``p`` says."""
    if p.threads:
        torch.set_num_threads(p.threads)
    torch.use_deterministic_algorithms(p.deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid, slow: it fills every new buffer
    torch.backends.cudnn.benchmark = not p.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not p.deterministic
    if p.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _starting_weights(model: FerClassifier, p: FitParams, init_from: str, out: Path) -> dict[str, Any]:
    """Load the starting weights and record them.  A resume reads only the record; their source may be gone by then."""
    record = out / "starting_weights.json"
    if has_checkpoint(out / LAST) and record.is_file():
        return _recorded_weights(record, p, init_from)
    if init_from:
        bundle = read_bundle(init_from)
        theirs, ours = (
            {k: v for k, v in config.items() if k not in ("image_size", "dropout")}
            for config in (bundle.meta["model"], model.config)
        )
        identity = {}
        if "blocks" not in theirs and ours.pop("blocks", 0):  # blocks that are added change no logit
            identity = {k: v for k, v in model.state_dict().items() if k.startswith("blocks.")}
        if theirs != ours:
            raise FerError(
                f"init_from {init_from} is another model: it has {theirs}, these parameters ask for {ours}; set them "
                "to its values, or start from another bundle"
            )
        state = bundle.state_dict() | identity
        model.load_state_dict(resample_weights(state, model, f"the weights of init_from {init_from}"))
        weights = {"source": "init_from", "origin": str(bundle.path), "weights_sha256": bundle.weights_sha256}
        weights |= {key: bundle.meta.get(key) for key in ("training_data", "cost")}  # a resume does not open the bundle
    else:
        weights = load_pretrained(model, p.pretrained, make_contract(p))
    write_json(record, weights)
    return weights


class WeightsRecord(BaseModel):
    """The content of ``starting_weights.json``."""

    source: str
    origin: str
    weights_sha256: str
    provenance: StartingWeights | None = None
    training_data: TrainingData | None = None


def _recorded_weights(record: Path, p: FitParams, init_from: str) -> dict[str, Any]:
    """The record of the first start.  FerError when it is damaged, or when ``p`` asks for other starting weights.

    The file or bundle may have moved since, so its path is not compared; its weights are, if it still exists.
    """
    advice = f"give this run another output_dir, or delete {record.parent}"
    try:
        weights = json.loads(record.read_text())
        start = WeightsRecord.model_validate(weights)
    except (ValueError, RecursionError) as error:
        raise FerError(f"{record} is damaged ({first_problem(error)}); {advice}") from error
    source = start.source if start.source in _RECORDED_SOURCES else "a file"
    requested = "init_from" if init_from else p.pretrained if p.pretrained in _RECORDED_SOURCES else "a file"
    current = read_bundle(init_from).weights_sha256 if init_from and Path(init_from).exists() else ""
    if requested != source or current not in ("", start.weights_sha256):
        raise FerError(
            f"{record.parent} holds a training that started from {' '.join(filter(None, (source, start.origin)))}"
            f"; these parameters ask for {init_from or p.pretrained}: {advice}"
        )
    return weights


def _write_exposure(data: FitData, weights: dict, init_from: str, softlabels: Path | None, out: Path) -> None:
    """Write the record of all images that the weights depend on."""
    if has_checkpoint(out / LAST) and (out / EXPOSURE_FILE).is_file():
        return  # a resume must not need the bundle that it started from
    exposure = TrainingExposure.of(
        data.train.manifest.frame["content_id"], data.val.manifest.frame["content_id"],
        complete=weights["source"] in _RECORDED_SOURCES,
    )  # fmt: skip
    ancestors = [softlabels] if softlabels else []
    ancestors += [read_bundle(init_from).path] if init_from else []
    with fresh_file(out / EXPOSURE_FILE) as work, open(work, "wb") as file:
        exposure.with_ancestors([read_exposure(folder) for folder in ancestors]).write(file)


def _ids(
    p: FitParams, manifest: Manifest, data: FitData, weights: dict, run_id: str, inputs: dict[str, str]
) -> dict[str, Any]:
    """Ids of the inputs and of the evaluation set, which is the val/select rows that ``max_val_batches`` leaves."""
    evaluated = data.val.manifest.frame[: p.max_val_batches * p.batch_size or None]
    select = evaluated[evaluated["val_role"] == "select"]
    if select.empty:
        raise DataError(f"none of the first {len(evaluated)} val rows has the role select: raise max_val_batches")
    tolerance = int(manifest.meta.get("tolerance", 0))
    evalset = evalset_id(select["sample_id"].tolist(), select["label"], "val/select", tolerance)
    return {
        "manifest_sha256": manifest.sha256, "evalset_id": evalset,
        "protocol_id": protocol_id(evalset, data.contract, "none"),
        "starting_weights_sha256": weights["weights_sha256"], "run_id": run_id, **inputs,
    }  # fmt: skip


def _alignment(p, manifest, data: FitData, weights, start: dict, init_from: str, device, ids: dict) -> dict[str, Any]:
    """The content of ``alignmentreport.json``: settings, data and ids of this fit."""
    filtered = manifest.rows(include_sources=p.include_sources, exclude_sources=p.exclude_sources)
    sources, counts = np.unique(filtered.frame["source"].to_numpy(dtype=str), return_counts=True)
    fields = p.model_dump()

    def pick(*names: str) -> dict[str, Any]:
        return {name: fields[name] for name in names}

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": {
            "backend": device.type, "detail": describe_device(device.type)["name"], "processes": p.processes,
            "precision": precision(p, device), **pick("compile", "deterministic"),
        },
        "paths": {"manifest": str(manifest.path), "manifest_sha256": manifest.sha256},
        "seed": p.seed,
        "model": {
            "name": p.backbone, "pretrained": weights["source"], "weights_sha256": weights["weights_sha256"],
            "origin": weights["origin"], **pick("image_size", "embed_dim"),
            **(pick("backbone_args") if p.backbone_args else {}),
        },
        "data": {
            "rows_total_before_filter": len(manifest), "rows_total_after_filter": len(filtered),
            "source_counts_after_filter": dict(zip(sources.tolist(), counts.tolist(), strict=True)),
            "train_rows": len(data.train.manifest), "val_rows": len(data.val.manifest),
            "class_counts": data.class_counts, "rows_with_votes": data.rows_with_votes,
            "faces_without_points": data.train.without_points,
            "source_filter": pick("include_sources", "exclude_sources"),
            "n_expected": data.train.n_expected, "n_used": len(data.train.manifest),
        },
        "protocol": {
            "plain_logits_warmup_epochs": fields.get("plain_epochs"), "margin_ramp_start": fields.get("plain_epochs"),
            "margin_ramp_end": fields.get("ramp_end"), "arcface_m_max": fields.get("arcface_m"),
            "arcface_s": fields.get("arcface_s"), "mode": fields.get("mode", "arcface"), "head": fields["head"],
            **pick("label_smoothing", "soft_label_weight", "focal_gamma", "logit_adjustment"),
            "mixup": fields.get("mixup", 0.0), **(pick("nested") if p.nested.kind != "off" else {}),
        },
        "optim": {
            "name": p.optimizer, **pick("lr", "weight_decay"), "lr_warmup_epochs": p.warmup_epochs,
            **pick("min_lr", "clip_grad", "ema_decay", "epochs"),
            "total_steps": start["total_steps"], "warmup_steps": start["warmup_steps"],
            **(pick("momentum") if p.optimizer == "sgd" else {}),
        },
        "batching": pick(
            "batch_size", "accum_steps", "min_per_class", "cb_beta", "imbalance",
            *(["balance_sources"] if p.balance_sources else []),
        ),
        "aug": {
            "clahe": p.clahe, "clahe_clip": data.contract.clahe_clip, "clahe_tile": data.contract.clahe_tile,
            **p.augment.model_dump(),
        },
        "calibration": {"eval_every": p.eval_every, "temperature_scaling": p.calibration},
        "init": {"init_from": init_from or None, "resume": start["resumed_at_step"] > 0},
        "ids": ids,
        "face_contract": data.contract.model_dump(),
    }  # fmt: skip
