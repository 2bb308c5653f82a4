"""The size and the sharpness of each face, measured on the images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from fer_lib.datasets.build import each_image
from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.faces.decode import decode

BLUR_SIDE = 96
"""Longer side in pixels to which a face is shrunk before its blur is measured, for comparable values."""


def blur(face: np.ndarray) -> float:
    """Variance of the Laplacian of grey values 0..255; smaller is more blurred (Pech-Pacheco et al. 2000).

    ``face`` uint8 RGB [H, W, 3], shrunk by area to a longer side of BLUR_SIDE.  A smaller face is not enlarged, because
    that would blur it.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    scale = BLUR_SIDE / max(grey.shape)
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def measure(manifest: Manifest) -> pd.DataFrame:
    """One line per row of the manifest, in its order: ``sample_id``, ``box_px``, ``blur``.

    ``box_px``: the shorter side of the box, or of the image without a box, in pixels; ``blur``: of the part of the box
    within the photo.  Each image is decoded once.  Raises :class:`DataError` naming an unreadable image.
    """
    frame = manifest.frame
    boxes = frame[list(BOX)].to_numpy(np.float64) if BOX[0] in frame else np.full((len(frame), 4), np.nan)
    rows_of = frame.groupby("image_path").indices
    values = np.empty((len(frame), 2))

    def measure_image(path: str) -> None:
        file = manifest.resolve(path)
        image = decode(file)
        for row in rows_of[path]:
            values[row] = _size_and_blur(image, boxes[row], file)

    each_image(frame, measure_image, "measuring images")
    return pd.DataFrame({"sample_id": frame["sample_id"], "box_px": values[:, 0], "blur": values[:, 1]})


def _size_and_blur(image: np.ndarray, box: np.ndarray, file: Path) -> tuple[float, float]:
    if np.isnan(box).any():
        return min(image.shape[:2]), blur(image)
    top, left, bottom, right = box.tolist()
    y0, x0 = max(0, round(top)), max(0, round(left))
    face = image[y0 : max(0, round(bottom)), x0 : max(0, round(right))]
    if 0 in face.shape:
        raise DataError(
            f"{file}: box {(top, left, bottom, right)} is empty or lies outside it: import that source again"
        )
    return min(bottom - top, right - left), blur(face)
