"""From a manifest's row to the pixels of its face: decode the image, find the eyes, cut out the square, finish it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fer_lib.datasets.manifest import Manifest, box_of
from fer_lib.errors import DataError
from fer_lib.faces.contract import FaceContract, to_gray
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import Detector, get_detector

Crop = tuple[np.ndarray, np.ndarray | None, str]
"""The face uint8 [R, R, C] (C = 1 for grey), its landmarks float [5, 2], and what is wrong with the row's image."""


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
