"""What detectors share: their faces, files and image sizes, and the landmarks for alignment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fer_lib.errors import DataError, FerError
from fer_lib.faces.contract import Box, check_image

CONTEXT = 0.5  # share of a box's longer side seen around it: a tight box hides the outline that a detector needs


@dataclass(frozen=True)
class Face:
    """One face.

    ``box`` = (top, left, bottom, right) in pixels of the image, which it may leave; ``score`` 0..1; ``points``
    float32 [5, 2] (x, y): the person's right eye, left eye, nose, right and left mouth corner.
    """

    box: Box
    score: float
    points: np.ndarray | None = None

    @property
    def area(self) -> float:
        top, left, bottom, right = self.box
        return (bottom - top) * (right - left)


class Detector(Protocol):
    """``name``: yunet, dnn or haar."""

    name: str

    def detect(self, image: np.ndarray, refine: bool = True) -> list[Face]:
        """Faces of a uint8 RGB image [H, W, 3], the largest first; an empty list when there is none.

        ``refine`` looks closer for the points, which alignment needs; boxes and scores are the same without it.
        """
        ...


def fitted(image: np.ndarray, smallest: int, largest: int) -> tuple[np.ndarray, float]:
    """The image with its longer side within the two limits, and the factor that takes its pixels back."""
    longer = max(check_image(image).shape[:2])
    target = min(max(longer, smallest), largest)
    if target == longer:
        return image, 1.0
    scale = longer / target
    size = (max(1, round(image.shape[1] / scale)), max(1, round(image.shape[0] / scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC), scale


def largest_first(faces: list[Face], image: np.ndarray) -> list[Face]:
    """By area; boxes of no extent and boxes wholly off the image, which a net can regress, are no faces."""
    height, width = image.shape[:2]

    def is_on(face: Face) -> bool:
        top, left, bottom, right = face.box
        return max(top, 0) < min(bottom, height) and max(left, 0) < min(right, width)

    return sorted(filter(is_on, faces), key=lambda face: face.area, reverse=True)


def read_model(file: Path, source: str, sha256: str = "") -> bytes:
    """The bytes of a detector's file, which comes from ``source``.

    Raises FerError that says what it is instead: missing, empty, an LFS pointer, an HTML page, another file.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FerError(
            f"the detector's file {file} cannot be read ({error.strerror or error}): check the path; it comes from "
            f"{source}"
        ) from error
    head, digest = data[:200].lstrip().lower(), hashlib.sha256(data).hexdigest()
    if not data:
        mistake = "an empty file"
    elif head.startswith(b"version https://git-lfs"):
        mistake = "a Git LFS pointer, not the model: run git lfs pull, or fetch the file itself"
    elif head.startswith((b"<!doctype", b"<html")):
        mistake = "an HTML page, not the model: a download went to a web page"
    elif sha256 not in ("", digest):
        mistake = f"another file ({len(data):,} bytes, SHA-256 {digest[:12]}...): {sha256[:12]}... is expected"
    else:
        return data
    raise FerError(f"{file} is {mistake}; it comes from {source}")


def find_points(image: np.ndarray, box: Box | None, detector: Detector) -> np.ndarray | None:
    """Points float32 [5, 2] (x, y) of the largest face in uint8 RGB ``image`` [H, W, 3]; None where none is seen.

    With ``box`` (top, left, bottom, right) only faces whose centre lies in it count.  ``detector`` must give points
    (YuNet).  Raises DataError for a box that is not finite or far off the image.
    """
    if box is None:
        faces = detector.detect(image)
        return faces[0].points if faces else None
    if not np.isfinite(box).all():
        raise DataError(f"box {box} is not finite: expected (top, left, bottom, right) in pixels")
    top, left, bottom, right = box
    more = CONTEXT * max(bottom - top, right - left)
    y0, x0 = max(0, int(top - more)), max(0, int(left - more))
    view = image[y0 : max(0, int(np.ceil(bottom + more))), x0 : max(0, int(np.ceil(right + more)))]
    if 0 in view.shape:
        raise DataError(f"box {box} lies outside the image of {image.shape[1]} x {image.shape[0]} pixels")
    for face in detector.detect(np.ascontiguousarray(view)):
        y, x = y0 + (face.box[0] + face.box[2]) / 2, x0 + (face.box[1] + face.box[3]) / 2
        if top <= y <= bottom and left <= x <= right and face.points is not None:
            return face.points + np.float32([x0, y0])
    return None
