"""A calm label out of one probability vector a frame (SPEC 10): a moving average, a margin to change, a vote.

Of a frame with a face: ``e <- a e + (1 - a) p``, the first one taken as it is; the label stays unless the top class of
``e`` leads it by ``hysteresis_delta``; of the last ``vote_window`` labels the most frequent one is shown when it stands
there ``vote_min_count`` times, of several equally frequent ones the label of the moment, else the first class.  A frame
without a face is unstable and changes nothing.
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
    """What is shown of one frame.

    ``probs`` float64 [7], the moving average, None without a face; ``label`` 0..6, or -1 while ``stable`` is False;
    ``votes`` how often the leading label stands in the window.
    """

    probs: np.ndarray | None
    label: int
    stable: bool
    votes: int


class Smoother:
    """Frame by frame, for a running session.  ``p`` may be set to other parameters at any time: they hold at once."""

    def __init__(self, p: SmoothingParams):
        self._kept: deque[int] = deque()  # the last labels, at most the window
        self._counts = [0] * NUM_CLASSES  # of them
        self._average: np.ndarray | None = None
        self._label = UNSTABLE  # after the margin, before the vote
        self.p = p

    @property
    def p(self) -> SmoothingParams:
        return self._p

    @p.setter
    def p(self, p: SmoothingParams) -> None:
        self._p = p
        while len(self._kept) > p.vote_window:  # the newest stay
            self._counts[self._kept.popleft()] -= 1

    def step(self, probs: np.ndarray | None) -> Smoothed:
        """Take in ``probs`` float64 [7] of a frame, None where no face was found."""
        if probs is None:
            return Smoothed(None, UNSTABLE, False, 0)
        p, e = self._p, self._average
        e = probs.astype(np.float64) if e is None else p.ema_alpha * e + (1.0 - p.ema_alpha) * probs
        top = int(e.argmax())
        if self._label == UNSTABLE or e[top] >= e[self._label] + p.hysteresis_delta:
            self._label = top
        self._average = e
        if len(self._kept) == p.vote_window:
            self._counts[self._kept.popleft()] -= 1
        self._kept.append(self._label)
        self._counts[self._label] += 1
        votes = max(self._counts)
        winner = self._label if self._counts[self._label] == votes else self._counts.index(votes)
        stable = votes >= p.vote_min_count
        return Smoothed(e, winner if stable else UNSTABLE, stable, votes)


def smooth(probs: np.ndarray, p: SmoothingParams) -> np.ndarray:
    """The labels int8 [T] that :class:`Smoother` gives for a session's ``probs`` [T, 7], NaN rows without a face."""
    faces = ~np.isnan(probs).any(axis=1)
    shown = np.full(len(probs), UNSTABLE, np.int8)
    if faces.any():
        kept = held(average(probs[faces], p.ema_alpha), p.hysteresis_delta)
        winner, votes = vote(kept, p.vote_window)
        shown[faces] = np.where(votes >= p.vote_min_count, winner, UNSTABLE)
    return shown


def average(probs: np.ndarray, alpha: float) -> np.ndarray:
    """The moving average float64 [F, 7] of frames that all have a face."""
    from scipy.signal import lfilter

    return lfilter([1.0 - alpha], [1.0, -alpha], probs, axis=0, zi=alpha * probs[:1])[0]


def held(averages: np.ndarray, delta: float) -> np.ndarray:
    """The label int8 [F] after the margin: it stays unless another leads it by ``delta``."""
    tops = averages.argmax(axis=1)
    leads = averages.max(axis=1)
    labels = np.empty(len(averages), np.int8)
    label, start = int(tops[0]), 0
    while start < len(averages):
        # the first frame from here on in which another class leads by enough
        moved = _first_lead(averages, tops, leads, label, delta, start)
        labels[start:moved] = label
        if moved < len(averages):
            label = int(tops[moved])
        start = moved
    return labels


def _first_lead(averages: np.ndarray, tops: np.ndarray, leads: np.ndarray, label: int, delta: float, start: int) -> int:
    length = 64  # looked at in growing pieces, for most labels last a while
    while start < len(averages):
        piece = slice(start, start + length)
        found = (leads[piece] >= averages[piece, label] + delta) & (tops[piece] != label)
        if found.any():
            return start + int(found.argmax())
        start, length = start + length, 4 * length
    return len(averages)


def vote(labels: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(leading label int8 [F], its votes int32 [F]) among the last ``window`` labels, fewer at the beginning."""
    sums = np.zeros((NUM_CLASSES, len(labels) + 1), np.int32)
    np.cumsum(labels == np.arange(NUM_CLASSES, dtype=np.int8)[:, None], axis=1, out=sums[:, 1:])
    counts = sums[:, 1:].copy()
    if window < len(labels):
        counts[:, window:] -= sums[:, 1 : len(labels) - window + 1]
    current = np.take_along_axis(counts, labels[None].astype(np.int64), axis=0)[0]
    winner, votes = counts.argmax(axis=0).astype(np.int8), counts.max(axis=0)
    return np.where(current == votes, labels, winner), votes
