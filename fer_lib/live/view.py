"""What a window or a page is shown of one frame, and how the newest one reaches it without holding up the session."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from fer_lib.emotions import EMOTIONS
from fer_lib.live.controls import Setting
from fer_lib.live.session_files import SPELLED
from fer_lib.live.tracker import Tracked


@dataclass(frozen=True)
class View:
    """One frame as it was judged.

    ``image`` uint8 RGB [H, W, 3], not to be written to; ``faces`` as :class:`tracker.Tracker` orders them, of which
    the first, the largest, is scored; ``probs`` float64 [7] before and ``smoothed`` after the moving average, None
    without a face; ``label`` 0..6, -1 unstable or no face, -2 Unknown; ``votes`` of the leading label in the window;
    ``setting`` what held for it; ``fps`` frames a second of late; ``latency_ms`` from the picture to the label;
    ``dropped`` frames of the camera so far.
    """

    index: int
    time: float
    image: np.ndarray
    faces: tuple[Tracked, ...]
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
        """The label in words: a class, ``(unstable)`` or ``Unknown``."""
        return SPELLED[self.label]

    @property
    def manual(self) -> str:
        """The manual label in words, blank without one."""
        return EMOTIONS[self.setting.label] if self.setting.label >= 0 else ""


class LatestValue:
    """A place for one thing: whoever puts never waits, whoever takes gets the newest; what was replaced is counted."""

    def __init__(self):
        self._change = threading.Condition()
        self._thing, self._fresh, self._over, self._looked = None, False, False, False
        self.skipped = 0  # since somebody first took one: nobody misses anything where nobody looks

    def put(self, thing) -> None:
        with self._change:
            self.skipped += self._fresh and self._looked
            self._thing, self._fresh = thing, True
            self._change.notify_all()

    def end(self) -> None:
        """Nothing will be put any more; whoever waits is woken."""
        with self._change:
            self._over = True
            self._change.notify_all()

    @property
    def over(self) -> bool:
        """Whether it has ended and the last thing was taken."""
        with self._change:
            return self._over and not self._fresh

    def take(self, timeout: float | None = None):
        """The newest thing that was not taken yet; None when none came in time or it has ended."""
        with self._change:
            self._looked = True
            self._change.wait_for(lambda: self._fresh or self._over, timeout)
            if not self._fresh:
                return None
            self._fresh = False
            return self._thing
