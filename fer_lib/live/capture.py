"""Frames of a camera or a video file, read by a background thread.

A file yields every frame with its media time, as fast as frames are requested; a paced file plays at its own speed from
the first request.  A camera yields its latest frame; older frames that nobody read are dropped and counted.
"""

from __future__ import annotations

import queue
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

QUEUE_SIZE = 4  # frames of a file that are read ahead
CAMERA_TIMEOUT = 2.0  # seconds without a frame after which a camera counts as unplugged
MAX_PIXELS = 7680 * 4320  # of a frame of a file: 100 MB, of which several are in memory at a time


@dataclass(frozen=True)
class Frame:
    """uint8 RGB ``image`` [H, W, 3]; ``index`` from 0; media ``time`` in seconds; ``captured_at`` by perf_counter."""

    index: int
    time: float
    image: np.ndarray
    captured_at: float


class Capture:
    """Iterate over it for :class:`Frame`; :meth:`close` ends its thread.  ``dropped`` counts frames never yielded.

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
        self.dropped, self.failure = 0, ""
        first = self._read(0)
        if first is None:
            self._video.release()
            raise DataError(_no_frame(source, self.is_camera))
        self.size = first.image.shape[1], first.image.shape[0]
        self._queue: queue.Queue[Frame | None] = queue.Queue(1 if self.is_camera else QUEUE_SIZE)
        if not self.paced:
            self._queue.put(first)
        self._thread = threading.Thread(target=self._run, args=(first,), name="fer-capture", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        self._requested.set()
        while (frame := self._queue.get()) is not None:
            yield frame

    def close(self) -> None:
        """End the thread and release the device.  It may be called twice."""
        timeout = 0.0 if self._closing.is_set() else 2 * CAMERA_TIMEOUT  # wait only once for a camera that hangs
        self._closing.set()
        self._requested.set()
        self._clear_queue()
        self._thread.join(timeout=timeout)
        self._put(None)

    def _run(self, first: Frame) -> None:
        index, last = 1, time.perf_counter()
        try:
            if self.paced:
                self._start_clock(first)
            while not self._closing.is_set():
                frame = self._read(index)
                if frame is not None:
                    self._put(frame)
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
            self._put(None)

    def _start_clock(self, first: Frame) -> None:
        """Start playing a file at the first request, however long loading the model or the page took."""
        self._requested.wait()
        if not self._closing.is_set():
            self._start = time.perf_counter() - first.time
            self._put(replace(first, captured_at=time.perf_counter()))

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

    def _put(self, frame: Frame | None) -> None:
        """Wait for room (a file, or the end mark), or replace the unread frame (a camera)."""
        replaces = self.is_camera and frame is not None
        while True:
            try:
                self._queue.put(frame, block=not replaces, timeout=0.1)
                return
            except queue.Full:
                closing = self._closing.is_set()
                if replaces or closing:
                    removed = self._clear_queue()
                    self.dropped += 0 if closing else removed

    def _clear_queue(self) -> int:
        count = 0
        try:
            while True:
                count += self._queue.get_nowait() is not None
        except queue.Empty:
            return count


def _open(source: str, is_camera: bool) -> cv2.VideoCapture:
    if is_camera:
        video = cv2.VideoCapture(int(source))
        if not video.isOpened():
            raise DataError(
                f"camera {source} cannot be opened: check that it is plugged in, that this user may use it and that no "
                "other program does; or choose another number or a video file with --source"
            )
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the latest frame, not a buffered one
        return video
    file = Path(source).expanduser()
    if not file.is_file():
        raise DataError(f"--source {source}: there is no such file; give a camera's number (0) or a video file")
    return open_video(file)


def open_video(file: Path) -> cv2.VideoCapture:
    """An open video file.  DataError when OpenCV cannot read it, or its frames have more than ``MAX_PIXELS``."""
    video = cv2.VideoCapture(str(file))
    if not video.isOpened():
        raise DataError(f"{file} is no video that OpenCV can read ({file.stat().st_size:,} bytes): convert it to MP4")
    width, height = (int(video.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        video.release()
        raise DataError(
            f"{file} has frames of {width} x {height} pixels, above the cap of {MAX_PIXELS:,}: scale it down"
        )
    return video


def _no_frame(source: str, is_camera: bool) -> str:
    if is_camera:
        return f"camera {source} opens but sends no frame: check that no other program uses it and its cover is open"
    return f"{source} opens but holds no frame that can be decoded: convert it to MP4, or record it again"
