"""How fast a session is: frames a second and quantiles of its latency, in room that does not grow with its length."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

BIN, BINS = 0.05, 40_000  # milliseconds a bin; what takes longer than two seconds is counted as two
LATELY = 60  # frames over which "frames a second of late" are taken
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class Pace:
    """Add each frame once it is labelled.  One thread's."""

    def __init__(self):
        self._counts = np.zeros(BINS, np.int64)
        self._late: deque[float] = deque(maxlen=LATELY)
        self._first = self._last = 0.0
        self.frames = 0

    def add(self, latency: float) -> None:
        """``latency`` in seconds, of a frame that was labelled just now."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._late.append(self._last)
        self._counts[min(int(latency * 1000 / BIN), BINS - 1)] += 1
        self.frames += 1

    @property
    def lately(self) -> float:
        """Frames a second over the last second or so, 0 before the second frame."""
        span = self._late[-1] - self._late[0] if self._late else 0.0
        return (len(self._late) - 1) / span if span else 0.0

    @property
    def fps(self) -> float | None:
        """Frames a second from the first to the last one; None with fewer than two."""
        span = self._last - self._first
        return (self.frames - 1) / span if self.frames > 1 and span else None

    def latency_ms(self) -> dict[str, float] | None:
        """Quantiles in milliseconds, each the upper edge of its bin; None without a frame."""
        if not self.frames:
            return None
        sums = np.cumsum(self._counts)
        return {k: round(float(BIN * (1 + np.searchsorted(sums, q * self.frames))), 3) for k, q in QUANTILES.items()}
