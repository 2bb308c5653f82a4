"""Session folders for tests, written by the product's own writers from given labels and probabilities."""

import numpy as np

from fer_lib.live.log import SessionLog
from fer_lib.live.session_files import FrameRecord
from fer_lib.live.session_files import write_session as write_session_json
from fer_lib.live.smoothing import UNSTABLE, Smoother, apply_margin, majority_vote, moving_average
from fer_lib.params import SmoothingParams

HEAD = {"input": "clip.avi", "detector": "yunet", "ckpt": "ab12", "model": "student"}
FPS = 25.0


def write_session(folder, manual, probs, time=None, smoothing=None, info=None):
    """``manual`` int [T], -1 without a label; ``probs`` [T, 7], NaN rows without a face; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    p = smoothing or SmoothingParams()
    log, smoother = SessionLog(folder, HEAD, "2026-01-02T03:04:05+00:00", p, True), Smoother(p)
    time = np.arange(len(manual)) / FPS if time is None else time
    for i, (label, row) in enumerate(zip(manual, probs, strict=True)):
        row = None if np.isnan(row).any() else row
        log.add(FrameRecord(i, float(time[i]), int(label), "key", smoother.step(row).label, row, None))
    log.close()
    write_session_json(folder, info or {"smoothing": p.model_dump()})
    return folder


def simulate(seed=0, seconds=60, right=0.75, faces=0.97, hold=3.0):
    """(manual, probs) of one class after another for ``hold`` seconds; the model is right with rate ``right``."""
    rng = np.random.default_rng(seed)
    length = int(seconds * FPS)
    shown = np.repeat(rng.integers(0, 7, length), int(hold * FPS))[:length]
    manual = np.where(np.arange(length) % int(hold * FPS) < 0.2 * FPS, -1, shown)  # the manual label lags
    predicted = np.where(rng.random(length) < right, shown, rng.integers(0, 7, length))
    probs = rng.dirichlet(np.full(7, 0.5), length) * 0.5
    probs[np.arange(length), predicted] += 0.5
    probs[rng.random(length) > faces] = np.nan
    return manual, probs


def smooth(probs, p):
    """The labels int8 [T] of a whole session's ``probs`` [T, 7], by the functions that the smoothing grid composes."""
    faces = ~np.isnan(probs).any(axis=1)
    shown = np.full(len(probs), UNSTABLE, np.int8)
    if faces.any():
        labels = apply_margin(moving_average(probs[faces], p.ema_alpha), p.hysteresis_delta)
        winner, votes = majority_vote(labels, p.vote_window)
        shown[faces] = np.where(votes >= p.vote_min_count, winner, UNSTABLE)
    return shown
