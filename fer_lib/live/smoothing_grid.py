"""Score every smoothing setting of a grid on one recorded session, without running the model again.

Stronger smoothing flips less but reacts later, so it costs accuracy after a change of expression; the grid shows this
trade-off.  The labels before the vote depend on two of the four parameters and the vote counts on three, so most of the
work is shared between settings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.errors import DataError
from fer_lib.live.score import frame_durations, read_truth, scored_positions, segments
from fer_lib.live.session_files import read_frames, read_session
from fer_lib.live.smoothing import apply_margin, majority_vote, moving_average
from fer_lib.params import SmoothingParams, StudyParams
from fer_lib.storage.progress import each

COLUMNS = (
    *SmoothingParams.model_fields, "accuracy", "coverage", "flips", "flips_per_min", "on_front",
)  # fmt: skip


def score_grid(folder: Path | str, p: StudyParams) -> pd.DataFrame:
    """One row per setting: its four values, accuracy and coverage of Protocol-Lite, flips, and the Pareto front.

    The session's abstention thresholds apply to every setting.  ``on_front``: no other setting is as accurate with
    fewer flips per minute, or more accurate with as many.
    DataError when the session has no scored segment, or no face.
    """
    frames = read_frames(folder)
    truth, time = read_truth(folder, frames), frames.time_sec
    scored = scored_positions(segments(truth, time))
    faces = ~np.isnan(frames.probs).any(axis=1)
    if not len(scored) or not faces.any():
        raise DataError(f"{folder}: no manual segment that counts, or no face: run fer score {folder} for the reason")
    face_index = np.cumsum(faces) - 1  # of each frame among those with a face
    scored_faces = scored[faces[scored]]
    positions, y = face_index[scored_faces], truth[scored_faces]
    durations = frame_durations(time)[faces]
    probs, rows, thresholds = frames.probs[faces], [], _abstention(folder)
    for alpha in each("smoothing", p.ema_alpha):
        smoothed = moving_average(probs, alpha)
        for delta in p.hysteresis_delta:
            labels = apply_margin(smoothed, delta)
            for window in p.vote_window:
                winner, votes = majority_vote(labels, window)
                correct = winner[positions] == y
                certain = True if thresholds is None else smoothed[np.arange(len(winner)), winner] >= thresholds[winner]
                for min_count in p.vote_min_count:
                    shown = (votes >= min_count) & certain
                    shown_labels, minutes = winner[shown], durations[shown].sum() / 60
                    changes = int((shown_labels[1:] != shown_labels[:-1]).sum())
                    scored_shown = shown[positions]
                    rows.append(
                        (alpha, delta, window, min_count, (correct & scored_shown).sum() / len(scored),
                         scored_shown.sum() / len(scored), changes, changes / minutes if minutes else 0.0)
                    )  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    table["on_front"] = pareto_front(table["accuracy"].to_numpy(), table["flips_per_min"].to_numpy())
    return table


def _abstention(folder: Path | str) -> np.ndarray | None:
    """The session's abstention threshold of each class, float64 [7]; None without abstention."""
    thresholds = (read_session(folder).get("model_facts") or {}).get("abstention")
    return None if thresholds is None else np.asarray(thresholds, np.float64)


def pareto_front(gain: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """bool [N]: rows with the highest gain for their cost or less; of equal rows the first."""
    order = np.lexsort((np.arange(len(gain)), -gain, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order][:-1]]))
    on_front = np.zeros(len(gain), bool)
    on_front[order] = gain[order] > best
    return on_front


def suggest_setting(table: pd.DataFrame, current: SmoothingParams) -> pd.Series | None:
    """The most accurate setting with no more flips than ``current``; None when none is more accurate."""
    here = find_row(table, current)
    if here is None:
        return None
    better = table[(table["flips_per_min"] <= here["flips_per_min"]) & (table["accuracy"] > here["accuracy"])]
    return None if better.empty else better.sort_values(["accuracy", "flips_per_min"], ascending=[False, True]).iloc[0]


def find_row(table: pd.DataFrame, setting: SmoothingParams) -> pd.Series | None:
    """The row of ``setting``; None when the grid does not contain it."""
    same = np.ones(len(table), bool)
    for name, value in setting.model_dump().items():
        same &= np.isclose(table[name], value)
    return table[same].iloc[0] if same.any() else None
