"""Face detectors by name: YuNet (five points per face), OpenCV's Haar cascade, and the SSD of OpenCV's samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from fer_lib.errors import FerError
from fer_lib.faces.contract import check_image
from fer_lib.faces.detector_interface import Detector, Face, fitted, largest_first, read_model
from fer_lib.faces.opencv_errors import reason
from fer_lib.faces.yunet import YuNet

__all__ = ["Detector", "Face", "Haar", "Ssd", "YuNet", "get_detector"]

SSD_FILE = "res10_300x300_ssd_iter_140000_fp16.caffemodel"
SSD_URL = f"https://github.com/opencv/opencv_3rdparty/raw/dnn_samples_face_detector_20180205_fp16/{SSD_FILE}"
PROTOTXT_URL = "https://github.com/opencv/opencv/raw/4.x/samples/dnn/face_detector/deploy.prototxt"
SIDE = 300  # pixels: images are squeezed into this square, as in its training
MEAN_BGR = (104.0, 177.0, 123.0)
MIN_SCORE = 0.5
FACE = 1  # class 0 is the background


class Haar:
    """The frontal-face cascade (Viola and Jones 2001) that OpenCV 4 ships: no file to fetch, no points, score 1."""

    name = "haar"
    SIDES = (0, 1280)

    def __init__(self):
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


class Ssd:
    """The SSD of OpenCV's samples (Liu et al. 2016 on a ResNet-10), in Caffe's format, as OpenCV runs it.

    Two files belong together: the weights (``SSD_FILE``) and the net that they fill (``deploy.prototxt``).  It finds
    boxes alone, also of faces turned away; no points.  An object stores its last image: use one per thread.
    """

    name = "dnn"

    def __init__(self, caffemodel: Path | str, min_score: float = MIN_SCORE):
        """``caffemodel``: the weights' file, with its prototxt in the same folder.

        FerError when a file is missing, can't be read or is something else, and when the two are no face detector.
        """
        weights = Path(caffemodel).expanduser()
        model = read_model(weights, SSD_URL)
        layout = prototxt_of(weights)
        self.min_score, self._what = min_score, f"{weights} with {layout.name}"
        text = read_model(layout, PROTOTXT_URL)
        try:
            # not by path: OpenCV cannot open every Windows one
            self._net = cv2.dnn.readNetFromCaffe(np.frombuffer(text, np.uint8), np.frombuffer(model, np.uint8))
            output = self._run(np.zeros((SIDE, SIDE, 3), np.uint8))  # weights that do not fit are noticed only here
        except cv2.error as error:
            raise FerError(
                f"{self._what} is no net that OpenCV can run ({reason(error)}): fetch both again, from {SSD_URL} and "
                f"{PROTOTXT_URL}"
            ) from error
        if output.ndim != 4 or output.shape[:2] != (1, 1) or output.shape[3] != 7:
            raise FerError(
                f"{self._what} is a net, but no SSD face detector: it gives {list(output.shape)}, not [1, 1, N, 7]; "
                f"the right ones come from {SSD_URL} and {PROTOTXT_URL}"
            )

    def detect(self, image: np.ndarray, refine: bool = True) -> list[Face]:  # no points, so nothing to refine
        """As :meth:`Detector.detect`; boxes end at the image's edges."""
        return faces_of(self._run(check_image(image)), image, self.min_score)

    def _run(self, image: np.ndarray) -> np.ndarray:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        self._net.setInput(cv2.dnn.blobFromImage(bgr, 1.0, (SIDE, SIDE), MEAN_BGR))
        return self._net.forward()


def faces_of(output: np.ndarray, image: np.ndarray, min_score: float = MIN_SCORE) -> list[Face]:
    """The faces in an SSD's ``output`` float [1, 1, N, 7] for ``image`` [H, W, 3], the largest first.

    A row is image, class, score, left, top, right, bottom, the last four as shares of the image.  Rows of another
    class, below ``min_score`` or not finite are no faces; boxes are cut at the image's edges.
    """
    rows = np.asarray(output, np.float64).reshape(-1, 7)
    rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 1] == FACE) & (rows[:, 2] >= min_score)]
    height, width = image.shape[:2]
    edges = rows[:, 3:].clip(0.0, 1.0) * (width, height, width, height)
    boxes, scores = edges[:, [1, 0, 3, 2]].tolist(), rows[:, 2].tolist()
    return largest_first([Face(tuple(box), score) for box, score in zip(boxes, scores, strict=True)], image)


def prototxt_of(weights: Path) -> Path:
    """The net's file beside its weights: the one of the same name, else the only one in the folder; FerError else."""
    if (same := weights.with_suffix(".prototxt")).is_file():
        return same
    candidates = sorted(weights.parent.glob("*.prototxt"))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(file.name for file in candidates)
        raise FerError(f"beside {weights} lie {names}: name the one that belongs to it {same.name}")
    raise FerError(f"beside {weights} there is no *.prototxt, the net that its weights fill: put {PROTOTXT_URL} there")


def get_detector(
    name: Literal["auto", "yunet", "dnn", "haar"] = "auto", model_path: Path | str | None = None
) -> YuNet | Ssd | Haar:
    """A detector by name.

    "auto" is YuNet, whose file is ``model_path``, else $FER_YUNET, else the package's.  "dnn" is the SSD, whose
    caffemodel ``model_path`` names.  Raises FerError for a file that is missing or another one, for "dnn" without a
    path and for "haar" with one.
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
    if named and Path(named).suffix == ".caffemodel":
        raise FerError(f"{named} is a Caffe model, which the detector {name} does not read: choose dnn for it")
    return YuNet(named)
