"""From a manifest's row to the pixels of its face: decode the image, find the eyes, cut out the square, finish it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer_lib.datasets.manifest import Manifest, box_of
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box, FaceContract, to_gray
from fer_lib.faces.decode import decode
from fer_lib.faces.detector_interface import find_points
from fer_lib.faces.detectors import get_detector
from fer_lib.params.base import PackKind


@dataclass(frozen=True)
class Crop:
    """Pixels to store uint8 [side, side, C], landmarks float [5, 2], or what is wrong with the row's image."""

    face: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    eyes: np.ndarray | None = None
    error: str = ""


def crop_function(manifest: Manifest, contract: FaceContract, kind: PackKind) -> Callable[[dict[str, Any]], Crop]:
    """A function of a row, for threads.  Raises FerError when eyes are to be aligned without YuNet."""
    detector = get_detector("yunet") if contract.align == "eyes" else None  # fails before anything is written

    def landmarks(image: np.ndarray, box: Box | None) -> np.ndarray | None:
        return None if detector is None else find_points(image, box, detector)

    def crop(row: dict[str, Any]) -> Crop:
        try:
            square, eyes = square_and_eyes(manifest, contract, row, landmarks)
        except DataError as error:
            return Crop(error=str(error))
        if kind == "none":
            return Crop(eyes=eyes)
        face = to_gray(contract.finish(square))
        if kind == "native" and len(square) < contract.resize and to_gray(square).size < face.size:
            face = to_gray(square)
        return Crop(face.copy(), eyes)  # a small view would keep its whole photo in memory

    return crop


def square_and_eyes(
    manifest: Manifest, contract: FaceContract, row: dict[str, Any], landmarks: Callable
) -> tuple[np.ndarray, np.ndarray | None]:
    """The row's square uint8 [side, side, 3] and its landmarks.  Raises DataError that names the image."""
    path, box = manifest.resolve(row["image_path"]), box_of(row)
    try:
        image = decode(path)
        eyes = landmarks(image, box)
        return contract.square(image, box, eyes), eyes
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error
