"""A session's folder as the product writes it, out of labels and probabilities that a test makes up."""

import numpy as np

from fer_lib.live.log import SessionLog
from fer_lib.live.session_files import FrameRecord, write_session
from fer_lib.live.smoothing import Smoother
from fer_lib.params import SmoothingParams

HEAD = {"input": "clip.avi", "detector": "yunet", "ckpt": "ab12", "model": "student"}
FPS = 25.0


def write(folder, manual, probs, time=None, smoothing=None, about=None):
    """``manual`` int [T], -1 without a label; ``probs`` [T, 7], NaN rows without a face; ``folder`` again."""
    folder.mkdir(parents=True, exist_ok=True)
    p = smoothing or SmoothingParams()
    log, smoother = SessionLog(folder, HEAD, "2026-01-02T03:04:05+00:00", p, True), Smoother(p)
    time = np.arange(len(manual)) / FPS if time is None else time
    for i, (label, row) in enumerate(zip(manual, probs, strict=True)):
        row = None if np.isnan(row).any() else row
        log.add(FrameRecord(i, float(time[i]), int(label), "key", smoother.step(row).label, row, None))
    log.close()
    write_session(folder, about or {"smoothing": p.model_dump()})
    return folder


def acted(seed=0, seconds=60, right=0.75, faces=0.97, hold=3.0):
    """(manual, probs) of somebody who shows one class after another for ``hold`` seconds; the model is often right."""
    rng = np.random.default_rng(seed)
    length = int(seconds * FPS)
    shown = np.repeat(rng.integers(0, 7, length), int(hold * FPS))[:length]
    manual = np.where(np.arange(length) % int(hold * FPS) < 0.2 * FPS, -1, shown)  # the hand is on its way
    said = np.where(rng.random(length) < right, shown, rng.integers(0, 7, length))
    probs = rng.dirichlet(np.full(7, 0.5), length) * 0.5
    probs[np.arange(length), said] += 0.5
    probs[rng.random(length) > faces] = np.nan
    return manual, probs
