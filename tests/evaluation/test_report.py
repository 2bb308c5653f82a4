"""The report of one model: what it holds, and that the test rows never reach the temperature."""

import json

import numpy as np
import pytest

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import fit
from fer_lib.errors import FerError
from fer_lib.evaluation.report import model_report

SHARPNESS = 2.0


def faces(n, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 2
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return logits * SHARPNESS, y


@pytest.fixture(scope="module")
def parts():
    return *faces(1500, 1), *faces(1000, 2)


@pytest.fixture(scope="module")
def report(parts):
    return model_report(*parts, resamples=300)


def test_it_has_the_agreed_keys_and_is_json(report):
    assert set(report) == {
        "raw", "scaled", "temperature", "ece_raw", "ece_scaled", "accuracy_interval", "macro_f1_interval",
    }  # fmt: skip
    assert set(report["ece_raw"]) == set(report["ece_scaled"]) == {"value", "lo", "hi", "null_mean", "null_q95"}
    assert json.loads(json.dumps(report)) == report


def test_its_numbers_are_the_scores(parts, report):
    logits, y, logits_val, y_val = parts
    temperature = fit(logits_val, y_val)
    assert report["temperature"] == temperature.model_dump()
    assert report["temperature"]["global_temperature"] == pytest.approx(SHARPNESS, rel=0.1)
    assert report["raw"] == metrics.summary(logits, y)
    assert report["scaled"] == metrics.summary(temperature.apply(logits), y)
    assert report["ece_raw"]["value"] == report["raw"]["ece"]
    assert report["ece_scaled"]["value"] == report["scaled"]["ece"]
    low, high = report["accuracy_interval"]
    assert low < report["raw"]["accuracy"] < high
    low, high = report["macro_f1_interval"]
    assert low < report["raw"]["macro_f1"] < high
    assert high - low < 0.08


def test_the_model_made_too_sure_is_seen_and_cured(report):
    assert report["ece_raw"]["lo"] > report["ece_raw"]["null_q95"]
    assert report["ece_scaled"]["lo"] == 0.0
    assert report["ece_scaled"]["value"] < report["ece_raw"]["value"] / 3
    assert report["scaled"]["nll"] < report["raw"]["nll"]
    assert report["scaled"]["confusion"] == report["raw"]["confusion"]


def test_the_temperature_depends_on_validation_rows_only(parts, report):
    logits, y, logits_val, y_val = parts
    other = model_report(logits[:200] * 9, y[:200], logits_val, y_val, resamples=100)
    assert other["temperature"] == report["temperature"]


def test_same_seed_same_report(parts):
    assert model_report(*parts, resamples=100, seed=5) == model_report(*parts, resamples=100, seed=5)


def test_fixed_none_and_vector(parts):
    fixed = model_report(*parts, calibration="fixed", fixed_temperature=1.2, resamples=100)
    assert (fixed["temperature"]["mode"], fixed["temperature"]["global_temperature"]) == ("fixed", 1.2)
    assert fixed["scaled"] == metrics.summary(parts[0] / 1.2, parts[1])
    none = model_report(parts[0], parts[1], None, None, calibration="none", resamples=100)
    assert none["scaled"] == none["raw"]
    assert none["ece_scaled"] == none["ece_raw"]
    vector = model_report(*parts, calibration="vector", resamples=100)
    assert vector["temperature"]["temperature_vector"] == pytest.approx([SHARPNESS] * 7, rel=0.2)


def test_refusals(parts):
    logits, y, logits_val, y_val = parts
    with pytest.raises(FerError, match="'warm' has nothing to fit"):
        model_report(*parts, calibration="warm")
    with pytest.raises(FerError, match="no rows"):
        model_report(logits, y, logits_val[:0], y_val[:0])
    with pytest.raises(FerError, match="no rows"):
        model_report(logits[:0], y[:0], logits_val, y_val)
    bad = logits.copy()
    bad[11, 0] = np.nan
    with pytest.raises(FerError, match="row 11"):
        model_report(bad, y, logits_val, y_val)
