"""A session's score for people: tables, and in sentences."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fer_lib.emotions import EMOTIONS
from fer_lib.params import SmoothingParams

KINDS = ("raw", "smoothed")
MEASURES = {
    "accuracy": "accuracy", "macro-F1 over seven": "macro_f1", "macro-F1 over those present": "macro_f1_present",
    "coverage": "coverage", "flips a minute": "flips_per_min",
}  # fmt: skip


def score_table(result: dict[str, Any]) -> pd.DataFrame:
    """A row a measure, raw beside smoothed.  ``result``: what :func:`fer_lib.live.score.score` gives."""
    rows = {said: [result[kind][key] for kind in KINDS] for said, key in MEASURES.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(KINDS))


def class_table(result: dict[str, Any]) -> pd.DataFrame:
    """A row a class that was scored: its frames, F1 and recall, raw and smoothed."""
    support = result["raw"]["support"]
    columns = {"frames": support}
    for measure, key in (("F1", "per_class_f1"), ("recall", "per_class_recall")):
        columns |= {f"{measure} {kind}": result[kind][key] for kind in KINDS}
    return pd.DataFrame(columns).loc[[name for name in EMOTIONS if support[name]]]


def confusion_table(result: dict[str, Any], kind: str = "smoothed") -> pd.DataFrame:
    """Frames by manual label (a row) and label of that ``kind`` (a column), the last column without one."""
    return pd.DataFrame(result[kind]["confusion"], index=list(EMOTIONS), columns=[*EMOTIONS, "none"])


def pace(result: dict[str, Any]) -> str:
    """How fast the session was and what it lacks, on one line; says so where no pace was recorded."""
    latency = ", ".join(f"{k} {v:.1f} ms" for k, v in (result["latency_ms"] or {}).items())
    left = result["segments"] - result["segments_scored"]
    parts = [
        f"{result['fps']:.1f} frames/s" if result["fps"] else "",
        f"latency {latency}" if latency else "",
        f"{left} of {result['segments']} segments are too short to count" if left else "",
        f"{result['dropped']} frames were dropped" if result["dropped"] else "",
        "corrections.csv was applied" if result["corrected"] else "",
        "the last line was cut off and left out" if result["truncated_lines"] else "",
    ]
    return "; ".join(filter(None, parts)) or "no pace was recorded"


def in_words(result: dict[str, Any]) -> str:
    """The score in one sentence."""

    def rest(kind: str) -> str:
        own = result[kind]
        return f"(macro-F1 of those present {own['macro_f1_present']:.3f}, {own['flips_per_min']:.1f} flips a minute)"

    right = [f"{result[kind]['accuracy']:.1%}" for kind in ("smoothed", "raw")]
    return (
        f"Smoothed labels are right in {right[0]} of {result['n_used']:,} frames {rest('smoothed')}, "
        f"raw ones in {right[1]} {rest('raw')}."
    )


def study_in_words(table: pd.DataFrame, here: pd.Series | None, better: pd.Series | None) -> str:
    """What the study found beside the session's own setting ``here``."""
    if here is None:
        return f"{len(table):,} settings; the session's own is not among them"
    if better is None:
        return f"of {len(table):,} settings none is as calm and more accurate"
    options = " ".join(f"{name} {better[name]:g}" for name in SmoothingParams.model_fields)
    return (
        f"{options} would be right in {better['accuracy']:.1%} of the frames instead of {here['accuracy']:.1%}, with "
        f"{better['flips_per_min']:.1f} flips a minute instead of {here['flips_per_min']:.1f} (found on these very "
        "frames: look at another session before you trust it)"
    )
