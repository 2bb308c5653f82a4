"""Temporal smoothing of frame probabilities: exponential moving average, hysteresis margin, majority vote.

For a frame with a face: ``e <- a e + (1 - a) p``, with ``e = p`` for the first one.  The first label is the top class
of ``e``.  Later it changes only when the top class is at least ``hysteresis_delta`` above the current label.  The
most frequent of the last ``vote_window`` labels is shown when it occurs ``vote_min_count`` times.  In a tie the
current label wins if it is among the tied classes, else the class with the lowest id.  A frame without a face is
unstable and does not change the state.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from fer_lib.emotions import NUM_CLASSES
from fer_lib.live.session_files import UNSTABLE
from fer_lib.params import SmoothingParams


@dataclass(frozen=True)
class Smoothed:
    """The smoothed output of one frame.

    ``probs`` float64 [7], the moving average, None without a face; ``label`` 0..6, or -1 while ``stable`` is False;
    ``votes`` of the leading label in the window.
    """

    probs: np.ndarray | None
    label: int
    stable: bool
    votes: int


class Smoother:
    """Smooths a running session frame by frame.  Parameters assigned to ``p`` take effect with the next frame."""

    def __init__(self, p: SmoothingParams):
        self._window: deque[int] = deque()  # the last labels
        self._counts = [0] * NUM_CLASSES  # of the labels in the window
        self._average: np.ndarray | None = None
        self._label = UNSTABLE  # after the margin, before the vote
        self.p = p

    @property
    def p(self) -> SmoothingParams:
        return self._p

    @p.setter
    def p(self, p: SmoothingParams) -> None:
        self._p = p
        while len(self._window) > p.vote_window:  # the latest labels stay
            self._counts[self._window.popleft()] -= 1

    def step(self, probs: np.ndarray | None) -> Smoothed:
        """Smooth one frame's ``probs`` float64 [7]; None for a frame without a face."""
        if probs is None:
            return Smoothed(None, UNSTABLE, False, 0)
        p, e = self._p, self._average
        e = probs.astype(np.float64) if e is None else p.ema_alpha * e + (1.0 - p.ema_alpha) * probs
        top = int(e.argmax())
        if self._label == UNSTABLE or e[top] >= e[self._label] + p.hysteresis_delta:
            self._label = top
        self._average = e
        if len(self._window) == p.vote_window:
            self._counts[self._window.popleft()] -= 1
        self._window.append(self._label)
        self._counts[self._label] += 1
        votes = max(self._counts)
        winner = self._label if self._counts[self._label] == votes else self._counts.index(votes)
        stable = votes >= p.vote_min_count
        return Smoothed(e, winner if stable else UNSTABLE, stable, votes)


def moving_average(probs: np.ndarray, alpha: float) -> np.ndarray:
    """The exponential moving average float64 [F, 7] of frames that all have a face."""
    from scipy.signal import lfilter

    return lfilter([1.0 - alpha], [1.0, -alpha], probs, axis=0, zi=alpha * probs[:1])[0]


def apply_margin(averages: np.ndarray, delta: float) -> np.ndarray:
    """The label int8 [F] after the margin: it changes when another class leads by ``delta``."""
    tops = averages.argmax(axis=1)
    leads = averages.max(axis=1)
    labels = np.empty(len(averages), np.int8)
    label, start = int(tops[0]), 0
    while start < len(averages):
        end = _next_change(averages, tops, leads, label, delta, start)
        labels[start:end] = label
        if end < len(averages):
            label = int(tops[end])
        start = end
    return labels


def _next_change(
    averages: np.ndarray, tops: np.ndarray, leads: np.ndarray, label: int, delta: float, start: int
) -> int:
    """The first frame from ``start`` on in which another class leads by ``delta``; the frame count without one."""
    length = 64  # search in growing chunks, because most labels last a while
    while start < len(averages):
        chunk = slice(start, start + length)
        changes = (leads[chunk] >= averages[chunk, label] + delta) & (tops[chunk] != label)
        if changes.any():
            return start + int(changes.argmax())
        start, length = start + length, 4 * length
    return len(averages)


def majority_vote(labels: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(leading label int8 [F], its votes int32 [F]) among the last ``window`` labels, fewer at the start."""
    sums = np.zeros((NUM_CLASSES, len(labels) + 1), np.int32)
    np.cumsum(labels == np.arange(NUM_CLASSES, dtype=np.int8)[:, None], axis=1, out=sums[:, 1:])
    counts = sums[:, 1:].copy()
    if window < len(labels):
        counts[:, window:] -= sums[:, 1 : len(labels) - window + 1]
    current = np.take_along_axis(counts, labels[None].astype(np.int64), axis=0)[0]
    winner, votes = counts.argmax(axis=0).astype(np.int8), counts.max(axis=0)
    return np.where(current == votes, labels, winner), votes
