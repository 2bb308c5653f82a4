"""What an epoch's weights are worth on val, and the bundle of the best of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_lib.calibration import metrics, temperature
from fer_lib.datasets.provenance import EXPOSURE_FILE
from fer_lib.models.bundle import write_bundle
from fer_lib.models.classifier import FerClassifier
from fer_lib.models.inference import predict_logits
from fer_lib.params import FitParams
from fer_lib.training.data import FitData
from fer_lib.training.step import diverged


def validate(
    model: FerClassifier, data: FitData, p: FitParams, device: torch.device, epochs: float
) -> tuple[dict, dict, dict]:
    """Scores on val/select; a temperature from val/temperature; what the best bundle would carry.

    Raises FerError when the weights, after ``epochs``, predict no finite number any more.
    """
    logits = predict_logits(model, data.val, p.batch_size, device, max_batches=p.max_val_batches)
    if not np.isfinite(logits).all():
        raise diverged("the weights predict no finite number any more", epochs, p)
    roles, labels = data.val_roles[: len(logits)], data.val.manifest.labels[: len(logits)]
    select, held = roles == "select", roles == "temperature"
    raw = metrics.summary(logits[select], labels[select])
    if held.any():
        fitted = temperature.fit(logits[held], labels[held], mode=p.calibration, allow_bound=True)
    else:
        fitted = temperature.Temperature(mode="none", note="no val/temperature rows were evaluated")
    scaled = metrics.summary(fitted.apply(logits[select]), labels[select])
    counts = {"n_expected": data.n_select, "n_used": int(select.sum())}
    val = {k: raw[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece")} | counts
    known = {"mode": fitted.mode, "temperature": fitted.global_temperature or fitted.temperature_vector}
    scores = {"val_select": {**raw, **counts}, "val_select_scaled": scaled}
    return val, known, {"metrics": scores, "temperature": fitted}


def write_best(out: Path, model: FerClassifier, described: dict[str, Any], best: dict[str, Any], epoch: int) -> None:
    """``best/``, with the record of what was seen where ``out`` holds one.  ``described``: as a checkpoint's bundle."""
    write_bundle(
        out / "best", **described | {"ids": {**described["ids"], "epoch": epoch}}, state_dict=model.state_dict(),
        temperature=best["temperature"], metrics=best["metrics"],
        extra_files={EXPOSURE_FILE: out / EXPOSURE_FILE} if (out / EXPOSURE_FILE).is_file() else None,
    )  # fmt: skip
