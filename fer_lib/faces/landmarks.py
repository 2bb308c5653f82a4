"""The points that turn a face upright, found alike by packing and by prediction."""

from __future__ import annotations

import numpy as np

from fer_lib.errors import DataError
from fer_lib.faces.contract import Box
from fer_lib.faces.detectors import Detector

CONTEXT = 0.5  # share of a box's longer side seen round it: a tight box hides the outline that a detector looks for


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
