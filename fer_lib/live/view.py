"""One labelled frame for a window or page, and a slot that hands over the latest one without blocking the session."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.live.controls import Setting
from fer_lib.live.session_files import LABEL_TEXT
from fer_lib.live.tracker import TrackedFace


@dataclass(frozen=True)
class View:
    """One labelled frame.

    ``image`` uint8 RGB [H, W, 3], read-only by convention; ``faces`` in the order of :class:`tracker.Tracker`, the
    first one is scored; ``probs`` float64 [7] before and ``smoothed`` after the moving average, None without a face;
    ``label`` 0..6, -1 unstable or no face, -2 Unknown; ``votes`` of the leading label in the window; ``setting`` in
    force for the frame; ``fps`` recent frames per second; ``latency_ms`` from capture to label; ``dropped`` frames of
    the camera so far.
    """

    index: int
    time: float
    image: np.ndarray
    faces: tuple[TrackedFace, ...]
    probs: np.ndarray | None
    smoothed: np.ndarray | None
    label: int
    votes: int
    setting: Setting
    fps: float
    latency_ms: float
    dropped: int

    @property
    def text(self) -> str:
        """The label as text: a class, ``(unstable)`` or ``Unknown``."""
        return LABEL_TEXT[self.label]

    @property
    def manual(self) -> str:
        """The manual label as text, blank without one."""
        return EMOTIONS[self.setting.label] if self.setting.label >= 0 else ""


class LatestValue:
    """A slot for one value: ``put`` never waits, ``take`` returns the latest value; replaced values are counted."""

    def __init__(self):
        self._change = threading.Condition()
        self._value, self._fresh, self._over, self._reading = None, False, False, False
        self.skipped = 0  # values replaced unread since the first take

    def put(self, value) -> None:
        with self._change:
            self.skipped += self._fresh and self._reading
            self._value, self._fresh = value, True
            self._change.notify_all()

    def end(self) -> None:
        """Declare that no value follows, and wake every waiting thread."""
        with self._change:
            self._over = True
            self._change.notify_all()

    @property
    def over(self) -> bool:
        """Whether it has ended and its last value was read."""
        with self._change:
            return self._over and not self._fresh

    def take(self, timeout: float | None = None):
        """The latest unread value; None after ``timeout`` seconds or when it has ended."""
        with self._change:
            self._reading = True
            self._change.wait_for(lambda: self._fresh or self._over, timeout)
            if not self._fresh:
                return None
            self._fresh = False
            return self._value
