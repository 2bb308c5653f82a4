"""Scores of one model on one set of rows, before and after temperature scaling, with intervals."""

from typing import Any

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import bootstrap_confusions, ece_interval, ece_null, percentiles, proportion_interval
from fer_lib.calibration.temperature import Temperature, View, fit
from fer_lib.storage.json_files import plain


def temperature_for(
    logits_val,
    y_val,
    calibration: str,
    fixed_temperature: float = 1.2,
    allow_bound: bool = False,
    view: View = "none",
) -> Temperature:
    """The temperature for ``calibration`` (none | global | vector | fixed).

    ``logits_val`` [N, K] (under ``view``) and ``y_val`` [N] are the val/temperature rows; none and fixed ignore them.
    ``allow_bound`` accepts, with a note, a temperature at the end of its search bracket, as few rows may give.
    Raises what :func:`fer_lib.calibration.temperature.fit` raises.
    """
    if calibration == "none":
        return Temperature(mode="none", note="not calibrated")
    if calibration == "fixed":
        return Temperature(mode="fixed", global_temperature=fixed_temperature, note="asked for, not fitted")
    return fit(logits_val, y_val, mode=calibration, allow_bound=allow_bound, view=view)


def ece_report(logits, y, resamples: int, seed: int) -> dict[str, float]:
    """ECE ``value`` with 95 % interval ``lo``, ``hi``; ``null_mean``, ``null_q95``: the ECE of a calibrated model."""
    probs = metrics.softmax(logits)
    low, high = ece_interval(probs, y, resamples=resamples, seed=seed)
    null = ece_null(probs, resamples=resamples, seed=seed)
    value = metrics.ece(probs, y)
    return {"value": value, "lo": low, "hi": high, "null_mean": null["mean"], "null_q95": null["q95"]}


def model_report(
    logits, y, temperature: Temperature, resamples: int = 1000, seed: int = 1337, view: View = "none"
) -> dict[str, Any]:
    """Scores of ``logits`` [N, K] under ``view`` against ``y`` [N], before and after ``temperature``.

    Keys: ``raw`` and ``scaled`` (:func:`fer_lib.calibration.metrics.summary` before and after scaling),
    ``temperature``, ``ece_raw`` and ``ece_scaled`` ({value, lo, hi, null_mean, null_q95}), ``reliability_raw`` and
    ``reliability_scaled``, and of the raw predictions those of :func:`f1_report` and ``accuracy_interval`` (Wilson,
    95 %).  The result is JSON-ready and deterministic for a seed.
    """
    logits, y = metrics.checked_logits(logits, y)
    scaled = temperature.apply(logits, view)
    raw = metrics.summary(logits, y)
    right = int(np.trace(raw["confusion"]))
    return {
        "raw": raw,
        "scaled": metrics.summary(scaled, y),
        "temperature": temperature.model_dump(),
        "ece_raw": ece_report(logits, y, resamples, seed),
        "ece_scaled": ece_report(scaled, y, resamples, seed),
        "accuracy_interval": list(proportion_interval(right, len(y))),
        **f1_report(logits, y, resamples, seed),
        "reliability_raw": plain(metrics.reliability_table(metrics.softmax(logits), y)),
        "reliability_scaled": plain(metrics.reliability_table(metrics.softmax(scaled), y)),
    }


def f1_report(logits: np.ndarray, y: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """Intervals (95 %) of F1 and recall of the predictions of ``logits`` [N, K] against ``y`` [N].

    ``macro_f1_interval`` over all K classes and ``macro_f1_present_interval`` over ``classes_present``, the classes
    that have rows.  ``per_class``: for each of these ``n``, ``f1`` and ``recall`` with their intervals.  F1: percentile
    bootstrap over rows; recall: Wilson.
    """
    k, pred = logits.shape[1], logits.argmax(axis=1)
    cm = metrics.confusion(pred, y, k)
    counts, hits, f1 = cm.sum(axis=1), np.diagonal(cm), metrics.f1_from_confusion(cm)
    drawn = metrics.f1_from_confusion(bootstrap_confusions(pred, y, k, resamples, seed))
    present = np.flatnonzero(counts)
    names = metrics.class_names(k)
    return {
        "macro_f1_interval": list(percentiles(drawn.mean(axis=1))),
        "macro_f1_present_interval": list(percentiles(drawn[:, present].mean(axis=1))),
        "classes_present": [names[i] for i in present],
        "per_class": {
            names[i]: {
                "n": int(counts[i]), "f1": float(f1[i]), "f1_interval": list(percentiles(drawn[:, i])),
                "recall": float(hits[i] / counts[i]),
                "recall_interval": list(proportion_interval(int(hits[i]), int(counts[i]))),
            }
            for i in present
        },
    }  # fmt: skip
