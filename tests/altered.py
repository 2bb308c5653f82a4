"""Copies of a face that are not the same file: what people and tools do to images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from fer_lib.audit.hashes import Hashes, pixel_id, thumbnails

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # both uint8 RGB


def jpeg(face, rng, quality=50):
    """Compressed once and decoded."""
    coded = cv2.imencode(".jpg", face[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


def resized(face, rng, side=48):
    how = cv2.INTER_AREA if face.shape[0] > side else cv2.INTER_CUBIC
    return cv2.resize(face, (side, side), interpolation=how)


def grey(face, rng):
    return np.repeat(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def mirrored(face, rng):
    return face[:, ::-1]


def clahe(face, rng):
    """Lightness equalised at clip 2.0, 8 x 8 tiles, as the face contract does."""
    lab = cv2.cvtColor(face, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def cropped(face, rng):
    """Up to 10 % of each side cut away, in any place; half of them stretched back to the old size."""
    height, width = face.shape[:2]
    high, wide = (round(side * (1 - rng.uniform(0, 0.1))) for side in (height, width))
    top, left = rng.integers(0, height - high + 1), rng.integers(0, width - wide + 1)
    cut = face[top : top + high, left : left + wide]
    return cv2.resize(cut, (width, height), interpolation=cv2.INTER_CUBIC) if rng.random() < 0.5 else cut


def rotated(face, rng):
    """Up to 10 degrees either way; half of them with black corners, half with replicated edges."""
    height, width = face.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-10, 10), 1)
    border = cv2.BORDER_CONSTANT if rng.random() < 0.5 else cv2.BORDER_REPLICATE
    return cv2.warpAffine(face, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def mirrored_and_cropped(face, rng):
    return cropped(mirrored(face, rng), rng)


ALTERED: dict[str, Change] = {
    "jpeg 50": jpeg,
    "resized to 48": resized,
    "grey": grey,
    "mirrored": mirrored,
    "CLAHE": clahe,
    "cropped": cropped,
    "rotated": rotated,
    "mirrored and cropped": mirrored_and_cropped,
}


def hash_faces(faces: Sequence[np.ndarray]) -> Hashes:
    """The hashes of faces in memory, uint8 RGB or gray (a gray face equals its RGB version)."""
    colour = [cv2.cvtColor(face, cv2.COLOR_GRAY2RGB) if face.ndim == 2 else face for face in faces]
    thumbs, pixels = np.stack([thumbnails(face) for face in faces]), np.stack([pixel_id(face) for face in colour])
    return Hashes(thumbs, pixels, np.array([face.size // 3 for face in colour]))


LEAST = dict.fromkeys(ALTERED, 0.995) | dict.fromkeys(("cropped", "rotated", "mirrored and cropped"), 0.95)
