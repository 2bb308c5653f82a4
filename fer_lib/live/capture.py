"""Frames of a camera or a video file, read by a background thread.

A file yields every frame with its media time, as fast as frames are requested; a paced file plays at its own speed from
the first request.  A camera yields its latest frame; older frames that nobody read are dropped and counted.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.faces.opencv_errors import reason
from fer_lib.live.latest_value import LatestValue

CAMERA_TIMEOUT = 2.0  # seconds without a frame after which a camera counts as unplugged
MAX_PIXELS = 7680 * 4320  # of a frame of a file: 100 MB, of which several are in memory at a time
CAMERA_HINT = (
    "check that it is plugged in and its cover open, that this user may use it and that no other program does; or "
    "choose another number or a video file with --source"
)


@dataclass(frozen=True)
class Frame:
    """uint8 RGB ``image`` [H, W, 3]; ``index`` from 0; media ``time`` in seconds; ``captured_at`` by perf_counter."""

    index: int
    time: float
    image: np.ndarray
    captured_at: float


class Capture:
    """Iterate over it for :class:`Frame`; :meth:`close` ends its thread.  ``dropped`` counts frames replaced unread.

    After the last frame ``failure`` says why a camera or file stopped early; it is blank at the end of a file and after
    :meth:`close`.
    """

    def __init__(self, source: str, paced: bool = False):
        """``source``: a camera's number or a video file.  DataError when it yields no frame."""
        self.is_camera = re.fullmatch(r"[0-9]{1,9}", source.strip()) is not None
        self.name = f"camera {source}" if self.is_camera else Path(source).name
        self._video = _open(source, self.is_camera)
        self.fps = self._video.get(cv2.CAP_PROP_FPS) or 0.0
        self.paced = paced and not self.is_camera
        self._start, self._last_time = time.perf_counter(), -1.0
        self._requested, self._closing = threading.Event(), threading.Event()
        # the container's frame count, for some formats an estimate; 0 when it has none
        self.expected_frames = 0 if self.is_camera else max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.failure = ""
        first = self._read(0)
        if first is None:
            self._video.release()
            hint = CAMERA_HINT if self.is_camera else "OpenCV cannot decode it: convert it to MP4, or record it again"
            raise DataError(f"{self.name} sends no frame: {hint}")
        self.size = first.image.shape[1], first.image.shape[0]
        self._frames = LatestValue()
        self._thread = threading.Thread(target=self._run, args=(first,), name="fer-capture", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._frames.skipped

    def __iter__(self) -> Iterator[Frame]:
        self._requested.set()
        while (frame := self._frames.take()) is not None and not self._closing.is_set():
            yield frame

    def close(self) -> None:
        """End the thread and release the device.  It may be called twice."""
        timeout = 0.0 if self._closing.is_set() else 2 * CAMERA_TIMEOUT  # wait only once for a camera that hangs
        self._closing.set()
        self._requested.set()
        self._frames.end()
        self._thread.join(timeout=timeout)

    def _run(self, first: Frame) -> None:
        index, last = 1, time.perf_counter()
        try:
            if self.paced:  # however long loading the model or the page took, the clock starts at the first request
                self._requested.wait()
                self._start = time.perf_counter() - first.time
                first = replace(first, captured_at=time.perf_counter())
            self._frames.put(first)
            while not self._closing.is_set():
                frame = self._read(index)
                if frame is not None:
                    if not self.is_camera:
                        self._frames.wait_until_read()
                    self._frames.put(frame)
                    index, last = index + 1, time.perf_counter()
                elif not self.is_camera:
                    break
                elif time.perf_counter() - last > CAMERA_TIMEOUT:
                    self.failure = f"{self.name} sends no more frames: is it unplugged, or does another program use it?"
                    break
                else:
                    time.sleep(0.02)
        except Exception as error:  # no error may look like the end of the file
            self.failure = f"{self.name} cannot be read further after frame {index - 1}: {reason(error)}."
        finally:
            self._video.release()
            self._frames.end()

    def _read(self, index: int) -> Frame | None:
        success, image = self._video.read()
        if not success or image is None or not image.size:
            return None
        captured_at = time.perf_counter()
        if self.is_camera:
            at = captured_at - self._start if index else 0.0
            self._start = self._start if index else captured_at
        else:
            at = self._media_time(index)
            if self.paced and index and (ahead := at - (captured_at - self._start)) > 0:
                self._closing.wait(ahead)
                captured_at = time.perf_counter()
        self._last_time = at
        return Frame(index, at, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), captured_at)

    def _media_time(self, index: int) -> float:
        """The container's time of the current frame; computed from the frame rate when that does not increase."""
        seconds = self._video.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        if index == 0:
            return max(seconds, 0.0)
        return seconds if seconds > self._last_time else self._last_time + 1.0 / (self.fps or 30.0)


def _open(source: str, is_camera: bool) -> cv2.VideoCapture:
    file = Path(source).expanduser()
    if not is_camera and not file.is_file():
        raise DataError(f"--source {source}: there is no such file; give a camera's number (0) or a video file")
    video = cv2.VideoCapture(int(source)) if is_camera else open_video(file)
    if is_camera:
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the latest frame, not a buffered one
    return video


def open_video(file: Path) -> cv2.VideoCapture:
    """A video file, perhaps not opened.  DataError when its frames have more than ``MAX_PIXELS``."""
    video = cv2.VideoCapture(str(file))
    width, height = (int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        video.release()
        raise DataError(
            f"{file} has frames of {width} x {height} pixels, above the cap of {MAX_PIXELS:,}: scale it down"
        )
    return video
