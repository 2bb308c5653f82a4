"""Face detectors by name: YuNet (five points per face), OpenCV's Haar cascade, and the SSD of OpenCV's samples."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from fer_lib.errors import FerError
from fer_lib.faces.detector_interface import Detector, Face, fitted, largest_first
from fer_lib.faces.ssd import SSD_FILE, SSD_URL, Ssd
from fer_lib.faces.yunet import YuNet, download, read_model

__all__ = ["Detector", "Face", "Haar", "Ssd", "YuNet", "get_detector"]

log = logging.getLogger(__name__)


class Haar:
    """The frontal-face cascade (Viola and Jones 2001) that OpenCV 4 ships: no file to fetch, no points, score 1."""

    name = "haar"
    SIDES = (0, 1280)

    def __init__(self, note: str = ""):
        """``note``: why it stands in for another detector."""
        self.note = note
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise FerError(f"OpenCV's Haar cascade does not load from {path}: install opencv-python 4.11 or later 4.x")

    def detect(self, image: np.ndarray, refine: bool = True) -> list[Face]:  # no points, so nothing to refine
        small, scale = fitted(image, *self.SIDES)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        boxes = self._cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(60, 60))
        scaled = (tuple(float(v) * scale for v in box) for box in boxes)
        return largest_first([Face((y, x, y + h, x + w), 1.0) for x, y, w, h in scaled], image)


def get_detector(
    name: Literal["auto", "yunet", "dnn", "haar"] = "auto", model_path: Path | str | None = None
) -> YuNet | Ssd | Haar:
    """A detector by name.

    YuNet's file is ``model_path``, else $FER_YUNET, else a download in the user's cache folder.  "auto" is YuNet, or
    Haar when no file was named and the download fails; a logged warning and its ``note`` say why.  "dnn" is the SSD,
    whose caffemodel ``model_path`` names.  Raises FerError for a named file that is missing or another one, for "yunet"
    without network, for "dnn" without a path and for "haar" with one.
    """
    if name == "haar":
        if model_path:
            raise FerError(f"the detector haar reads no file, so {model_path} would change nothing: leave it out")
        return Haar()
    if name == "dnn":
        if not model_path:
            raise FerError(f"the detector dnn needs the path of its file {SSD_FILE}, with the prototxt beside it; the "
                           f"file comes from {SSD_URL}")  # fmt: skip
        return Ssd(model_path)
    if name not in ("auto", "yunet"):
        raise FerError(f"unknown face detector {name!r}: choose auto, yunet, dnn or haar")
    named = model_path or os.environ.get("FER_YUNET")
    if named:
        if Path(named).suffix == ".caffemodel":
            raise FerError(f"{named} is a Caffe model, which the detector {name} does not read: choose dnn for it")
        return YuNet(read_model(Path(named)))
    try:
        return YuNet(download())
    except FerError as error:
        if name == "yunet":
            raise
        note = f"faces are searched with OpenCV's Haar cascade, which is weaker and finds no eyes: {error}"
        log.warning("%s", note)
        return Haar(note.splitlines()[0])  # without the list of what each address answered
