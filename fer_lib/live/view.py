"""One labelled frame for a window or page."""

from __future__ import annotations

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
