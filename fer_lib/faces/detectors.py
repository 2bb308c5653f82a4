"""Finding faces in a photo: YuNet, with five points, where its file is at hand, OpenCV's Haar cascade otherwise; by
name also the SSD of :mod:`fer_lib.faces.ssd`."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from fer_lib.errors import FerError
from fer_lib.faces.align import eyes_level, transform_points
from fer_lib.faces.found import Detector, Face, fitted, largest_first, mistaken
from fer_lib.faces.ssd import SSD_FILE, SSD_URL, Ssd

__all__ = ["Detector", "Face", "Haar", "Ssd", "YuNet", "get_detector"]

log = logging.getLogger(__name__)

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
YUNET_URLS = (
    f"https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/{YUNET_FILE}",
    f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{YUNET_FILE}",
    f"https://huggingface.co/opencv/face_detection_yunet/resolve/main/{YUNET_FILE}",
)
DOWNLOAD_SECONDS = 10  # a place is given up after so long without an answer


class YuNet:
    """YuNet (Wu, Peng and Yu 2023).  An object keeps the size of its last picture: use one a thread.

    On faces under some 150 pixels its five points hardly follow a tilted head: of a planted 30 degrees they show 3 on
    video and 12 on FER2013 crops.  So each face is looked at again, enlarged and turned by what is known so far, which
    leaves errors of 1 to 3 degrees and costs about 10 ms a look.
    """

    name, note = "yunet", ""
    # Pixels of the longer side; pictures are resized into this range, for YuNet was trained on faces of 10 to 300.
    # Of 190 FER2013 crops it finds 148 at their own 48 pixels and 186 at 160; of 189 ExpW boxes 187 at 1024.
    SIDES = (160, 1024)
    LOOKS = 2  # closer looks at a face
    VIEW = 384  # side of such a look in pixels; the box fills half of it

    def __init__(self, model: bytes, min_score: float = 0.6, nms: float = 0.3):
        """``model`` the bytes of the ONNX file; raises FerError unless they are the pinned ones."""
        _verify(model, "YuNet model")
        buffer = np.frombuffer(model, dtype=np.uint8)  # not a path: OpenCV cannot open every Windows one
        self._net = cv2.FaceDetectorYN.create("onnx", buffer, np.empty(0, np.uint8), (320, 320), min_score, nms)

    def detect(self, image: np.ndarray, refine: bool = True) -> list[Face]:
        small, scale = fitted(image, *self.SIDES)
        faces = []
        for row in self._run(small):
            points = row[4:14].reshape(5, 2)
            if refine:
                # A face that is large enough in the resized picture needs no more pixels than that one has.
                source, up = (small, 1.0) if max(row[2:4]) >= self.VIEW / 2 else (image, scale)
                points = self._look_closer(source, points * up, max(row[2:4]) * up) / up
            x, y, width, height = (float(v) for v in row[:4] * scale)
            faces.append(Face((y, x, y + height, x + width), float(row[14]), (points * scale).astype(np.float32)))
        return largest_first(faces, image)

    def _run(self, image: np.ndarray) -> np.ndarray:
        """float32 [n, 15]: x, y, width, height, five (x, y), score."""
        self._net.setInputSize((image.shape[1], image.shape[0]))
        rows = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        return np.zeros((0, 15), np.float32) if rows is None else rows

    def _look_closer(self, image: np.ndarray, points: np.ndarray, longer: float) -> np.ndarray:
        """The points [5, 2] of one face of so many pixels, found again in an enlarged and levelled view of it."""
        side = max(1, round(2 * longer))
        zoom = self.VIEW / side
        for _ in range(self.LOOKS):
            left, top = points.mean(axis=0) - side / 2
            view, turn = eyes_level(image, points, (round(float(top)), round(float(left)), side))
            method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
            rows = self._run(cv2.resize(view, (self.VIEW, self.VIEW), interpolation=method))
            seen = rows[:, 4:14].reshape(-1, 5, 2)
            off = np.linalg.norm(seen.mean(axis=1) - self.VIEW / 2, axis=1)
            if not len(off) or off.min() > self.VIEW / 4:
                break  # not seen again: what is known so far stands
            in_view = (seen[off.argmin()] + 0.5) / zoom - 0.5
            points = transform_points(in_view, cv2.invertAffineTransform(turn))
        return points


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

    YuNet's file is ``model_path``, else what $FER_YUNET names, else a download kept in the user's cache folder.  "auto"
    is YuNet and, only when no file was named and none can be had, Haar; a logged warning and its ``note`` say why.
    "dnn" is the SSD, whose caffemodel ``model_path`` names.  Raises FerError, saying what the file is, for a named file
    that is missing or not the right one, for "yunet" without network, for "dnn" without a path and for "haar" with one.
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
        return YuNet(_read_model(Path(named)))
    try:
        return YuNet(_download())
    except FerError as error:
        if name == "yunet":
            raise
        note = f"faces are searched with OpenCV's Haar cascade, which is weaker and finds no eyes: {error}"
        log.warning("%s", note)
        return Haar(note.splitlines()[0])  # without the list of what each address answered


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
    other = f"another file ({len(model):,} bytes, SHA-256 {digest[:12]}...): {YUNET_SHA256[:12]}... is expected"
    found = mistaken(model) or other
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
