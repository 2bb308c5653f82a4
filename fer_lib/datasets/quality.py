"""The size and the sharpness of each face, measured on the images."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd

from fer_lib.datasets.cropping import each_face
from fer_lib.datasets.manifest import BOX, Manifest

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
    frame, values = manifest.frame, np.empty((len(manifest), 2))

    def measure_face(row: int, face: np.ndarray) -> None:
        values[row] = min(face.shape[:2]), blur(face)

    each_face(manifest, measure_face, "measuring images")
    sides = values[:, 0]
    if BOX[0] in frame:
        top, left, bottom, right = (frame[side].to_numpy(np.float64) for side in BOX)
        sides = np.where(np.isnan(top), sides, np.minimum(bottom - top, right - left))
    return pd.DataFrame({"sample_id": frame["sample_id"], "box_px": sides, "blur": values[:, 1]})
