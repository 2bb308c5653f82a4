"""What the writers of raw layouts share."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

from fer_lib.synthetic.noise_injection import Record

Records = list[Record]


def encode(image: np.ndarray, suffix: str) -> bytes:
    """uint8 RGB or grey as a file's bytes; JPEG at quality 95."""
    colours = image[..., ::-1] if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix == ".jpg" else []
    return cv2.imencode(suffix, np.ascontiguousarray(colours), options)[1].tobytes()


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 RGB [H, W, 3] to [H, W]."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def save(root: Path, relative: str, image: np.ndarray) -> str:
    """Write ``image`` to ``root/relative`` in the format of its suffix; returns ``relative``."""
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, path.suffix))
    return relative


def write_rows(path: Path, header: tuple[str, ...] | None, rows) -> None:
    """A CSV with Unix line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if header:
            writer.writerow(header)
        writer.writerows(rows)
