"""Frame rate and latency quantiles of a session, in constant memory."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

BIN_MS, BINS = 0.05, 40_000  # histogram; a latency above two seconds counts as two seconds
RECENT_FRAMES = 60
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class LatencyMeter:
    """Call :meth:`add` once per labelled frame, from one thread.  ``frames`` counts the calls."""

    def __init__(self):
        self._counts = np.zeros(BINS, np.int64)
        self._recent: deque[float] = deque(maxlen=RECENT_FRAMES)
        self._first = self._last = 0.0
        self.frames = 0

    def add(self, latency: float) -> None:
        """``latency`` in seconds of a frame that was labelled just now."""
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._recent.append(self._last)
        self._counts[min(int(latency * 1000 / BIN_MS), BINS - 1)] += 1
        self.frames += 1

    @property
    def recent_fps(self) -> float:
        """Frames per second over the last :data:`RECENT_FRAMES` frames; 0 before the second frame."""
        span = self._recent[-1] - self._recent[0] if self._recent else 0.0
        return (len(self._recent) - 1) / span if span else 0.0

    @property
    def fps(self) -> float | None:
        """Frames per second from the first to the last frame; None with fewer than two."""
        span = self._last - self._first
        return (self.frames - 1) / span if self.frames > 1 and span else None

    def quantiles_ms(self) -> dict[str, float] | None:
        """Latency quantiles in milliseconds, each the upper edge of its bin; None without a frame."""
        if not self.frames:
            return None
        sums = np.cumsum(self._counts)
        return {k: round(float(BIN_MS * (1 + np.searchsorted(sums, q * self.frames))), 3) for k, q in QUANTILES.items()}
