"""The videos of a session: raw frames without loss, for replays with another model, and annotated frames.

The raw video is FFV1 in Matroska, which stays readable after a kill; ``recorded.csv`` lists its frames.  A video has
one size, so frames of another size are left out and counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.live import session_files
from fer_lib.live.capture import open_video

DEFAULT_FPS = 25.0  # for a camera that does not report its own


class VideoFile:
    """A video and the list of its frames, written frame by frame in one thread."""

    def __init__(self, folder: Path, name: str, size: tuple[int, int], fps: float, lossless: bool):
        """``size`` (width, height) in pixels.  DataError when OpenCV cannot write the file, OSError when it or
        its list exists or the disk refuses."""
        self.size, self.path, self.left_out, self.frames = size, folder / name, 0, 0
        code = cv2.VideoWriter.fourcc(*("FFV1" if lossless else "MJPG"))
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # codecs drop an odd last row or column
        self._pad = even[1] - size[1], even[0] - size[0]
        self._list = open(folder / session_files.frame_list(name), "x", encoding="utf-8", buffering=1)
        self._list.write("frame_index\n")
        with open(self.path, "xb") as created:  # OpenCV would write through a link
            self._files = {self.path: os.fstat(created.fileno()), Path(self._list.name): os.fstat(self._list.fileno())}
        self._video = cv2.VideoWriter(str(self.path), code, fps if 1 <= fps <= 240 else DEFAULT_FPS, even)
        if not self._video.isOpened():
            self._list.close()
            raise DataError(f"{self.path} cannot be written: is there room, and does this OpenCV have FFmpeg?")

    def add(self, index: int, image: np.ndarray) -> None:
        """Write uint8 RGB ``image`` [H, W, 3] of frame ``index``; one of another size is counted in ``left_out``.

        DataError when another program removed or replaced the video or its list.
        """
        self._raise_if_replaced()
        if (image.shape[1], image.shape[0]) != self.size:
            self.left_out += 1
            return
        if any(self._pad):
            image = cv2.copyMakeBorder(image, 0, self._pad[0], 0, self._pad[1], cv2.BORDER_REPLICATE)
        self._video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._list.write(f"{index}\n")
        self.frames += 1

    def close(self) -> None:
        """Close the files and set ``frames`` to the frames that the video holds; DataError when some are missing.

        FFmpeg reports no error when the disk is full or a file size limit (4 GB on FAT) is reached.
        """
        self._video.release()
        self._list.close()
        self._raise_if_replaced()
        expected, self.frames = self.frames, _count_frames(self.path, self.frames)
        if self.frames < expected:
            raise DataError(
                f"{self.path} holds only {self.frames:,} of {expected:,} frames: check whether the disk is full or the "
                "file has reached its size limit; the logs of all frames are complete"
            )

    def _raise_if_replaced(self) -> None:
        for file, opened in self._files.items():
            session_files.raise_if_replaced(file, opened)


def _count_frames(file: Path, expected: int) -> int:
    """The number of frames of a closed video; decoded and counted only when its header differs from ``expected``."""
    if not expected:
        return 0
    video = cv2.VideoCapture(str(file))
    try:
        if abs(video.get(cv2.CAP_PROP_FRAME_COUNT) - expected) <= 1:
            return expected
        count = 0
        while count < expected and video.grab():
            count += 1
        return count
    finally:
        video.release()


def raw_video_folder(session: Path, info: dict[str, Any]) -> Path | None:
    """The folder with a session's raw video: its own, or for a replay that of the original session; None without one.

    ``info``: content of ``session.json``.
    """
    for folder in (session, replay_origin(session, info)):
        if (folder / session_files.RAW_VIDEO).is_file():
            return folder
    return None


def replay_origin(session: Path, info: dict[str, Any]) -> Path:
    """The folder of a replay's original session, which is beside it; ``session`` itself when it is no replay."""
    return session.parent / str(info["replay_of"]) if info.get("replay_of") else session


def recorded_frames(folder: Path | str) -> Iterator[tuple[int, np.ndarray]]:
    """The frames of a session's raw video, (frame_index, uint8 RGB [H, W, 3]) in order and without padding.

    DataError when the session has no raw video, or OpenCV cannot read it.
    """
    folder = Path(folder)
    file = folder / session_files.RAW_VIDEO
    if not file.is_file():
        raise DataError(f"{folder} holds no raw video ({session_files.RAW_VIDEO} is missing): record with --record raw")
    width, height = session_files.read_session(folder).get("size") or (None, None)  # the recorded size has no padding
    # a killed session may have listed more frames than its video holds
    for index, image in zip(session_files.read_recorded(folder), read_images(file), strict=False):
        yield index, image[:height, :width]


def read_images(file: Path) -> Iterator[np.ndarray]:
    """The images of a video file, uint8 RGB [H, W, 3].  DataError when OpenCV cannot read it, or they are too large."""
    video = open_video(file)
    try:
        if not video.isOpened():
            raise DataError(f"{file} is no video that OpenCV can read: record the session again")
        while (result := video.read())[0]:
            yield cv2.cvtColor(result[1], cv2.COLOR_BGR2RGB)
    finally:
        video.release()
