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
from fer_lib.live.latest_value import LatestValue

MAX_BYTES = 4_000_000  # of one JPEG
MAX_PIXELS = 4096 * 2304


class BrowserSource:
    """Iterate over it for the latest :class:`Frame`; frames that were replaced unread are counted in ``dropped``.

    One thread feeds, another reads.  Times are seconds by the browser's clock since the first frame that was read.
    """

    is_camera, paced, fps, failure = True, False, 0.0, ""  # a browser does not report the frame rate

    def __init__(self, name: str = "browser camera"):
        self.name = name
        self.current_size: tuple[int, int] | None = None  # (width, height), None before the first frame
        self._frames = LatestValue()  # (image, seconds by the browser's clock, perf_counter at its arrival)
        self._started, self._is_closed = threading.Event(), False  # started: the size is known, or it is closed

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of every frame; waits for the first.  DataError when it closes before the first frame."""
        self._started.wait()
        if self.current_size is None:
            raise DataError(
                f"{self.name}: no image came before the session ended; start the camera on the page, and let the "
                "browser use it when it asks"
            )
        return self.current_size

    @property
    def dropped(self) -> int:
        return self._frames.skipped

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
        if self._is_closed:
            return False
        if self.current_size not in (None, size):
            raise DataError(
                f"an image of {size[0]} x {size[1]} pixels after those of {self.size[0]} x {self.size[1]}: a session "
                "has one size; load the page again, or end this session and start another"
            )
        self.current_size = size
        self._started.set()
        self._frames.put((image, at, arrival))
        return True

    def __iter__(self) -> Iterator[Frame]:
        zero, seconds, before, count = None, 0.0, 0.0, 0  # zero: the browser's clock at time 0
        while (latest := self._frames.take()) is not None and not self._is_closed:
            image, at, arrival = latest
            if zero is None:
                zero = at
            elif at - zero > seconds:
                seconds = at - zero
            else:  # a reloaded page may have another clock, and time must increase
                seconds += max(arrival - before, 1e-3)
                zero = at - seconds
            yield Frame(count + self.dropped, seconds, image, arrival)
            before, count = arrival, count + 1

    def close(self) -> None:
        """End the iteration and wake every waiting thread.  It may be called twice."""
        self._is_closed = True
        self._started.set()
        self._frames.end()


def _decode(jpeg: bytes) -> np.ndarray:
    """uint8 RGB [H, W, 3].  DataError for anything but a JPEG within the limits."""
    if len(jpeg) > MAX_BYTES:
        raise DataError(f"an image of {len(jpeg):,} bytes, above the cap of {MAX_BYTES:,}: send it smaller")
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise DataError(f"an image of {len(jpeg):,} bytes that is no JPEG: load the page again")
    return decode(jpeg, MAX_PIXELS)
