"""What packing makes of a row: its picture decoded, where asked the eyes found, the square cut out and finished."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fer_lib.datasets.manifest import BOX, Manifest
from fer_lib.errors import DataError
from fer_lib.faces.contract import Box, FaceContract, to_gray
from fer_lib.faces.decode import decode
from fer_lib.faces.detectors import get_detector
from fer_lib.faces.landmarks import find_points
from fer_lib.params.base import PackKind


@dataclass(frozen=True)
class Cut:
    """Pixels to store uint8 [side, side, C], the eyes' points float [5, 2], or what is wrong with the row's picture."""

    face: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))
    eyes: np.ndarray | None = None
    error: str = ""


def cutter(manifest: Manifest, contract: FaceContract, kind: PackKind) -> Callable[[dict[str, Any]], Cut]:
    """A function of a row, for threads.  Raises FerError when eyes are to be aligned without YuNet."""
    align = contract.align == "eyes"
    if align:
        get_detector("yunet")  # no YuNet to be had is told once and before anything is written
    own = threading.local()  # a detector serves one thread

    def points(image: np.ndarray, box: Box | None) -> np.ndarray | None:
        if not align:
            return None
        if not hasattr(own, "detector"):
            own.detector = get_detector("yunet")
        return find_points(image, box, own.detector)

    def cut(row: dict[str, Any]) -> Cut:
        try:
            square, eyes = cut_square(manifest, contract, row, points)
        except DataError as error:
            return Cut(error=str(error))
        if kind == "none":
            return Cut(eyes=eyes)
        face = to_gray(contract.finish(square))
        if kind == "native" and len(square) < contract.resize and to_gray(square).size < face.size:
            face = to_gray(square)
        return Cut(face.copy(), eyes)  # copied, or a small view would keep its whole photo in memory

    return cut


def cut_square(
    manifest: Manifest, contract: FaceContract, row: dict[str, Any], points: Callable
) -> tuple[np.ndarray, np.ndarray | None]:
    """The row's square uint8 [side, side, 3] and its eyes' points.  Raises DataError naming the picture."""
    path, box = manifest.resolve(row["image_path"]), box_of(row)
    try:
        image = decode(path)
        eyes = points(image, box)
        return contract.square(image, box, eyes), eyes
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from error


def box_of(row: dict[str, Any]) -> Box | None:
    """(top, left, bottom, right) of a row that is a face in a photo; None for a picture that is the face."""
    values = [row.get(side) for side in BOX]
    return None if any(v is None or pd.isna(v) for v in values) else tuple(float(v) for v in values)
