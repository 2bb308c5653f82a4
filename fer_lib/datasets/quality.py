"""The size and the sharpness of each face, measured on the images."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box
from fer_lib.faces.decode import decode
from fer_lib.storage.progress import step

BLUR_SIDE = 96
"""Longer side in pixels to which a face is shrunk before its blur is measured, for comparable values."""
_CHUNK = 64  # photos per task of a thread


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
    places, paths = pd.factorize(frame["image_path"], sort=True)
    boxes = frame[list(BOX)].to_numpy(np.float64) if BOX[0] in frame else np.full((len(frame), 4), np.nan)
    order = np.argsort(places, kind="stable")
    rows_of = np.split(order, np.cumsum(np.bincount(places, minlength=len(paths)))[:-1])
    values = np.full((len(frame), 2), np.nan)

    def measure_chunk(start: int) -> int:
        stop = min(start + _CHUNK, len(paths))
        for photo in range(start, stop):
            path = manifest.resolve(paths[photo])
            image = decode(path)
            for row in rows_of[photo]:
                box = None if np.isnan(boxes[row]).any() else tuple(boxes[row])
                values[row] = _size_and_blur(image, box, str(path))
        return stop

    measuring = step("measuring images", total=len(paths), unit="images")
    with measuring as counter, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for done in pool.map(measure_chunk, range(0, len(paths), _CHUNK)):
            counter.update(done)
    return pd.DataFrame({"sample_id": frame["sample_id"], "box_px": values[:, 0], "blur": values[:, 1]})


def _size_and_blur(image: np.ndarray, box: Box | None, path: str) -> tuple[float, float]:
    if box is None:
        return float(min(image.shape[:2])), blur(image)
    top, left, bottom, right = box
    y0, x0 = max(0, round(top)), max(0, round(left))
    face = image[y0 : max(0, round(bottom)), x0 : max(0, round(right))]
    if 0 in face.shape:
        raise DataError(f"{path}: box {box} is empty or lies outside it: import that source again")
    return min(bottom - top, right - left), blur(face)
