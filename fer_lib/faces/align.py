"""Squares cut out of an image, as they are or turned so that the line through both eyes is horizontal."""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_lib.errors import DataError

MAX_SIDE = 8192  # pixels; a larger square is sampled at so many a side: 200 MB, whatever the image's shape
_MAX_TURNED = 2**15 - 2  # pixels; OpenCV turns no image with a longer side


def crop_square(image: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    """The square of an image uint8 [H, W, 3], in pixels; outside the image, its nearest pixel repeats.

    uint8 [side, side, 3], a view where the square lies inside; evenly sampled pixels [MAX_SIDE, MAX_SIDE, 3] where
    ``side`` is larger, because the padded square of a thin image can be thousands of times the image.
    """
    height, width = image.shape[:2]
    if side <= MAX_SIDE and top >= 0 and left >= 0 and top + side <= height and left + side <= width:
        return image[top : top + side, left : left + side]
    n = min(side, MAX_SIDE)
    places = (2 * np.arange(n) + 1) * side // (2 * n)  # 0, 1, 2 ... where n is side
    rows, columns = (top + places).clip(0, height - 1), (left + places).clip(0, width - 1)
    if width > height:  # the longer side first, so that what lies between is no larger than the square
        return image.take(columns, axis=1).take(rows, axis=0)
    return image.take(rows, axis=0).take(columns, axis=1)


def eye_angle(points: np.ndarray) -> float:
    """Tilt of the eye line in degrees, positive when the eye on the image's right lies lower.

    ``points`` float [5, 2] are (x, y) in YuNet's order: the person's right eye (left in the image), left eye, nose,
    right and left mouth corner.  Eyes at the same place (a strict profile) give 0.
    Raises DataError for another shape or for values that are not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise DataError(
            f"face points must be 5 finite (x, y) pairs, got shape {points.shape}: pass the detector's own points"
        )
    dx, dy = points[1] - points[0]
    return math.degrees(math.atan2(dy, dx)) if (dx, dy) != (0.0, 0.0) else 0.0


def eyes_level(image: np.ndarray, points: np.ndarray, square: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """``square`` of the image, turned about its centre until the eyes are level, at the image's scale.

    ``image`` uint8 [H, W, 3], edge-replicated outside; ``points`` as in :func:`eye_angle`; ``square`` = (top, left,
    side), in pixels and free to leave the image.
    Returns uint8 [side, side, 3], sampled at MAX_SIDE or fewer pixels a side where it is larger, and the 2x3 affine
    matrix that takes (x, y) of ``image`` to (x, y) of the result.
    """
    angle, (top, left, side) = eye_angle(points), square
    if side > MAX_SIDE or max(image.shape[:2]) > _MAX_TURNED:
        return _turned_in_two_steps(image, points, top, left, side)
    # Pixel centres lie on integers, so the middle of `side` pixels is half a pixel before left + side / 2.
    transform = cv2.getRotationMatrix2D((left + (side - 1) / 2, top + (side - 1) / 2), angle, 1.0)
    transform[:, 2] -= (left, top)
    turned = cv2.warpAffine(image, transform, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return turned, transform


def _turned_in_two_steps(
    image: np.ndarray, points: np.ndarray, top: int, left: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`eyes_level` of a large square or image: cut out (and sample) what the turn can reach, then turn that."""
    more = math.ceil(0.21 * side) + 4  # (sqrt(2) - 1) / 2 of the side on each side, and the cubic's neighbours
    y0, x0, wide = top - more, left - more, side + 2 * more
    around = crop_square(image, y0, x0, wide)
    scale = len(around) / wide
    start, small = round(more * scale), max(1, round(side * scale))
    turned, transform = eyes_level(around, points, (start, start, small))
    offset = np.array([0.5 - x0, 0.5 - y0]) * scale - 0.5  # pixel centres lie on integers
    return turned, np.column_stack([transform[:, :2] * scale, transform[:, :2] @ offset + transform[:, 2]])


def transform_points(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """``points`` float [N, 2] as (x, y), taken through a 2x3 affine matrix: float64 [N, 2]."""
    return np.asarray(points, dtype=np.float64) @ transform[:, :2].T + transform[:, 2]
