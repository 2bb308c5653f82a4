"""Rules of an evaluation on a known posterior: coverage, the risk of answers, and rows of another kind."""

import json

import numpy as np
import pytest

from fer_lib.calibration.temperature import Temperature
from fer_lib.evaluation.decision_rules import DecisionRules, fit_rules, own_rules
from fer_lib.params import EvaluateParams


def rows(seed, n, scale=2.0):
    """Logits [n, 7] of a calibrated model, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (n, 7))
    return z, (z + rng.gumbel(size=(n, 7))).argmax(axis=1)


@pytest.mark.parametrize("options", [{}, {"conformal": "aps", "sets_per_class": True}, {"alpha": 0.3}], ids=str)
def test_sets_cover_new_rows_as_asked(options):
    p = EvaluateParams(**options)
    report = fit_rules(*rows(0, 4000), p, "none").report(*rows(1, 4000))
    sets, slack = report["sets"], 4 * (2 * p.alpha * (1 - p.alpha) / 4000) ** 0.5
    assert sets["coverage"] > 1 - p.alpha - slack and sets["n"] == 4000
    if p.conformal == "lac":
        assert sets["coverage"] < 1 - p.alpha + slack
    low, high = sets["coverage_interval"]
    assert low < sets["coverage"] < high and "answers" not in report
    assert report["unlike"] == pytest.approx(0.01, abs=0.008)
    assert json.loads(json.dumps(report)) == report


def test_answers_are_wrong_at_most_as_often_as_the_risk():
    rules = fit_rules(*rows(2, 4000), EvaluateParams(risk=0.2, conformal="none"), "none")
    assert rules.conformal is None and rules.for_bundle()["abstention"] == [rules.confidence] * 7
    z, y = rows(3, 4000)
    answers = rules.report(z, y)["answers"]
    probs = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    kept = probs.max(axis=1) >= rules.confidence
    assert answers["share"] == pytest.approx(kept.mean()) and 0.2 < answers["share"] < 0.9
    assert answers["error"] == pytest.approx((probs.argmax(1) != y)[kept].mean()) and answers["error"] < 0.22


def test_a_risk_that_no_row_shows_is_a_note_and_no_threshold():
    z, y = rows(4, 300, scale=0.01)
    rules = fit_rules(z, y, EvaluateParams(risk=0.05), "none")
    assert rules.confidence is None and "accept a higher risk" in rules.note
    assert rules.for_bundle()["abstention"] is None and "answers" not in rules.report(z, y)
    assert rules.as_dict()["note"] == rules.note


def test_rows_whose_logits_are_lower_are_unlike():
    rules = fit_rules(*rows(5, 2000), EvaluateParams(), "none")
    z, y = rows(7, 500)
    assert [rules.report(z + shift, y)["unlike"] > 0.5 for shift in (3.0, 0.0, -3.0)] == [False, False, True]


def test_a_bundle_own_rules_belong_to_its_temperature_and_view(torch_bundle, tmp_path):
    from fer_lib.models.bundle import derive_bundle

    fitted = fit_rules(*rows(8, 500), EvaluateParams(), "none")
    bundle = derive_bundle(torch_bundle, tmp_path / "b", **fitted.for_bundle())
    own = own_rules([bundle], bundle.temperature, "none")
    assert (own.conformal, own.energy_limit) == (fitted.conformal, fitted.energy_limit)
    assert own_rules([bundle], bundle.temperature, "flip") == DecisionRules()
    assert own_rules([bundle], Temperature(mode="global", global_temperature=3.0), "none") == DecisionRules()
    assert own_rules([bundle, bundle], bundle.temperature, "none") == DecisionRules()
