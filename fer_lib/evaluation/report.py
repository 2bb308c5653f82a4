"""Scores of one model on one set of rows, before and after temperature scaling, with intervals."""

import numpy as np

from fer_lib.calibration import metrics
from fer_lib.calibration.intervals import bootstrap_interval, ece_interval, ece_null, proportion_interval
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
    logits_test,
    y_test,
    logits_val_temp,
    y_val_temp,
    calibration: str = "global",
    fixed_temperature: float = 1.2,
    resamples: int = 1000,
    seed: int = 1337,
    allow_bound: bool = False,
    view: View = "none",
) -> dict:
    """Scores of ``logits_test`` [N, K] against ``y_test`` [N]; the temperature is fitted on the validation rows only.

    ``view``: the view of both sets of logits.
    Keys: ``raw`` and ``scaled`` (:func:`fer_lib.calibration.metrics.summary` before and after scaling),
    ``temperature``, ``ece_raw`` and ``ece_scaled`` ({value, lo, hi, null_mean, null_q95}), ``accuracy_interval``
    (Wilson) and ``macro_f1_interval`` (bootstrap over rows), both 95 % and of the raw predictions.  The result is
    JSON-ready and deterministic for a seed.
    """
    temperature = temperature_for(logits_val_temp, y_val_temp, calibration, fixed_temperature, allow_bound, view)
    logits_test, y_test = metrics.checked_logits(logits_test, y_test)
    scaled = temperature.apply(logits_test, view)
    raw = metrics.summary(logits_test, y_test)
    right = int(np.trace(raw["confusion"]))
    return {
        "raw": raw,
        "scaled": metrics.summary(scaled, y_test),
        "temperature": temperature.model_dump(),
        "ece_raw": ece_report(logits_test, y_test, resamples, seed),
        "ece_scaled": ece_report(scaled, y_test, resamples, seed),
        "accuracy_interval": list(proportion_interval(right, len(y_test))),
        "macro_f1_interval": list(bootstrap_interval(macro_f1, logits_test, y_test, resamples, seed)),
    }


def macro_f1(logits: np.ndarray, y: np.ndarray) -> float:
    """Macro-F1 of the predictions of logits [N, K] against ``y`` [N]."""
    return metrics.macro_f1(logits.argmax(axis=1), y, logits.shape[1])


def reliability_lists(logits: np.ndarray, scaled: np.ndarray, y: np.ndarray) -> dict[str, dict[str, list]]:
    """``reliability_raw`` and ``reliability_scaled``: reliability tables before and after scaling; NaN becomes None."""
    return {
        f"reliability_{kind}": plain(metrics.reliability_table(metrics.softmax(z), y))
        for kind, z in (("raw", logits), ("scaled", scaled))
    }
