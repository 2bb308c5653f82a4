"""Tables and sentences of a session's score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fer_lib.emotions import EMOTIONS
from fer_lib.live.sessions import session_id
from fer_lib.params import SmoothingParams
from fer_lib.storage.atomic import write_json
from fer_lib.storage.phase_result import PhaseResult

KINDS = ("raw", "smoothed")
MEASURES = {
    "accuracy": "accuracy", "macro-F1 over seven": "macro_f1", "macro-F1 over those present": "macro_f1_present",
    "coverage": "coverage", "flips per minute": "flips_per_min",
}  # fmt: skip
LOGGED = (  # keys of a score that are metrics of the run
    "n_expected", "n_used", "segments_scored", "face_share", "dropped", "fps", "latency_ms", "raw", "smoothed"
)  # fmt: skip


def score_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row per measure, columns raw and smoothed.  ``result``: from :func:`fer_lib.live.score.score`."""
    rows = {name: [result[kind][key] for kind in KINDS] for name, key in MEASURES.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(KINDS))


def class_table(result: dict[str, Any]) -> pd.DataFrame:
    """One row per scored class: its frames, F1 and recall, raw and smoothed."""
    support = result["raw"]["support"]
    columns = {"frames": support}
    for measure, key in (("F1", "per_class_f1"), ("recall", "per_class_recall")):
        columns |= {f"{measure} {kind}": result[kind][key] for kind in KINDS}
    return pd.DataFrame(columns).loc[[name for name in EMOTIONS if support[name]]]


def confusion_table(result: dict[str, Any], kind: str = "smoothed") -> pd.DataFrame:
    """Frame counts by manual label (rows) and label of ``kind`` (columns); the last column is "no label"."""
    return pd.DataFrame(result[kind]["confusion"], index=list(EMOTIONS), columns=[*EMOTIONS, "none"])


def speed_text(result: dict[str, Any]) -> str:
    """Frame rate, latency and data losses of the session on one line."""
    latency = ", ".join(f"{k} {v:.1f} ms" for k, v in (result["latency_ms"] or {}).items())
    short = result["segments"] - result["segments_scored"]
    parts = [
        f"{result['fps']:.1f} frames/s" if result["fps"] else "",
        f"latency {latency}" if latency else "",
        f"{short} of {result['segments']} segments are too short to count" if short else "",
        f"{result['dropped']} frames were dropped" if result["dropped"] else "",
        "corrections.csv was applied" if result["corrected"] else "",
        "the last, incomplete line was left out" if result["truncated_lines"] else "",
    ]
    return "; ".join(filter(None, parts)) or "no frame rate was recorded"


def score_text(result: dict[str, Any]) -> str:
    """The score in one sentence."""

    def details(kind: str) -> str:
        own = result[kind]
        f1, flips = own["macro_f1_present"], own["flips_per_min"]
        return f"(macro-F1 of classes present {f1:.3f}, {flips:.1f} flips per minute)"

    accuracy = [f"{result[kind]['accuracy']:.1%}" for kind in ("smoothed", "raw")]
    return (
        f"Smoothed labels are right in {accuracy[0]} of {result['n_used']:,} frames {details('smoothed')}, "
        f"raw labels in {accuracy[1]} {details('raw')}."
    )


def grid_text(table: pd.DataFrame, here: pd.Series | None, better: pd.Series | None) -> str:
    """The suggestion of the smoothing grid in one sentence; ``here`` is the row of the session's own setting."""
    if here is None:
        return f"{len(table):,} settings; the session's own is not among them"
    if better is None:
        return f"none of {len(table):,} settings is more accurate without more flips"
    options = " ".join(f"{name} {better[name]:g}" for name in SmoothingParams.model_fields)
    return (
        f"{options} would be right in {better['accuracy']:.1%} of the frames instead of {here['accuracy']:.1%}, with "
        f"{better['flips_per_min']:.1f} flips per minute instead of {here['flips_per_min']:.1f} (chosen on these "
        "frames: check it on another session)"
    )


def score_result(
    result: dict[str, Any], study: pd.DataFrame, suggestion: str, session: str, folder: Path, out: Path
) -> PhaseResult:
    """The result of a scoring phase in ``out``; writes ``score.json`` and ``study.csv``.

    ``study``: from :func:`fer_lib.live.smoothing_grid.score_grid`; ``suggestion``: from :func:`grid_text`;
    ``session``: the sentence about the session's ``folder``.
    """
    study.to_csv(out / "study.csv", index=False)
    names = {"accuracy": "accuracy", "macro-F1": "macro_f1", "flips a minute": "flips_per_min"}
    headline = {kind: {name: result[kind][key] for name, key in names.items()} for kind in KINDS}
    return PhaseResult(
        ids={key: result[key] for key in ("evalset_id", "protocol_id")} | {"session_sha256": session_id(folder)},
        headline={"session": folder.name, "frames": f"{result['n_used']} of {result['n_expected']}"} | headline,
        artifacts=[write_json(out / "score.json", result), out / "study.csv"],
        metrics={key: result[key] for key in LOGGED},
        note={
            "action": f"Scored {session}: {result['n_used']:,} of {result['n_expected']:,} labelled frames count. "
            f"Model {result['model']} ({result['ckpt']}), detector {result['detector']}.",
            "result": f"{score_text(result)} Study: {suggestion}.",
            "decision": "The session stays as it is; settings that look better here were found on these very frames.",
            "next": "Correct labels that the pages show to be wrong, or record another session with the better "
            "settings.",
        },
    )
