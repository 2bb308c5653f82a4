"""Pictures that a browser's camera took: fed in as JPEG, given out as :class:`capture.Capture` gives its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

from fer_lib.errors import DataError
from fer_lib.faces.decode import decode
from fer_lib.live.capture import Picture

MAX_BYTES = 4_000_000  # of one picture
MAX_PIXELS = 4096 * 2304


class BrowserSource:
    """Iterate over it for :class:`Picture`, the newest there is; what was replaced is counted in ``dropped``.

    One thread takes, another feeds.  Times are seconds by the feeder's clock since the first picture that was taken.
    """

    is_camera, paced, fps, trouble = True, False, 0.0, ""  # a camera that does not say how fast it is

    def __init__(self, name: str = "browser camera"):
        self.name, self.dropped = name, 0
        self._change = threading.Condition()
        self._size: tuple[int, int] | None = None
        self._waiting: Picture | None = None
        self._closed = self._taken_from = False
        self._index, self._zero = -1, 0.0  # of the last picture; what the feeder's clock said at time 0
        self._time, self._arrived = 0.0, 0.0  # of the last picture: its time, and perf_counter when it came

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of every picture; waits for the first.  DataError when it was closed before there was one."""
        with self._change:
            self._change.wait_for(lambda: self._size is not None or self._closed)
            if self._size is None:
                raise DataError(
                    f"{self.name}: no picture came before the session ended; start the camera on the page, and let the "
                    "browser use it when it asks"
                )
            return self._size

    @property
    def known_size(self) -> tuple[int, int] | None:
        """The size, None before the first picture."""
        with self._change:
            return self._size

    def feed(self, jpeg: bytes, at: float) -> bool:
        """Decode a picture taken ``at`` seconds by the feeder's clock and put it in the place of one not taken yet.

        False when it came too late, after the end.  DataError, and nothing else happens, for what is no JPEG, is too
        large, has another size than the first one, or for a time that is no number.
        """
        arrived = time.perf_counter()
        image = _decoded(jpeg)
        if not math.isfinite(at):
            raise DataError(f"a picture's time must be a number of seconds, not {at}: load the page again")
        size = image.shape[1], image.shape[0]
        with self._change:
            if self._closed:
                return False
            if self._size is not None and size != self._size:
                raise DataError(
                    f"a picture of {size[0]} x {size[1]} pixels after those of {self._size[0]} x {self._size[1]}: a "
                    "session has one size; load the page again, or end this session and begin another"
                )
            self._size = size
            self._index += 1
            self._place(at, arrived)
            self.dropped += self._waiting is not None and self._taken_from
            self._waiting = Picture(self._index, self._time, image, arrived)
            self._change.notify_all()
            return True

    def _place(self, at: float, arrived: float) -> None:
        """The picture's time, which never falls: a page that was loaded anew may have another clock."""
        if not self._taken_from:  # the model is still being loaded: what comes now only waits
            self._index, self._zero, self._time = 0, at, 0.0
        elif at - self._zero > self._time:
            self._time = at - self._zero
        else:
            self._time += max(arrived - self._arrived, 1e-3)
            self._zero = at - self._time
        self._arrived = arrived

    def __iter__(self) -> Iterator[Picture]:
        while (picture := self._take()) is not None:
            yield picture

    def _take(self) -> Picture | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting is not None or self._closed)
            if self._closed:
                return None
            picture, self._waiting, self._taken_from = self._waiting, None, True
            return picture

    def close(self) -> None:
        """End the iteration and wake whoever waits.  It may be called twice."""
        with self._change:
            self._closed, self._waiting = True, None
            self._change.notify_all()


def _decoded(jpeg: bytes):
    """uint8 RGB [H, W, 3].  DataError for anything but a JPEG within the limits."""
    if len(jpeg) > MAX_BYTES:
        raise DataError(f"a picture of {len(jpeg):,} bytes, above the cap of {MAX_BYTES:,}: send it smaller")
    if not jpeg.startswith(b"\xff\xd8\xff"):
        raise DataError(f"a picture of {len(jpeg):,} bytes that is no JPEG: load the page again")
    return decode(jpeg, MAX_PIXELS)
