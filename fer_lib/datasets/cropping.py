"""From a manifest's rows to the pixels of their faces: raw, or after the face contract."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import BOX, Manifest, box_of
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract, to_gray
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import Detector, get_detector
from fer_lib.storage.progress import step

_CHUNK = 64  # images per task of a thread

Crop = tuple[np.ndarray, np.ndarray | None, str]
"""The face uint8 [R, R, C] (C = 1 for grey), its landmarks float [5, 2], and what is wrong with the row's image."""


def each_image(frame: pd.DataFrame, work: Callable[[str], Any], doing: str) -> list[Any]:
    """``work(image_path)`` for each row of ``frame``, once per image, in threads; ``doing`` names the step."""
    places, paths = pd.factorize(frame["image_path"], sort=True)
    results: list[Any] = []
    with (
        step(doing, total=len(paths), unit="images") as counter,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
    ):
        parts = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
        for part in pool.map(lambda part: list(map(work, part)), parts):
            results += part
            counter.update(len(results))
    return [results[place] for place in places]


def each_face(manifest: Manifest, work: Callable[[int, np.ndarray], None], doing: str) -> None:
    """``work(row number, face)`` for each row's raw face uint8 RGB: the image, or the part of its box in the photo.

    In threads, each image decoded once.  DataError naming an image that can't be decoded or has no pixel of a box.
    """
    frame = manifest.frame
    boxes = frame[list(BOX)].to_numpy(np.float64) if BOX[0] in frame else np.full((len(frame), len(BOX)), np.nan)
    rows_of = frame.groupby("image_path").indices

    def read(path: str) -> None:
        file = manifest.resolve(path)
        image = decode(file)
        for row in rows_of[path]:
            face = image
            if not np.isnan(boxes[row]).any():
                top, left, bottom, right = (max(0, round(side)) for side in boxes[row].tolist())
                face = image[top:bottom, left:right]
            if 0 in face.shape:
                raise DataError(f"{file}: box {boxes[row].tolist()} has no pixel of it: import that source again")
            work(row, face)

    each_image(frame, read, doing)


def crop_function(manifest: Manifest, contract: FaceContract, pixels: bool = True) -> Callable[[dict[str, Any]], Crop]:
    """A function of a row, for threads; the face has no pixels for an unusable image and without ``pixels``.

    Raises FerError when eyes are to be aligned without YuNet.
    """
    detector = get_detector("yunet") if contract.align == "eyes" else None  # fails before anything is written
    nothing = np.empty((0, 0, 0), np.uint8)

    def crop(row: dict[str, Any]) -> Crop:
        try:
            square, eyes = _square_and_eyes(manifest, contract, row, detector=detector)
        except DataError as error:
            return nothing, None, str(error)
        return to_gray(contract.finish(square)) if pixels else nothing, eyes, ""

    return crop


def read_face(manifest: Manifest, contract: FaceContract, row: dict[str, Any], eyes: Any) -> np.ndarray:
    """The row's face uint8 [R, R, C] from its image, with known landmarks.  DataError when it can't be decoded."""
    points = None if eyes is None else np.asarray(eyes, np.float32)
    return to_gray(contract.finish(_square_and_eyes(manifest, contract, row, points)[0]))


def _square_and_eyes(
    manifest: Manifest,
    contract: FaceContract,
    row: dict[str, Any],
    eyes: np.ndarray | None = None,
    detector: Detector | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The row's square uint8 [side, side, 3] and its landmarks.  Raises DataError that names the image."""
    path, box = manifest.resolve(row["image_path"]), box_of(row)
    try:
        image = decode(path)
        if detector is not None:
            eyes = find_points(image, box, detector)
        return contract.square(image, box, eyes), eyes
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
