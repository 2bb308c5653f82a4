"""A session's videos: raw pictures without loss, so that another model can be asked later, and annotated ones.

Raw pictures are FFV1 in Matroska, which a killed process leaves readable; ``recorded.csv`` beside it names the frame of
each.  A video has one size, so a picture of another size is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.storage.atomic import explained

USUAL_FPS = 25.0  # where a camera does not say


class VideoFile:
    """A video being written, frame by frame, with the list of its frames.  One thread's."""

    def __init__(self, folder: Path, name: str, size: tuple[int, int], fps: float, lossless: bool):
        """``size`` (width, height) in pixels.  DataError when OpenCV cannot write such a file there."""
        self.size, self.path, self.left_out, self.frames = size, folder / name, 0, 0
        code = cv2.VideoWriter.fourcc(*("FFV1" if lossless else "MJPG"))
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # codecs cut an odd last row or column off
        self._pad = even[1] - size[1], even[0] - size[0]
        with explained(self.path):
            self._list = open(folder / session_files.listing(name), "x", encoding="utf-8", buffering=1)
            self._list.write("frame_index\n")
        self._video = cv2.VideoWriter(str(self.path), code, fps if 1 <= fps <= 240 else USUAL_FPS, even)
        if not self._video.isOpened():
            self._list.close()
            raise DataError(f"{self.path} cannot be written: is there room, and does this OpenCV have FFmpeg?")

    def add(self, index: int, image: np.ndarray) -> None:
        """Write uint8 RGB ``image`` [H, W, 3] of frame ``index``; one of another size is counted in ``left_out``."""
        if (image.shape[1], image.shape[0]) != self.size:
            self.left_out += 1
            return
        if any(self._pad):
            image = cv2.copyMakeBorder(image, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE)
        self._video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        with explained(self.path):
            self._list.write(f"{index}\n")
        self.frames += 1

    def close(self) -> None:
        """DataError, and ``frames`` is what it holds, when that is less than was given.

        FFmpeg goes on in silence where a disk or a limit of file sizes (4 GB on FAT) refuses.
        """
        self._video.release()
        with explained(self.path):
            self._list.close()
        given, self.frames = self.frames, _held(self.path, self.frames)
        if self.frames < given:
            raise DataError(
                f"{self.path} holds {self.frames:,} of {given:,} pictures, the others could not be written: is the "
                "disk full, or the file as large as it may be there? What was logged of the frames is whole"
            )


def _held(file: Path, given: int) -> int:
    """How many of the ``given`` pictures a closed video holds; counted only where its head says something else."""
    if not given:
        return 0
    video = cv2.VideoCapture(str(file))
    try:
        if abs(video.get(cv2.CAP_PROP_FRAME_COUNT) - given) <= 1:
            return given
        count = 0
        while count < given and video.grab():
            count += 1
        return count
    finally:
        video.release()


def recorded_folder(session: Path, about: dict[str, Any]) -> Path | None:
    """The folder that holds a session's raw video: its own, else, of a replay, that of the session that was replayed.

    ``about``: the session's ``session.json``.  None where neither holds one.
    """
    for folder in (session, replayed_from(session, about)):
        if (folder / session_files.RAW_VIDEO).is_file():
            return folder
    return None


def replayed_from(session: Path, about: dict[str, Any]) -> Path:
    """The folder of the session that this one is a replay of, which lies beside it; its own where it is none."""
    return session.parent / str(about["replay_of"]) if about.get("replay_of") else session


@contextmanager
def recorded_pictures(folder: Path | str) -> Iterator[Iterator[tuple[int, np.ndarray]]]:
    """The (frame_index, uint8 RGB [H, W, 3]) of a session's raw video, in order, pictures cut to their own size.

    DataError when the session was not recorded, or its video cannot be read.
    """
    folder = Path(folder)
    size = session_files.read_session(folder).get("size")
    file = folder / session_files.RAW_VIDEO
    if not file.is_file():
        raise DataError(f"{folder} holds no pictures ({session_files.RAW_VIDEO} is missing): record with --record raw")
    numbers = session_files.read_recorded(folder)
    video = cv2.VideoCapture(str(file))
    try:
        if not video.isOpened():
            raise DataError(f"{file} is no video that OpenCV can read: record the session again")
        yield _pictures(video, numbers, size)
    finally:
        video.release()


def _pictures(video: cv2.VideoCapture, numbers: list[int], size: list[int] | None):
    for number in numbers:  # of a killed session the list may be longer than the video
        done, image = video.read()
        if not done:
            return
        if size is not None:
            image = image[: size[1], : size[0]]
        yield number, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
