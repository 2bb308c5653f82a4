"""Frames of a browser's camera: they arrive as JPEG and are read as from :class:`capture.Capture`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import numpy as np

from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.live.capture import Frame

MAX_BYTES = 4_000_000  # of one JPEG
MAX_PIXELS = 4096 * 2304


class BrowserSource:
    """Iterate over it for the latest :class:`Frame`; frames that were replaced unread are counted in ``dropped``.

    One thread feeds, another reads.  Times are seconds by the browser's clock since the first frame that was read.
    """

    is_camera, paced, fps, failure = True, False, 0.0, ""  # a browser does not report the frame rate

    def __init__(self, name: str = "browser camera"):
        self.name, self.dropped = name, 0
        self._change = threading.Condition()
        self._size: tuple[int, int] | None = None
        self._pending: Frame | None = None
        self._closed = self._reading = False
        self._index, self._clock_zero = -1, 0.0  # index of the last frame; the browser's clock at time 0
        self._time, self._arrival = 0.0, 0.0  # of the last frame: its time, and perf_counter when it arrived

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of every frame; waits for the first.  DataError when it closes before the first frame."""
        with self._change:
            self._change.wait_for(lambda: self._size is not None or self._closed)
            if self._size is None:
                raise DataError(
                    f"{self.name}: no image came before the session ended; start the camera on the page, and let the "
                    "browser use it when it asks"
                )
            return self._size

    @property
    def current_size(self) -> tuple[int, int] | None:
        """(width, height), None before the first frame; does not wait."""
        with self._change:
            return self._size

    def feed(self, jpeg: bytes, at: float) -> bool:
        """Decode a frame captured ``at`` seconds by the browser's clock; it replaces a frame that is still unread.

        Returns False after :meth:`close`.  DataError, without any effect, for bytes that are no JPEG or too large, for
        another size than the first frame's, and for a time that is not finite.
        """
        arrival = time.perf_counter()
        image = _decode(jpeg)
        if not math.isfinite(at):
            raise DataError(f"an image's time must be a number of seconds, not {at}: load the page again")
        size = image.shape[1], image.shape[0]
        with self._change:
            if self._closed:
                return False
            if self._size is not None and size != self._size:
                raise DataError(
                    f"an image of {size[0]} x {size[1]} pixels after those of {self._size[0]} x {self._size[1]}: a "
                    "session has one size; load the page again, or end this session and start another"
                )
            self._size = size
            self._index += 1
            self._set_time(at, arrival)
            self.dropped += self._pending is not None and self._reading
            self._pending = Frame(self._index, self._time, image, arrival)
            self._change.notify_all()
            return True

    def _set_time(self, at: float, arrival: float) -> None:
        """Set the frame's time, which always increases: a reloaded page may have another clock."""
        if not self._reading:  # the model is still loading; this frame only waits
            self._index, self._clock_zero, self._time = 0, at, 0.0
        elif at - self._clock_zero > self._time:
            self._time = at - self._clock_zero
        else:
            self._time += max(arrival - self._arrival, 1e-3)
            self._clock_zero = at - self._time
        self._arrival = arrival

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._take()) is not None:
            yield frame

    def _take(self) -> Frame | None:
        with self._change:
            self._change.wait_for(lambda: self._pending is not None or self._closed)
            if self._closed:
                return None
            frame, self._pending, self._reading = self._pending, None, True
            return frame

    def close(self) -> None:
        """End the iteration and wake every waiting thread.  It may be called twice."""
        with self._change:
            self._closed, self._pending = True, None
            self._change.notify_all()


def _decode(jpeg: bytes) -> np.ndarray:
    """uint8 RGB [H, W, 3].  DataError for anything but a JPEG within the limits."""
    if len(jpeg) > MAX_BYTES:
        raise DataError(f"an image of {len(jpeg):,} bytes, above the cap of {MAX_BYTES:,}: send it smaller")
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise DataError(f"an image of {len(jpeg):,} bytes that is no JPEG: load the page again")
    return decode(jpeg, MAX_PIXELS)
