"""The report of one model: what it holds, and that the test rows never reach the temperature."""

import json

import numpy as np
import pytest

from fer_lib.calibration import metrics
from fer_lib.calibration.temperature import fit
from fer_lib.errors import FerError
from fer_lib.evaluation.report import model_report, temperature_for

SHARPNESS = 2.0


def faces(n, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 2
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return logits * SHARPNESS, y


def report_of(logits, y, logits_val, y_val, calibration="global", fixed_temperature=1.2, **options):
    return model_report(logits, y, temperature_for(logits_val, y_val, calibration, fixed_temperature), **options)


@pytest.fixture(scope="module")
def parts():
    return *faces(1500, 1), *faces(1000, 2)


@pytest.fixture(scope="module")
def report(parts):
    return report_of(*parts, resamples=300)


def test_it_has_the_agreed_keys_and_is_json(report):
    assert set(report) == {
        "raw", "scaled", "temperature", "ece_raw", "ece_scaled", "accuracy_interval", "macro_f1_interval",
        "macro_f1_present_interval", "classes_present", "per_class", "reliability_raw", "reliability_scaled",
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
    other = report_of(logits[:200] * 9, y[:200], logits_val, y_val, resamples=100)
    assert other["temperature"] == report["temperature"]


def test_same_seed_same_report(parts):
    assert report_of(*parts, resamples=100, seed=5) == report_of(*parts, resamples=100, seed=5)


def test_fixed_none_and_vector(parts):
    fixed = report_of(*parts, calibration="fixed", fixed_temperature=1.2, resamples=100)
    assert (fixed["temperature"]["mode"], fixed["temperature"]["global_temperature"]) == ("fixed", 1.2)
    assert fixed["scaled"] == metrics.summary(parts[0] / 1.2, parts[1])
    none = report_of(parts[0], parts[1], None, None, calibration="none", resamples=100)
    assert none["scaled"] == none["raw"]
    assert none["ece_scaled"] == none["ece_raw"]
    vector = report_of(*parts, calibration="vector", resamples=100)
    assert vector["temperature"]["temperature_vector"] == pytest.approx([SHARPNESS] * 7, rel=0.2)


def test_refusals(parts):
    logits, y, logits_val, y_val = parts
    with pytest.raises(FerError, match="'warm' has nothing to fit"):
        report_of(*parts, calibration="warm")
    with pytest.raises(FerError, match="no rows"):
        report_of(logits, y, logits_val[:0], y_val[:0])
    with pytest.raises(FerError, match="no rows"):
        report_of(logits[:0], y[:0], logits_val, y_val)
    bad = logits.copy()
    bad[11, 0] = np.nan
    with pytest.raises(FerError, match="row 11"):
        report_of(bad, y, logits_val, y_val)


def test_f1_and_recall_of_each_class_have_their_intervals(parts, report):
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score, recall_score

    logits, y = parts[:2]
    pred, names = logits.argmax(1), metrics.class_names(7)
    assert report["classes_present"] == list(names) == list(report["per_class"])
    own = list(report["per_class"].values())
    assert [c["n"] for c in own] == np.bincount(y, minlength=7).tolist()
    assert [c["f1"] for c in own] == pytest.approx(f1_score(y, pred, average=None))
    assert [c["recall"] for c in own] == pytest.approx(recall_score(y, pred, average=None))
    for c in own:
        wilson = binomtest(round(c["recall"] * c["n"]), c["n"]).proportion_ci(method="wilson")
        assert c["recall_interval"] == pytest.approx([wilson.low, wilson.high])
    rng = np.random.default_rng(1337)  # each resample scored by another library
    rows = [rng.integers(0, len(y), len(y)) for _ in range(300)]
    drawn = np.array([f1_score(y[i], pred[i], average=None, labels=range(7)) for i in rows])
    for k, c in enumerate(own):
        assert c["f1_interval"] == pytest.approx(np.quantile(drawn[:, k], [0.025, 0.975]))
    assert report["macro_f1_interval"] == pytest.approx(np.quantile(drawn.mean(1), [0.025, 0.975]))
    assert report["macro_f1_present_interval"] == report["macro_f1_interval"]


def test_absent_classes_are_left_out_of_the_headline_and_stay_in_the_mean_over_seven(parts):
    keep = np.isin(parts[1], [0, 3, 6])
    few = report_of(parts[0][keep], parts[1][keep], *parts[2:], resamples=200)
    assert few["classes_present"] == list(few["per_class"]) == ["Angry", "Happy", "Neutral"]
    f1 = [c["f1"] for c in few["per_class"].values()]
    assert few["raw"]["macro_f1_present"] == pytest.approx(np.mean(f1))
    assert few["raw"]["macro_f1"] == pytest.approx(sum(f1) / 7)
    assert few["macro_f1_present_interval"] == pytest.approx(np.array(few["macro_f1_interval"]) * 7 / 3)
