"""Training augmentation of packed faces: one affine warp, table look-ups and a rectangle, in OpenCV and NumPy.

A pure function of the face and the random generator, so that a resumed run sees the same pictures.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.params import AugmentParams

CROP_TRIES = 10
HUE_BLOCK = 5000  # pixels: float temporaries this small are re-used by malloc; whole pictures are mapped anew each time
ERASED_AREA = (0.02, 0.2)  # share of the picture
ERASED_RATIO = (0.3, 1 / 0.3)  # Zhong et al. 2020


def augment(face: np.ndarray, rng: np.random.Generator, size: int, p: AugmentParams) -> np.ndarray:
    """One random view of ``face`` uint8 RGB [R, R, 3] as uint8 [size, size, 3].

    In order: rotation by up to ``p.rotation`` degrees either way about the centre (edges replicated), random resized
    crop and flip, all in one bilinear warp; brightness, contrast, saturation and hue in random order, each as
    torchvision's ColorJitter defines it; with probability ``p.erasing`` one rectangle of 2 to 20 % of the area set to
    the view's mean colour.  A grey face (three equal channels) stays grey.
    Raises DataError for an array of another kind.
    """
    if face.dtype != np.uint8 or face.ndim != 3 or face.shape[2] != 3 or 0 in face.shape:
        raise DataError(f"augment wants a packed face uint8 [R, R, 3], got {face.dtype} {face.shape}")
    grey = bool((face[..., 0] == face[..., 1]).all() and (face[..., 1] == face[..., 2]).all())
    view = np.ascontiguousarray(face[..., 0]) if grey else face
    matrix = _view_matrix(face.shape[0], face.shape[1], rng, size, p)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(view, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    view = _jitter(view, rng, p.jitter)
    if rng.random() < p.erasing:
        _erase(view, rng)
    return cv2.cvtColor(view, cv2.COLOR_GRAY2RGB) if grey else view


def crop_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[float, float, float, float]:
    """(top, left, height, width) in pixels of a random resized crop (Szegedy 2015).

    Area share uniform in ``scale``, aspect (width over height) log-uniform in ``ratio``.  When ten tries do not fit,
    the largest centred box whose aspect is within ``ratio``.
    """
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            return rng.uniform(0.0, height - h), rng.uniform(0.0, width - w), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, height * aspect), min(height, width / aspect)
    return (height - h) / 2, (width - w) / 2, h, w


def _view_matrix(height: int, width: int, rng: np.random.Generator, size: int, p: AugmentParams) -> np.ndarray:
    """2x3 matrix from pixels of the view to pixels of the face."""
    top, left, h, w = crop_box(height, width, rng, p.scale, p.ratio)
    mirrored = rng.random() < p.flip
    angle = math.radians(rng.uniform(-p.rotation, p.rotation))
    # A pixel's centre is half a pixel into it: x_face + 0.5 = left + (x_view + 0.5) * w / size, or from the right.
    sx, sy = w / size, h / size
    x0, y0 = left + 0.5 * sx - 0.5, top + 0.5 * sy - 0.5
    if mirrored:
        sx, x0 = -sx, left + w - 0.5 * sx - 0.5
    cos, sin = math.cos(angle), math.sin(angle)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    return np.array(
        [
            [cos * sx, -sin * sy, cos * (x0 - cx) - sin * (y0 - cy) + cx],
            [sin * sx, cos * sy, sin * (x0 - cx) + cos * (y0 - cy) + cy],
        ]
    )


def _jitter(view: np.ndarray, rng: np.random.Generator, strength: tuple[float, float, float, float]) -> np.ndarray:
    """Factors of the first three uniform in [max(0, 1 - v), 1 + v], the hue's turn in [-v, v] of a full circle."""
    factors = [rng.uniform(max(0.0, 1.0 - v), 1.0 + v) for v in strength[:3]]
    turn = rng.uniform(-strength[3], strength[3])
    for step in rng.permutation(4):
        if strength[step] == 0.0:
            continue
        if step == 0:
            view = brightness(view, factors[0])
        elif step == 1:
            view = contrast(view, factors[1])
        elif view.ndim == 3:  # a grey view has neither saturation nor hue
            view = saturation(view, factors[2]) if step == 2 else hue(view, turn)
    return view


def brightness(view: np.ndarray, factor: float) -> np.ndarray:
    """Every value times ``factor``."""
    return _blend_to_level(view, factor, 0.0)


def contrast(view: np.ndarray, factor: float) -> np.ndarray:
    """Every value drawn to (factor < 1) or pushed from the mean luma of the view."""
    luma = view if view.ndim == 2 else cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    return _blend_to_level(view, factor, cv2.mean(luma)[0])


def saturation(view: np.ndarray, factor: float) -> np.ndarray:
    """Every pixel of an RGB view drawn to (factor < 1) or pushed from its own luma (Rec. 601 weights)."""
    luma = np.array([0.299, 0.587, 0.114])
    return cv2.transform(view, factor * np.eye(3) + (1.0 - factor) * luma[None, :])


def hue(view: np.ndarray, turn: float) -> np.ndarray:
    """The hue of an RGB view turned by ``turn`` of a full circle in HSV."""
    out = np.empty_like(view)
    rows = max(1, HUE_BLOCK // view.shape[1])
    degrees = np.float32(360.0 * (turn % 1.0))  # OpenCV wraps hues above 360 correctly, those below 0 not
    for start in range(0, len(view), rows):
        block = slice(start, start + rows)
        hsv = cv2.cvtColor(view[block].astype(np.float32), cv2.COLOR_RGB2HSV)
        hsv[..., 0] += degrees
        cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dst=out[block])  # rounds; nothing is negative here
    return out


def _blend_to_level(view: np.ndarray, factor: float, level: float) -> np.ndarray:
    return cv2.addWeighted(view, factor, view, 0.0, (1.0 - factor) * level)  # rounds, then stays within 0..255


def _erase(view: np.ndarray, rng: np.random.Generator) -> None:
    height, width = view.shape[:2]
    area = height * width * rng.uniform(*ERASED_AREA)
    aspect = math.exp(rng.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    view[top : top + h, left : left + w] = np.rint(cv2.mean(view)[: 1 if view.ndim == 2 else 3])
