"""Rules for a model's answers: prediction sets, the least confidence of an answer, and the limit of the energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_lib.calibration import conformal
from fer_lib.calibration.intervals import proportion_interval
from fer_lib.calibration.metrics import softmax, top_label
from fer_lib.calibration.temperature import Temperature, View
from fer_lib.calibration.uncertainty import EnergyLimit, energy, fit_energy_limit
from fer_lib.emotions import NUM_CLASSES
from fer_lib.errors import FerError
from fer_lib.models.bundle import Bundle
from fer_lib.params import EvaluateParams


@dataclass(frozen=True)
class DecisionRules:
    """Rules for the scaled logits of one view; None: there is no such rule."""

    conformal: conformal.ConformalSets | None = None
    energy_limit: EnergyLimit | None = None
    confidence: float | None = None  # "Unknown" below it
    note: str = ""  # why a confidence for the risk is missing

    def as_dict(self) -> dict[str, Any]:
        """The entry of ``evaluation.json``."""
        rules = {name: getattr(self, name) for name in ("conformal", "energy_limit")}
        dumped = {name: None if rule is None else rule.model_dump() for name, rule in rules.items()}
        return dumped | {"confidence": self.confidence, "note": self.note}

    def for_bundle(self) -> dict[str, Any]:
        """The arguments of :func:`fer_lib.models.bundle.derive_bundle` that set these rules."""
        abstention = None if self.confidence is None else [self.confidence] * NUM_CLASSES
        return {"conformal": self.conformal, "energy_limit": self.energy_limit, "abstention": abstention}

    def report(self, scaled: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """What the rules do to rows with scaled logits [N, 7] and labels ``y`` [N], ready for JSON.

        ``sets``: of :func:`conformal.set_report`, with ``coverage_interval``.  ``answers``: ``share`` of the rows that
        get one, and ``error`` among these with ``error_interval`` (None without an answer).  ``unlike``: share of the
        rows above the limit of the energy.  Intervals: Wilson, 95 %.
        """
        probs, report = softmax(scaled), {}
        if self.conformal is not None:
            sets = conformal.set_report(self.conformal.sets(probs), y)
            report["sets"] = sets | {"coverage_interval": _interval(sets["coverage"], len(y))}
        if self.confidence is not None:
            confidence, correct = top_label(probs, y)
            wrong = 1 - correct[confidence >= self.confidence]
            error = float(wrong.mean()) if len(wrong) else None
            interval = _interval(error, len(wrong)) if len(wrong) else None
            report["answers"] = {"share": len(wrong) / len(y), "error": error, "error_interval": interval}
        if self.energy_limit is not None:
            report["unlike"] = float((energy(scaled) > self.energy_limit.value).mean())
        return report


def _interval(share: float, n: int) -> list[float]:
    return list(proportion_interval(round(share * n), n))


def fit_rules(scaled: np.ndarray, y: np.ndarray, p: EvaluateParams, view: View) -> DecisionRules:
    """The rules that ``p`` asks for, from val/conformal rows: logits [N, 7] after the temperature and labels [N].

    A risk that no confidence shows on these rows leaves the model without one, and a note.
    """
    probs, note, confidence = softmax(scaled), "", None
    sets = None
    if p.conformal != "none":
        sets = conformal.fit(probs, y, p.alpha, p.conformal, p.sets_per_class, p.seed, view=view)
    if p.risk is not None:
        try:
            confidence = conformal.confidence_for_risk(probs, y, p.risk)
        except FerError as error:
            note = str(error)
    return DecisionRules(sets, fit_energy_limit(scaled, view=view), confidence, note)


def own_rules(bundles: list[Bundle], temperature: Temperature, view: View) -> DecisionRules:
    """The rules that a single bundle holds for logits of ``view`` after ``temperature``, which must be its own."""
    own = bundles[0].temperature
    if len(bundles) > 1 or own is None or own.values() != temperature.values():
        return DecisionRules()
    rules = (bundles[0].conformal, bundles[0].energy_limit)
    return DecisionRules(*(rule if rule is not None and rule.view in (None, view) else None for rule in rules))
