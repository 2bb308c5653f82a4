"""Eyes level: a picture turned so that the line through both eyes is horizontal."""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_lib.errors import DataError


def eye_angle(points: np.ndarray) -> float:
    """Tilt of the eye line in degrees, positive when the eye on the picture's right lies lower.

    ``points`` float [5, 2] are (x, y) in YuNet's order: the person's right eye (left in the picture), left eye, nose,
    right and left mouth corner.  Eyes at one and the same place (a strict profile) have no line: the tilt is then 0.
    Raises DataError for another shape or for values that are not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise DataError(
            f"face points must be 5 finite (x, y) pairs, got shape {points.shape}: pass the detector's own points"
        )
    dx, dy = points[1] - points[0]
    return math.degrees(math.atan2(dy, dx)) if (dx, dy) != (0.0, 0.0) else 0.0


def eyes_level(
    image: np.ndarray, points: np.ndarray, square: tuple[int, int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The picture turned until the eyes are level, at its own scale, outside edge-replicated.

    ``image`` uint8 [H, W, 3]; ``points`` as in :func:`eye_angle`.  By default the whole picture turns about the middle
    between the eyes and keeps its size.  With ``square`` = (top, left, side), in pixels and free to leave the picture,
    it turns about that square's centre and only the square is returned [side, side, 3].
    Returns the picture and the 2x3 affine matrix that takes (x, y) of ``image`` to (x, y) of the result.
    """
    angle = eye_angle(points)
    if square is None:
        cx, cy = np.asarray(points, dtype=np.float64)[:2].mean(axis=0)
        transform = cv2.getRotationMatrix2D((cx, cy), angle, 1.0)
        size = (image.shape[1], image.shape[0])
    else:
        top, left, side = square
        # Pixel centres lie on integers, so the middle of `side` pixels is half a pixel before left + side / 2.
        transform = cv2.getRotationMatrix2D((left + (side - 1) / 2, top + (side - 1) / 2), angle, 1.0)
        transform[:, 2] -= (left, top)
        size = (side, side)
    turned = cv2.warpAffine(image, transform, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return turned, transform


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """``points`` float [N, 2] as (x, y), taken through a 2x3 affine matrix: float64 [N, 2]."""
    return np.asarray(points, dtype=np.float64) @ transform[:, :2].T + transform[:, 2]
