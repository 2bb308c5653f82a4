"""Selection of the frames of a live session to train on, with their kind and the reasons for all others.

A model trained on its own predictions learns its own mistakes, so only confident and consistent ones become labels:

- **positive**: the frame's own probability is ``positive`` or more, and the displayed (smoothed, voted) label is the
  same class.  The smoothed probability is not used: it lags behind a change of expression.
- **corrected**: a manual label contradicts the prediction.  It teaches only that the face is not the predicted class.
- **negative**: the probability lies between ``negative`` and ``positive``.  It teaches that the face is not the least
  probable class.

A manual label counts where Protocol-Lite scores it, away from the ends of a long enough segment.  Near the ends the
face still changes, so a frame that contradicts the label there is left out.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pandas as pd

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.live.score import segments
from fer_lib.live.session_files import NO_LABEL, Frames
from fer_lib.params import BufferParams

KINDS = ("positive", "corrected", "negative")  # in order of priority
REASONS = ("no_face", "not_recorded", "below", "label_edge", "unstable", "gap", "cap")
NO_CLASS = -1


def select_frames(
    frames: Frames, truth: np.ndarray, usable: np.ndarray, p: BufferParams
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Select frames to train on; ``truth`` int8 [T], -1 without a manual label; ``usable`` bool [T]: has a face image.

    Kinds are selected in order, the most confident frames first (positives and corrected frames by the predicted
    class's probability, negatives by the lowest probability; ties by time).  A frame is skipped when a selected one
    lies within ``min_gap`` frames, or when ``cap`` frames of its class are selected.  Corrected frames and negatives
    share one cap per predicted class.

    Returns the selected frames in session order (``position`` among the session's frames, ``frame_index``,
    ``time_sec``, ``kind`` of KINDS, ``label``: the manual label of a corrected frame, else the prediction,
    ``negative``: the class that the face is not, NO_CLASS for positives, ``p`` of the predicted class), and the number
    of the others by REASONS.
    """
    status, label, negative, confidence = _frame_status(frames, truth, usable, p)
    selected: list[int] = []  # frame_index, sorted
    count = {"positive": np.zeros(NUM_CLASSES, np.int64), "negative": np.zeros(NUM_CLASSES, np.int64)}
    top = np.where(np.isnan(frames.probs), -1.0, frames.probs).argmax(axis=1)
    for kind in KINDS:
        candidates = np.flatnonzero(status == kind)
        for at in candidates[np.lexsort((candidates, -confidence[candidates]))].tolist():
            index, share = int(frames.frame_index[at]), count["positive" if kind == "positive" else "negative"]
            place = bisect_left(selected, index - p.min_gap + 1)
            if place < len(selected) and selected[place] < index + p.min_gap:
                status[at] = "gap"
            elif p.cap and share[top[at]] >= p.cap:
                status[at] = "cap"
            else:
                insort(selected, index)
                share[top[at]] += 1
    at = np.flatnonzero(np.isin(status, KINDS))
    rows = pd.DataFrame({
        "position": at, "frame_index": frames.frame_index[at], "time_sec": frames.time_sec[at], "kind": status[at],
        "label": label[at], "negative": negative[at], "p": frames.probs[at].max(axis=1),
    })  # fmt: skip
    return rows, {reason: int((status == reason).sum()) for reason in REASONS}


def counts_by_class(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Selected frames by kind and class name: positives by label, the others by the class that the face is not."""
    classes = rows["label"].where(rows["kind"] == "positive", rows["negative"])
    tables = {kind: np.bincount(classes[rows["kind"] == kind], minlength=NUM_CLASSES) for kind in KINDS}
    return {kind: dict(zip(EMOTIONS, table.tolist(), strict=True)) for kind, table in tables.items()}


def _frame_status(
    frames: Frames, truth: np.ndarray, usable: np.ndarray, p: BufferParams
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per frame, before gap and cap: kind or reason, label, class that the face is not, and confidence."""
    faces = ~np.isnan(frames.probs).any(axis=1)
    probs = np.where(faces[:, None], frames.probs, 0.0)
    top, low, largest = probs.argmax(axis=1), probs.argmin(axis=1), probs.max(axis=1)
    scored = np.zeros(len(faces), bool)
    for segment in segments(truth, frames.time_sec):
        scored[segment.scored] = True
    contradicted = (truth != NO_LABEL) & (truth != top)
    confident = largest >= p.positive
    rules = [
        (~faces, "no_face"),
        (~usable, "not_recorded"),
        (largest < p.negative, "below"),
        (contradicted & scored, "corrected"),
        (contradicted, "label_edge"),
        (confident & (frames.pred == top), "positive"),
        (confident, "unstable"),
    ]
    status = np.select([rule for rule, _ in rules], [np.array(name, "U12") for _, name in rules], "negative")
    label = np.where(status == "corrected", truth, top).astype(np.int64)
    negative = np.select([status == "corrected", status == "negative"], [top, low], NO_CLASS).astype(np.int64)
    return status, label, negative, np.where(status == "negative", 1.0 - probs.min(axis=1), largest)
