"""Promotion gates: pure functions of two measurements that decide whether a candidate may replace its base.

Offline, a candidate may be slightly worse than the base.  On the same replayed session it must be better and no less
stable.  A gate refuses measurements of different rows.
"""

from __future__ import annotations

from typing import Any

from fer_lib.calibration.metrics import class_names, f1_per_class, macro_f1, minority_f1
from fer_lib.errors import DataError
from fer_lib.evaluation.paired_comparison import METHOD, LogitPair, Measurement, compare
from fer_lib.params import GateParams, OfflineGate, SessionGate

OFFLINE_ONLY = "offline-only"
FLOAT_TOLERANCE = 1e-12  # for comparing float64 means with a limit


def offline_gate(
    base: Measurement, candidate: Measurement, gate: OfflineGate, p: GateParams, seed: int = 0
) -> dict[str, Any]:
    """Macro-F1 (over seven classes) and minority-F1 of both models on one suite, and whether each drop is in its limit.

    ``decide_by`` point: the drop is at most the limit.  interval: the whole paired 95 % interval of the change lies at
    or above minus the limit, which few rows can rarely show.
    ``per_class_f1`` has each class's F1 of both models and the interval of its change; it decides nothing.
    Raises DataError for measurements on different rows or labels.
    """
    try:
        pair = LogitPair.of(base, candidate)
    except DataError as error:
        raise DataError(f"suite {gate.suite}: {error}") from error
    change = compare(pair, p.resamples, seed, minority=True)["difference"]
    scores = {}
    for name, score, limit in (
        ("macro_f1", macro_f1, gate.macro_f1_drop),
        ("minority_f1", minority_f1, gate.minority_f1_drop),
    ):
        values = [score(logits.argmax(axis=1), pair.y, logits.shape[1]) for logits in (pair.before, pair.after)]
        worst = change[name]["lo" if p.decide_by == "interval" else "value"]
        scores[name] = {
            "base": values[0], "candidate": values[1], "change": change[name], "most_drop": limit,
            "passed": bool(worst >= -limit - FLOAT_TOLERANCE),
        }  # fmt: skip
    k = pair.before.shape[1]
    before, after = (f1_per_class(z.argmax(axis=1), pair.y, k).tolist() for z in (pair.before, pair.after))
    per_class = {
        name: {"base": old, "candidate": new, "change": change[f"f1/{name}"]}
        for name, old, new in zip(class_names(k), before, after, strict=True)
    }
    return {
        "gate": "offline", "suite": gate.suite, "evalset_id": base.report["evalset_id"],
        "protocol_id": {"base": base.report["protocol_id"], "candidate": candidate.report["protocol_id"]},
        "n_expected": base.report["n_expected"], "n_used": len(pair.y), "decide_by": p.decide_by, "interval": METHOD,
        "scores": scores, "per_class_f1": per_class, "passed": all(score["passed"] for score in scores.values()),
    }  # fmt: skip


def session_gate(base: dict[str, Any], candidate: dict[str, Any], gate: SessionGate) -> dict[str, Any]:
    """Compare two Protocol-Lite scores (:func:`fer_lib.live.score.score`) of one session, replayed by each model.

    Smoothed macro-F1 over the classes present must rise by more than ``macro_f1_gain``.  Flips per minute may rise by
    the share ``flips_rise`` (from zero: not at all).  Point values decide: frames of a segment are not independent and
    segments are few, so a bootstrap interval would be too narrow.
    Raises DataError for scores of different frames or labels.
    """
    if base["evalset_id"] != candidate["evalset_id"]:
        raise DataError(
            f"the two models' session scores are of different frames (evalset {base['evalset_id']} and "
            f"{candidate['evalset_id']}): replay one session by both, with the same corrections"
        )
    f1, flips = ([s["smoothed"][key] for s in (base, candidate)] for key in ("macro_f1_present", "flips_per_min"))
    rises = {
        "macro_f1_present": {
            "base": f1[0], "candidate": f1[1], "least_gain": gate.macro_f1_gain,
            "passed": bool(f1[1] - f1[0] > gate.macro_f1_gain + FLOAT_TOLERANCE),
        },
        "flips_per_min": {
            "base": flips[0], "candidate": flips[1], "most_rise": gate.flips_rise,
            "passed": bool(flips[1] <= flips[0] * (1 + gate.flips_rise) + FLOAT_TOLERANCE),
        },
    }  # fmt: skip
    return {
        "gate": "session", "evalset_id": base["evalset_id"],
        "protocol_id": {"base": base["protocol_id"], "candidate": candidate["protocol_id"]},
        "n_expected": base["n_expected"], "n_used": base["n_used"], "segments_scored": base["segments_scored"],
        "decide_by": "point", "scores": rises, "passed": all(score["passed"] for score in rises.values()),
    }  # fmt: skip


def decide(offline: list[dict[str, Any]], session: dict[str, Any] | None, learned_from: bool = False) -> dict[str, Any]:
    """Combine all gates: ``passed``, ``mark`` (``offline-only`` without a session, else blank), ``said`` (sentences).

    ``learned_from``: the model also trained on the gate session, so its figures are optimistic.
    """
    gates = [*offline, *([session] if session else [])]
    sentences = [_gate_sentence(gate) for gate in gates]
    if session is None:
        sentences.append("No session gated: the version is marked offline-only.")
    elif learned_from:
        sentences.append(
            "The candidate was trained on the gate session, so that gate is optimistic: name another session "
            "(gate_session)."
        )
    return {
        "passed": all(gate["passed"] for gate in gates), "mark": OFFLINE_ONLY if session is None else "",
        "gates": gates, "learned_from_gate_session": bool(session and learned_from), "said": sentences,
    }  # fmt: skip


_SCORE_NAMES = {
    "macro_f1": "macro-F1", "minority_f1": "minority-F1", "macro_f1_present": "smoothed macro-F1 over present classes",
    "flips_per_min": "flips per minute",
}  # fmt: skip


def _gate_sentence(gate: dict[str, Any]) -> str:
    """Each score of a gate with its limit and its outcome."""
    parts = []
    for name, score in gate["scores"].items():
        digits = 1 if name == "flips_per_min" else 4
        text = f"{_SCORE_NAMES[name]} {score['base']:.{digits}f} -> {score['candidate']:.{digits}f}"
        if "change" in score:
            limit = f"may drop by {score['most_drop']:g}"
            if gate["decide_by"] == "interval":
                limit += f", interval of the change [{score['change']['lo']:+.4f}, {score['change']['hi']:+.4f}]"
        elif "least_gain" in score:
            limit = "must rise" + (f" by more than {score['least_gain']:g}" if score["least_gain"] else "")
        else:
            limit = f"may rise by {score['most_rise']:.0%}"
        parts.append(f"{text} ({limit}: {'yes' if score['passed'] else 'no'})")
    where = f"Offline, suite {gate['suite']}" if gate["gate"] == "offline" else "On the replayed session"
    return f"{where}, {gate['n_used']:,} of {gate['n_expected']:,}: {'; '.join(parts)}."
