"""The slot in which a thread hands frames or views to another: only the latest counts."""

from __future__ import annotations

import threading


class LatestValue:
    """A slot for one value: ``take`` returns the latest value; values that were replaced unread are counted."""

    def __init__(self):
        self._change = threading.Condition()
        self._value, self._fresh, self._over, self._reading = None, False, False, False
        self.skipped = 0  # values replaced unread since the first take

    def wait_until_read(self) -> None:
        """Wait until no value is unread, or it has ended."""
        with self._change:
            self._change.wait_for(lambda: self._over or not self._fresh)

    def put(self, value) -> None:
        """Put a value in the place of an unread one; never waits, and does nothing after the end."""
        with self._change:
            if self._over:
                return
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
            self._change.notify_all()
            return self._value
