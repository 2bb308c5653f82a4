"""Finding faces in a photo: YuNet, with five points, where its file is at hand, OpenCV's Haar cascade otherwise."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from fer_lib.errors import DataError, FerError

log = logging.getLogger(__name__)

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_URLS = (
    f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{YUNET_FILE}",
    f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_FILE}",
    f"https://huggingface.co/opencv/face_detection_yunet/resolve/main/{YUNET_FILE}",
)
DOWNLOAD_SECONDS = 10  # a place is given up after so long without an answer


@dataclass(frozen=True)
class Face:
    """One found face.

    ``box`` = (top, left, bottom, right) in pixels of the picture, which it may leave; ``score`` 0..1; ``points``
    float32 [5, 2] (x, y): the person's right eye, left eye, nose, right and left mouth corner.
    """

    box: tuple[float, float, float, float]
    score: float
    points: np.ndarray | None = None

    @property
    def area(self) -> float:
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)


class Detector(Protocol):
    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """Faces of a uint8 RGB picture [H, W, 3], the largest first; an empty list when there is none."""
        ...


class YuNet:
    """YuNet (Wu, Peng and Yu 2023).  An object keeps the size of its last picture: use one a thread."""

    name = "yunet"
    LONGEST = 1024  # larger pictures are shrunk: YuNet was trained on faces of about 10 to 300 pixels

    def __init__(self, model: bytes, min_score: float = 0.6, nms: float = 0.3):
        """``model`` the bytes of the ONNX file; raises FerError unless they are the pinned ones."""
        _verify(model, "YuNet model")
        buffer = np.frombuffer(model, dtype=np.uint8)  # not a path: OpenCV cannot open every Windows one
        self._net = cv2.FaceDetectorYN.create("onnx", buffer, np.empty(0, np.uint8), (320, 320), min_score, nms)

    def detect(self, image: np.ndarray) -> list[Face]:
        small, scale = _shrunk(image, self.LONGEST)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        rows = self._net.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1]
        faces = []
        for row in () if rows is None else rows:
            x, y, width, height = (float(v) for v in row[:4] * scale)
            faces.append(Face((y, x, y + height, x + width), float(row[14]), row[4:14].reshape(5, 2) * scale))
        return _largest_first(faces, image)


class Haar:
    """The frontal-face cascade (Viola and Jones 2001) that OpenCV 4 ships: no file to fetch, no points, score 1."""

    name = "haar"
    LONGEST = 1280

    def __init__(self):
        path = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise FerError(f"OpenCV's Haar cascade does not load from {path}: install opencv-python 4.11 or later 4.x")

    def detect(self, image: np.ndarray) -> list[Face]:
        small, scale = _shrunk(image, self.LONGEST)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        boxes = self._cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(60, 60))
        scaled = (tuple(float(v) * scale for v in box) for box in boxes)
        return _largest_first([Face((y, x, y + h, x + w), 1.0) for x, y, w, h in scaled], image)


def get_detector(name: Literal["auto", "yunet", "haar"] = "auto", model_path: Path | str | None = None) -> YuNet | Haar:
    """A detector by name.

    YuNet's file is ``model_path``, else what $FER_YUNET names, else a download kept in the user's cache folder.  "auto"
    is YuNet and, only when no file was named and none can be had, Haar with a logged warning.  Raises FerError, saying
    what the file is, for a named file that is missing or not the pinned one, and for "yunet" without network.
    """
    if name == "haar":
        return Haar()
    if name not in ("auto", "yunet"):
        raise FerError(f"unknown face detector {name!r}: choose auto, yunet or haar")
    named = model_path or os.environ.get("FER_YUNET")
    if named:
        return YuNet(_read_model(Path(named)))
    try:
        return YuNet(_download())
    except FerError as error:
        if name == "yunet":
            raise
        log.warning("faces are searched with OpenCV's Haar cascade, which is weaker and finds no eyes: %s", error)
        return Haar()


def _read_model(path: Path) -> bytes:
    try:
        model = path.read_bytes()
    except OSError as error:
        raise FerError(f"YuNet model {path} cannot be read ({error.strerror or error}): check the path") from error
    _verify(model, str(path))
    return model


def _verify(model: bytes, name: str) -> None:
    """Raises FerError unless the bytes are the pinned model, saying what they look like instead."""
    digest = hashlib.sha256(model).hexdigest()
    if digest == YUNET_SHA256:
        return
    head = model[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        found = "a Git LFS pointer, not the model: run git lfs pull, or fetch the file itself"
    elif head.startswith((b"<!doctype", b"<html")):
        found = "an HTML page, not the model: a download went to a web page"
    else:
        found = f"another file ({len(model):,} bytes, SHA-256 {digest[:12]}...): {YUNET_SHA256[:12]}... is expected"
    raise FerError(f"{name} is {found}; {YUNET_FILE} comes from {YUNET_URLS[0]}")


def _download() -> bytes:
    """The model from the user's cache, filled from the first address that gives the pinned file."""
    import pooch

    def fetch_and_verify(url, output_file, manager):
        pooch.HTTPDownloader(timeout=DOWNLOAD_SECONDS)(url, output_file, manager)
        _verify(Path(str(output_file)).read_bytes(), url)

    failures = []
    for url in YUNET_URLS:
        try:
            path = pooch.retrieve(
                url, f"sha256:{YUNET_SHA256}", YUNET_FILE, pooch.os_cache("fer-lab"), downloader=fetch_and_verify
            )
            return Path(path).read_bytes()
        except (OSError, ValueError, FerError) as error:  # requests' errors are OSErrors; ValueError: hash or address
            failures.append(f"  {url}: {str(error).splitlines()[0][:160]}")
    raise FerError(
        f"the face detector's file {YUNET_FILE} could not be downloaded; fetch it by hand, set FER_YUNET to its path, "
        "or use the detector haar.\n" + "\n".join(failures)
    )


def _shrunk(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """The picture with its longer side at most ``longest`` pixels, and the factor that takes its pixels back."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"a detector wants a uint8 RGB picture [height, width, 3], got {image.dtype} {image.shape}")
    scale = max(image.shape[:2]) / longest
    if scale <= 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] / scale)), max(1, round(image.shape[0] / scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _largest_first(faces: list[Face], image: np.ndarray) -> list[Face]:
    """By area; boxes of no extent and boxes wholly off the picture, which a net can regress, are no faces."""
    height, width = image.shape[:2]

    def is_on(face: Face) -> bool:
        top, left, bottom, right = face.box
        return max(top, 0) < min(bottom, height) and max(left, 0) < min(right, width)

    return sorted(filter(is_on, faces), key=lambda face: face.area, reverse=True)
