"""Whether a candidate may take another model's place: gates as pure functions of two measurements (SPEC 11).

Offline a candidate may be a little worse than the base; on the same replayed session it has to be better and as calm.
Both are measured on the same rows, or the gate refuses to compare them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_lib.calibration.metrics import macro_f1, minority_f1
from fer_lib.errors import DataError
from fer_lib.evaluation.paired import METHOD, paired_differences
from fer_lib.evaluation.stages import Measured
from fer_lib.params import GateParams, OfflineGate, SessionGate

OFFLINE_ONLY = "offline-only"
SLACK = 1e-12  # of two float64 means that are compared with a limit


def offline_gate(
    base: Measured, candidate: Measured, gate: OfflineGate, p: GateParams, seed: int = 0
) -> dict[str, Any]:
    """Macro-F1 (over seven) and minority-F1 of both on one suite, what changed, and whether each drop is within limits.

    ``decide_by`` point: the drop itself is at most the limit.  interval: the whole paired 95 % interval of the change
    lies at or above minus the limit, so that a drop beyond it is ruled out; on few rows that is hard to show.
    DataError for measurements on other rows (evalset ids or sample ids that differ).
    """
    ids = [measured.report["evalset_id"] for measured in (base, candidate)]
    if ids[0] != ids[1] or sorted(base.sample_ids) != sorted(candidate.sample_ids):
        raise DataError(
            f"suite {gate.suite}: {base.name} was measured on {len(base.y):,} rows (evalset {ids[0]}), "
            f"{candidate.name} on {len(candidate.y):,} (evalset {ids[1]}): a gate compares nothing that was "
            "measured on other rows; measure both on one manifest"
        )
    place = {sample: i for i, sample in enumerate(candidate.sample_ids)}
    order = np.array([place[sample] for sample in base.sample_ids])
    after, y = candidate.logits[order], base.y
    if (candidate.y[order] != y).any():
        raise DataError(f"suite {gate.suite}: {base.name} and {candidate.name} were measured with other labels")
    change = paired_differences(base.logits, after, y, p.resamples, seed, minority=True)
    scores = {}
    for name, score, limit in (
        ("macro_f1", macro_f1, gate.macro_f1_drop),
        ("minority_f1", minority_f1, gate.minority_f1_drop),
    ):
        values = [score(logits.argmax(axis=1), y, logits.shape[1]) for logits in (base.logits, after)]
        worst = change[name]["lo" if p.decide_by == "interval" else "value"]
        scores[name] = {
            "base": values[0], "candidate": values[1], "change": change[name], "most_drop": limit,
            "passed": bool(worst >= -limit - SLACK),
        }  # fmt: skip
    return {
        "gate": "offline", "suite": gate.suite, "evalset_id": ids[0],
        "protocol_id": {"base": base.report["protocol_id"], "candidate": candidate.report["protocol_id"]},
        "n_expected": base.report["n_expected"], "n_used": len(y), "decide_by": p.decide_by, "interval": METHOD,
        "scores": scores, "passed": all(score["passed"] for score in scores.values()),
    }  # fmt: skip


def session_gate(base: dict[str, Any], candidate: dict[str, Any], gate: SessionGate) -> dict[str, Any]:
    """Two scores of Protocol-Lite (:func:`fer_lib.live.score.score`) of one session, replayed by each model.

    Smoothed macro-F1 over the classes present has to rise by more than ``macro_f1_gain``; flips a minute may rise by
    the share ``flips_rise`` (from none: not at all).  The points decide: frames of a segment are no independent draws
    and segments are few, so an interval over them would say more than is known.
    DataError for two scores of other frames or labels.
    """
    if base["evalset_id"] != candidate["evalset_id"]:
        raise DataError(
            f"the session was scored on other frames for the two models (evalset {base['evalset_id']} and "
            f"{candidate['evalset_id']}): replay one session by both, with the same corrections"
        )
    f1, flips = ([s["smoothed"][key] for s in (base, candidate)] for key in ("macro_f1_present", "flips_per_min"))
    rises = {
        "macro_f1_present": {
            "base": f1[0], "candidate": f1[1], "least_gain": gate.macro_f1_gain,
            "passed": bool(f1[1] - f1[0] > gate.macro_f1_gain + SLACK),
        },
        "flips_per_min": {
            "base": flips[0], "candidate": flips[1], "most_rise": gate.flips_rise,
            "passed": bool(flips[1] <= flips[0] * (1 + gate.flips_rise) + SLACK),
        },
    }  # fmt: skip
    return {
        "gate": "session", "evalset_id": base["evalset_id"],
        "protocol_id": {"base": base["protocol_id"], "candidate": candidate["protocol_id"]},
        "n_expected": base["n_expected"], "n_used": base["n_used"], "segments_scored": base["segments_scored"],
        "decide_by": "point", "scores": rises, "passed": all(score["passed"] for score in rises.values()),
    }  # fmt: skip


def decide(offline: list[dict[str, Any]], session: dict[str, Any] | None, learned_from: bool = False) -> dict[str, Any]:
    """All gates together: ``passed``, ``mark`` (``offline-only`` without a session, else blank), ``said`` sentences.

    ``learned_from``: the session that gates was also learned from, so its figures are optimistic.
    DataError without any offline gate.
    """
    if not offline:
        raise DataError("no offline gate was measured: a candidate is never judged by a session alone")
    gates = [*offline, *([session] if session else [])]
    said = [_sentence(gate) for gate in gates]
    if session is None:
        said.append("No session gated: the version is marked offline-only.")
    elif learned_from:
        said.append(
            "The session that gates is one that was learned from, so what it shows is optimistic: gate on another "
            "session (gate_session)."
        )
    return {
        "passed": all(gate["passed"] for gate in gates), "mark": OFFLINE_ONLY if session is None else "",
        "gates": gates, "learned_from_gate_session": bool(session and learned_from), "said": said,
    }  # fmt: skip


_NAMES = {
    "macro_f1": "macro-F1", "minority_f1": "minority-F1", "macro_f1_present": "smoothed macro-F1 over present classes",
    "flips_per_min": "flips a minute",
}  # fmt: skip


def _sentence(gate: dict[str, Any]) -> str:
    """Every figure of a gate, what was allowed, and what came of it."""
    parts = []
    for name, score in gate["scores"].items():
        digits = 1 if name == "flips_per_min" else 4
        text = f"{_NAMES[name]} {score['base']:.{digits}f} -> {score['candidate']:.{digits}f}"
        if "change" in score:
            limit = f"may drop by {score['most_drop']:g}"
            if gate["decide_by"] == "interval":
                limit += f", interval of the change [{score['change']['lo']:+.4f}, {score['change']['hi']:+.4f}]"
        elif "least_gain" in score:
            limit = "has to rise" + (f" by more than {score['least_gain']:g}" if score["least_gain"] else "")
        else:
            limit = f"may rise by {score['most_rise']:.0%}"
        parts.append(f"{text} ({limit}: {'yes' if score['passed'] else 'no'})")
    where = f"Offline, suite {gate['suite']}" if gate["gate"] == "offline" else "On the replayed session"
    return f"{where}, {gate['n_used']:,} of {gate['n_expected']:,}: {'; '.join(parts)}."
