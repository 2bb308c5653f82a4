"""Which frames of a live session may be learned from, as what, and why the others may not (SPEC 10).

A model that learns from its own answers learns its own mistakes, so only the surest count as labels, and only where
the session agrees with itself:

- **positive**: the frame's own probability is ``positive`` or more, and the label that was shown (smoothed, voted) is
  the same class.  The frame's own, for it is these pixels that are learned; an average still holds the expression
  before for a while after a change.
- **corrected**: a manual label says otherwise.  Learned is only that the face is not what was predicted.
- **negative**: the probability lies between ``negative`` and ``positive``.  Learned is that the face is not the class
  of the lowest probability.

A manual label is believed where Protocol-Lite counts it, away from the ends of a long enough segment; at the ends,
where the face is still changing, it only keeps a frame that contradicts it out.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.live.score import segments
from fer_lib.live.session_files import NO_LABEL, Frames
from fer_lib.params import BufferParams

KINDS = ("positive", "corrected", "negative")  # in the order in which they are taken
REASONS = ("no_face", "not_recorded", "below", "label_edge", "unstable", "gap", "cap")
NONE = -1


@dataclass(frozen=True)
class Chosen:
    """N frames, in their order.

    ``position`` int64 [N] in the session's frames; ``kind`` str [N] of :data:`KINDS`; ``label`` int64 [N], for a
    corrected one the manual label, else what was predicted; ``negative`` int64 [N], the class that it is not, -1 for
    positives; ``p`` float64 [N] of the predicted class; ``left_out`` reason -> frames, all of :data:`REASONS`.
    """

    position: np.ndarray
    kind: np.ndarray
    label: np.ndarray
    negative: np.ndarray
    p: np.ndarray
    left_out: dict[str, int]

    def counts(self) -> dict[str, dict[str, int]]:
        """Frames by kind and class name: positives by their label, the others by the class that they are not."""
        named = np.where(self.kind == "positive", self.label, self.negative)
        tables = {kind: np.bincount(named[self.kind == kind], minlength=NUM_CLASSES) for kind in KINDS}
        return {kind: dict(zip(EMOTIONS, table.tolist(), strict=True)) for kind, table in tables.items()}


def choose(frames: Frames, truth: np.ndarray, usable: np.ndarray, p: BufferParams) -> Chosen:
    """The frames to learn from.  ``truth`` int8 [T], -1 without a manual label; ``usable`` bool [T]: its face is kept.

    Kind by kind, the surest first (positives and corrected ones by the highest probability of the predicted class,
    negatives by the lowest of the class that they are not; of equal ones the earlier frame), a frame is taken unless
    one within ``min_gap`` frames was taken before, or ``cap`` frames of its class were.  Corrected frames and negatives
    share one cap, by the class that was predicted.  So the cap keeps the surest.
    """
    status, label, negative, sure = _judged(frames, truth, usable, p)
    taken: list[int] = []  # frame_index of those taken, sorted
    count = {"positive": np.zeros(NUM_CLASSES, np.int64), "negative": np.zeros(NUM_CLASSES, np.int64)}
    top = np.where(np.isnan(frames.probs), -1.0, frames.probs).argmax(axis=1)
    for kind in KINDS:
        candidates = np.flatnonzero(status == kind)
        for at in candidates[np.lexsort((candidates, -sure[candidates]))].tolist():
            index, share = int(frames.frame_index[at]), count["positive" if kind == "positive" else "negative"]
            place = bisect_left(taken, index - p.min_gap + 1)
            if place < len(taken) and taken[place] < index + p.min_gap:
                status[at] = "gap"
            elif p.cap and share[top[at]] >= p.cap:
                status[at] = "cap"
            else:
                insort(taken, index)
                share[top[at]] += 1
    position = np.flatnonzero(np.isin(status, KINDS))
    largest = np.nanmax(frames.probs[position], axis=1) if len(position) else np.zeros(0)
    left_out = {reason: int((status == reason).sum()) for reason in REASONS}
    return Chosen(position, status[position], label[position], negative[position], largest, left_out)


def _judged(
    frames: Frames, truth: np.ndarray, usable: np.ndarray, p: BufferParams
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each frame, gap and cap aside: its kind or reason, label, class that it is not, and how sure that is."""
    faces = ~np.isnan(frames.probs).any(axis=1)
    probs = np.where(faces[:, None], frames.probs, 0.0)
    top, low, largest = probs.argmax(axis=1), probs.argmin(axis=1), probs.max(axis=1)
    believed = np.zeros(len(faces), bool)
    for segment in segments(truth, frames.time_sec):
        believed[segment.scored] = True
    against = (truth != NO_LABEL) & (truth != top)
    sure = largest >= p.positive
    rules = [
        (~faces, "no_face"),
        (~usable, "not_recorded"),
        (largest < p.negative, "below"),
        (against & believed, "corrected"),
        (against, "label_edge"),
        (sure & (frames.pred == top), "positive"),
        (sure, "unstable"),
    ]
    status = np.select([rule for rule, _ in rules], [np.array(name, "U12") for _, name in rules], "negative")
    label = np.where(status == "corrected", truth, top).astype(np.int64)
    negative = np.select([status == "corrected", status == "negative"], [top, low], NONE).astype(np.int64)
    return status, label, negative, np.where(status == "negative", 1.0 - probs.min(axis=1), largest)
