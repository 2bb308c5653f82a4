"""User input of a running session, by key, click or page: manual label, smoothing, overlay, end.

Window and page run in their own threads and call only :class:`Controls`; the session reads the current setting from it
for every frame.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from fer_lib.emotions import EMOTIONS, NUM_CLASSES
from fer_lib.errors import ParamsError
from fer_lib.live.session_files import NO_LABEL
from fer_lib.params import SmoothingParams

# key -> (smoothing parameter, step)
STEPS = {
    "[": ("ema_alpha", -0.05), "]": ("ema_alpha", 0.05),
    "-": ("hysteresis_delta", -0.02), "=": ("hysteresis_delta", 0.02),
    "v": ("vote_window", -2), "b": ("vote_window", 2),
    "n": ("vote_min_count", -1), "m": ("vote_min_count", 1),
}  # fmt: skip
LIMITS = {
    "ema_alpha": (0.0, 0.99), "hysteresis_delta": (0.0, 0.5), "vote_window": (1, 101), "vote_min_count": (1, 101),
}  # fmt: skip
HELP = (
    ("1 to 7", "label " + " ".join(EMOTIONS)), ("c", "clear the label"), ("o", "overlay"), ("[ ]", "average -/+ 0.05"),
    ("- =", "margin -/+ 0.02"), ("v b", "vote window -/+ 2"), ("n m", "votes needed -/+ 1"), ("q", "quit"),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The current setting: the manual ``label`` (0..6, -1 none), its source (key, click, page), smoothing, overlay."""

    label: int
    label_source: str
    smoothing: SmoothingParams
    overlay: bool


class Controls:
    """The state that users change; every method may be called from any thread."""

    def __init__(self, smoothing: SmoothingParams, overlay: bool = True):
        self._lock = threading.Lock()
        self.now = Setting(NO_LABEL, "", smoothing, overlay)
        self._end = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether somebody has ended the session."""
        return self._end.is_set()

    def end(self) -> None:
        self._end.set()

    def wait(self) -> None:
        """Wait until somebody ends the session."""
        self._end.wait()

    def label(self, label: int, source: str) -> None:
        """Set the manual label, 0..6, or -1 for none.  ParamsError for another number."""
        if not NO_LABEL <= label < NUM_CLASSES:
            raise ParamsError(f"label {label}: a manual label is 0 to {NUM_CLASSES - 1}, or -1 for none")
        self._set(label=label, label_source=source)

    def smooth(self, **values: float) -> SmoothingParams:
        """Set smoothing parameters, each clipped to its range (:data:`LIMITS`); returns the new parameters.

        ParamsError for an unknown name or a value that is no number.
        """
        with self._lock:
            changes = {name: _clip(name, value) for name, value in values.items()}
            self.now = replace(self.now, smoothing=SmoothingParams(**self.now.smoothing.model_dump() | changes))
            return self.now.smoothing

    def overlay(self, shown: bool) -> None:
        self._set(overlay=bool(shown))

    def key(self, key: str) -> bool:
        """Handle a key press; False for a key without a function."""
        if key in STEPS:
            name, step = STEPS[key]
            self.smooth(**{name: getattr(self.now.smoothing, name) + step})
        elif len(key) == 1 and key in "1234567":
            self.label(int(key) - 1, "key")
        elif key == "c":
            self.label(NO_LABEL, "key")
        elif key == "o":
            self.overlay(not self.now.overlay)
        elif key == "q":
            self.end()
        else:
            return False
        return True

    def _set(self, **values) -> None:
        with self._lock:
            self.now = replace(self.now, **values)


def _clip(name: str, value: float) -> float | int:
    if name not in LIMITS:
        raise ParamsError(f"there is no smoothing parameter {name!r}: use {', '.join(LIMITS)}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise ParamsError(f"{name} {value!r} is no number")
    low, high = LIMITS[name]
    clipped = min(max(value, low), high)
    return int(round(clipped)) if isinstance(low, int) else round(float(clipped), 6)
