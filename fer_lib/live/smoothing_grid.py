"""What smoothing buys: every setting of a grid on one recorded session, without asking the model again.

Calmer settings flip less and answer later, so fewer frames of a changed expression are right; the study shows what one
costs in the other.  Labels before the vote depend on two of the four settings alone, the vote's counts on three, so a
grid costs little more than its scoring.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fer_lib.errors import DataError
from fer_lib.live.score import read_truth, segments
from fer_lib.live.session_files import read_frames, read_session
from fer_lib.live.smoothing import average, held, vote
from fer_lib.params import SmoothingParams, StudyParams

COLUMNS = (
    *SmoothingParams.model_fields, "accuracy", "coverage", "flips", "flips_per_min", "on_front",
)  # fmt: skip


def study(folder: Path | str, p: StudyParams) -> pd.DataFrame:
    """A row a setting of the grid: its four values, accuracy and coverage of Protocol-Lite, flips a minute, the front.

    Where the session abstained, each setting does, below the same values.  ``on_front``: no other setting is as
    accurate with fewer flips a minute, or more accurate with as many.
    DataError where the session has no segment that counts, or no face.
    """
    frames = read_frames(folder)
    truth, time = read_truth(folder, frames), frames.time_sec
    scored = [s.scored for s in segments(truth, time)]
    scored = np.concatenate(scored) if scored else np.zeros(0, np.int64)
    faces = ~np.isnan(frames.probs).any(axis=1)
    if not len(scored) or not faces.any():
        raise DataError(f"{folder}: no manual segment that counts, or no face: fer score {folder} says what is missing")
    place = np.cumsum(faces) - 1  # of each frame among those with a face
    mine = scored[faces[scored]]
    where, y = place[mine], truth[mine]
    lasts = np.diff(time, append=2 * time[-1] - time[-2])[faces] if len(time) > 1 else np.zeros(1)
    probs, rows, least_probs = frames.probs[faces], [], _abstention(folder)
    for alpha in p.ema_alpha:
        smoothed = average(probs, alpha)
        for delta in p.hysteresis_delta:
            kept = held(smoothed, delta)
            for window in p.vote_window:
                winner, votes = vote(kept, window)
                right = winner[where] == y
                known = True if least_probs is None else smoothed[np.arange(len(winner)), winner] >= least_probs[winner]
                for least in p.vote_min_count:
                    shown = (votes >= least) & known
                    labels, minutes = winner[shown], lasts[shown].sum() / 60
                    changes = int((labels[1:] != labels[:-1]).sum())
                    there = shown[where]
                    rows.append(
                        (alpha, delta, window, least, (right & there).sum() / len(scored), there.sum() / len(scored),
                         changes, changes / minutes if minutes else 0.0)
                    )  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    table["on_front"] = front(table["accuracy"].to_numpy(), table["flips_per_min"].to_numpy())
    return table


def _abstention(folder: Path | str) -> np.ndarray | None:
    """The probability of each class, float64 [7], below which the session showed Unknown; None where it never did."""
    found = (read_session(folder).get("model_facts") or {}).get("abstention")
    return None if found is None else np.asarray(found, np.float64)


def front(gain: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """bool [N]: rows that no other beats in one without being worse in the other; of equal rows the first."""
    order = np.lexsort((np.arange(len(gain)), -gain, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order][:-1]]))
    found = np.zeros(len(gain), bool)
    found[order] = gain[order] > best
    return found


def suggestion(table: pd.DataFrame, current: SmoothingParams) -> pd.Series | None:
    """The most accurate setting that flips no more than ``current`` does, if it is more accurate; None otherwise."""
    here = row_of(table, current)
    if here is None:
        return None
    better = table[(table["flips_per_min"] <= here["flips_per_min"]) & (table["accuracy"] > here["accuracy"])]
    return None if better.empty else better.sort_values(["accuracy", "flips_per_min"], ascending=[False, True]).iloc[0]


def row_of(table: pd.DataFrame, setting: SmoothingParams) -> pd.Series | None:
    """The row of this setting, None when the grid does not hold it."""
    same = np.ones(len(table), bool)
    for name, value in setting.model_dump().items():
        same &= np.isclose(table[name], value)
    return table[same].iloc[0] if same.any() else None
