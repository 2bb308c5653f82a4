"""Validation of an epoch's weights, and the bundle of the best ones."""

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
from fer_lib.training.fit_inputs import FitData
from fer_lib.training.step import divergence_error


def validate(
    model: FerClassifier, data: FitData, p: FitParams, device: torch.device, epochs: float
) -> tuple[dict, dict, dict]:
    """Scores on val/select, the temperature fitted on val/temperature, and both as the best bundle stores them.

    Raises FerError when the weights, after ``epochs`` epochs, predict logits that are not finite.
    """
    options = dict(max_batches=p.max_val_batches, what="validating")
    logits = predict_logits(model, data.val, p.batch_size, device, **options)
    if not np.isfinite(logits).all():
        raise divergence_error("the weights predict logits that are not finite", epochs, p)
    roles, labels = data.val_roles[: len(logits)], data.val.manifest.labels[: len(logits)]
    select, scaling = roles == "select", roles == "temperature"
    raw = metrics.summary(logits[select], labels[select])
    if scaling.any():
        fit = temperature.fit(logits[scaling], labels[scaling], mode=p.calibration, allow_bound=True)
    else:
        fit = temperature.Temperature(mode="none", note="no val/temperature rows were evaluated")
    scaled = metrics.summary(fit.apply(logits[select]), labels[select])
    counts = {"n_expected": data.n_select, "n_used": int(select.sum())}
    val = {k: raw[k] for k in ("accuracy", "macro_f1", "per_class_f1", "nll", "ece")} | counts
    calibration = {"mode": fit.mode, "temperature": fit.global_temperature or fit.temperature_vector}
    scores = {"val_select": {**raw, **counts}, "val_select_scaled": scaled}
    return val, calibration, {"metrics": scores, "temperature": fit}


def write_best(out: Path, model: FerClassifier, fields: dict[str, Any], best: dict[str, Any], epoch: int) -> None:
    """Write ``best/`` with the exposure record of ``out``, if any.  ``fields``: as in a checkpoint's ``bundle``."""
    write_bundle(
        out / "best", **fields | {"ids": {**fields["ids"], "epoch": epoch}}, state_dict=model.state_dict(),
        temperature=best["temperature"], metrics=best["metrics"],
        extra_files={EXPOSURE_FILE: out / EXPOSURE_FILE} if (out / EXPOSURE_FILE).is_file() else None,
    )  # fmt: skip
