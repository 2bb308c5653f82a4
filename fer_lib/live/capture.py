"""Pictures out of a camera or a video file, read in a thread of their own.

A file gives every frame, with its media time, as fast as they are asked for (or, paced, at its own speed from when the
first one is asked for).  A camera gives the newest frame there is; those that came while nobody asked are dropped and
counted.
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
from fer_lib.faces.cv_errors import reason

AHEAD = 4  # frames of a file that wait
LOST = 2.0  # seconds without a picture after which a camera counts as unplugged


@dataclass(frozen=True)
class Picture:
    """uint8 RGB ``image`` [H, W, 3]; ``index`` from 0; ``time`` in seconds of media; ``taken`` by ``perf_counter``."""

    index: int
    time: float
    image: np.ndarray
    taken: float


class Capture:
    """Iterate over it for :class:`Picture`; :meth:`close` ends its thread.  ``dropped`` frames were never given out.

    After the last one ``trouble`` says why a camera ended (blank: the file was over, or it was closed).
    """

    def __init__(self, source: str, paced: bool = False):
        """``source``: a camera's number or a video file.  DataError when it gives no picture, saying what it is."""
        self.is_camera = re.fullmatch(r"[0-9]{1,9}", source.strip()) is not None
        self.name = f"camera {source}" if self.is_camera else Path(source).name
        self._video = _open(source, self.is_camera)
        self.fps = self._video.get(cv2.CAP_PROP_FPS) or 0.0
        self.paced = paced and not self.is_camera
        self._began, self._last = time.perf_counter(), -1.0
        self._asked, self._ending = threading.Event(), threading.Event()
        # what the container says it holds, for some kinds an estimate; 0 where it does not say
        self.promised = 0 if self.is_camera else max(0, int(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.dropped, self.trouble = 0, ""
        first = self._read(0)
        if first is None:
            self._video.release()
            raise DataError(_nothing(source, self.is_camera))
        self.size = first.image.shape[1], first.image.shape[0]
        self._waiting: queue.Queue[Picture | None] = queue.Queue(1 if self.is_camera else AHEAD)
        if not self.paced:
            self._waiting.put(first)
        self._thread = threading.Thread(target=self._work, args=(first,), name="fer-capture", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Picture]:
        self._asked.set()
        while (picture := self._waiting.get()) is not None:
            yield picture

    def close(self) -> None:
        """End the thread and let go of the device.  It may be called twice."""
        patience = 0.0 if self._ending.is_set() else 2 * LOST  # a camera that hangs is waited for once
        self._ending.set()
        self._asked.set()
        self._empty()
        self._thread.join(timeout=patience)
        self._put(None)

    def _work(self, first: Picture) -> None:
        index, last = 1, time.perf_counter()
        try:
            if self.paced:
                self._start_clock(first)
            while not self._ending.is_set():
                picture = self._read(index)
                if picture is not None:
                    self._put(picture)
                    index, last = index + 1, time.perf_counter()
                elif not self.is_camera:
                    break
                elif time.perf_counter() - last > LOST:
                    self.trouble = f"{self.name} gives no pictures any more: was it unplugged, or does another hold it?"
                    break
                else:
                    time.sleep(0.02)
        except Exception as error:  # whatever it is, it must not pass for the end of the file
            self.trouble = f"{self.name} cannot be read further after frame {index - 1}: {reason(error)}."
        finally:
            self._video.release()
            self._put(None)

    def _start_clock(self, first: Picture) -> None:
        """A file is played from here on: what is still to be loaded or opened may take as long as it likes."""
        self._asked.wait()
        if not self._ending.is_set():
            self._began = time.perf_counter() - first.time
            self._put(replace(first, taken=time.perf_counter()))

    def _read(self, index: int) -> Picture | None:
        done, image = self._video.read()
        if not done or image is None or not image.size:
            return None
        taken = time.perf_counter()
        if self.is_camera:
            at = taken - self._began if index else 0.0
            self._began = self._began if index else taken
        else:
            at = self._media_time(index)
            if self.paced and index and (ahead := at - (taken - self._began)) > 0:
                self._ending.wait(ahead)
                taken = time.perf_counter()
        self._last = at
        return Picture(index, at, cv2.cvtColor(image, cv2.COLOR_BGR2RGB), taken)

    def _media_time(self, index: int) -> float:
        """The container's time of the frame that was just read; by the frame rate where it has none that rises."""
        said = self._video.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        if index == 0:
            return max(said, 0.0)
        return said if said > self._last else self._last + 1.0 / (self.fps or 30.0)

    def _put(self, picture: Picture | None) -> None:
        """Wait for room (a file; the end of either), or push out what nobody took (a camera)."""
        pushes = self.is_camera and picture is not None
        while True:
            try:
                self._waiting.put(picture, block=not pushes, timeout=0.1)
                return
            except queue.Full:
                ending = self._ending.is_set()
                if pushes or ending:
                    lost = self._empty()
                    self.dropped += 0 if ending else lost

    def _empty(self) -> int:
        count = 0
        try:
            while True:
                count += self._waiting.get_nowait() is not None
        except queue.Empty:
            return count


def _open(source: str, is_camera: bool) -> cv2.VideoCapture:
    if is_camera:
        video = cv2.VideoCapture(int(source))
        if not video.isOpened():
            raise DataError(
                f"camera {source} cannot be opened: is one plugged in, may this user use it, does another program hold "
                "it? Another number, or a video file, can be given by --source"
            )
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not one that waited
        return video
    file = Path(source).expanduser()
    if not file.is_file():
        raise DataError(f"--source {source}: there is no such file; give a camera's number (0) or a video file")
    video = cv2.VideoCapture(str(file))
    if not video.isOpened():
        raise DataError(f"{file} is no video that OpenCV can read ({file.stat().st_size:,} bytes): convert it to MP4")
    return video


def _nothing(source: str, is_camera: bool) -> str:
    if is_camera:
        return f"camera {source} opens and gives no picture: does another program hold it, is its cover closed?"
    return f"{source} opens and holds no frame that can be decoded: convert it to MP4, or record it again"
