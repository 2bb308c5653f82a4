"""Training augmentation of packed faces: one crop resized, one colour matrix, a rectangle, in OpenCV and NumPy.

A pure function of the face and the random generator, so that a resumed run sees the same images.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_lib.errors import DataError
from fer_lib.params import AugmentParams

CROP_TRIES = 10
ERASED_AREA = (0.02, 0.2)  # share of the image
ERASED_RATIO = (0.3, 1 / 0.3)  # Zhong et al. 2020
STREAK = 0.06  # a motion blur's greatest length, share of the view's side
JPEG_QUALITY = (20, 80)
LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601

_TO_LUMA = np.tile(LUMA, (3, 1))
# A rotation of RGB about the grey axis (1, 1, 1) by an angle is along + cos(angle) across + sin(angle) quarter
# (Rodrigues).  It turns red by way of yellow to green.
_ALONG = np.full((3, 3), 1.0 / 3.0)
_ACROSS = np.eye(3) - _ALONG
_QUARTER = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)


def augment(face: np.ndarray, rng: np.random.Generator, size: int, p: AugmentParams) -> np.ndarray:
    """One random view of ``face`` uint8 [R, R, C] as uint8 [size, size, C], C = 3 (RGB) or 1 (grey, twice as fast).

    In order: random resized crop in whole pixels and flip, bilinear, with a rotation by up to ``p.rotation`` degrees
    either way about the face's centre (edges replicated); brightness, contrast, saturation and hue by
    :func:`colour_matrix`; the webcam set (:func:`degrade`); with probability ``p.erasing`` one rectangle of
    2 to 20 % of the area set to the view's mean colour (cut-out).
    Raises DataError for an array of another kind.
    """
    if face.dtype != np.uint8 or face.ndim != 3 or face.shape[2] not in (1, 3) or 0 in face.shape:
        raise DataError(f"augment wants a packed face uint8 [R, R, 3] or [R, R, 1], got {face.dtype} {face.shape}")
    height, width = face.shape[:2]
    box = crop_box(height, width, rng, p.scale, p.ratio)
    mirrored, angle, *jitter, erased = rng.random(7).tolist()
    view = _view(face, box, mirrored < p.flip, p.rotation * (2.0 * angle - 1.0), size)
    view = _jitter(view, jitter, p.jitter)
    view = degrade(view, rng, p)
    if erased < p.erasing:
        _erase(view, rng)
    return view if view.ndim == 3 else view[..., None]


def crop_box(
    height: int, width: int, rng: np.random.Generator, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in whole pixels of a random resized crop (Szegedy 2015).

    Area share uniform in ``scale``, aspect (width over height) log-uniform in ``ratio``, both before rounding.  When
    ten tries do not fit, the largest centred box whose aspect is within ``ratio``.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(CROP_TRIES):
        share, aspect, y, x = rng.random(4).tolist()
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        aspect = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, round(min(width, height * aspect))), max(1, round(min(height, width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def colour_matrix(
    brightness: float, contrast: float, saturation: float, turn: float, mean_luma: float
) -> tuple[np.ndarray, float]:
    """(float64 [3, 3], offset): the four colour changes of a view as one, ``x -> M x + offset`` in levels 0..255.

    In order, each as torchvision's ColorJitter defines it but for the hue: saturation, s x + (1 - s) luma of the pixel;
    hue; contrast, c x + (1 - c) mean luma of the view; brightness, b x.  So M = b c H S, offset = b (1 - c) mean luma.
    Values are rounded and cut to 0..255 once, at the end, where a chain of four steps does so after each; without that
    the last three commute up to the little that H changes luma, so a random order would add nothing.

    H turns colours by ``turn`` of a full circle about the grey axis of RGB, the hue of the HSI model, for the hue of
    HSV is not linear and takes three times as long as all of this.  HSV keeps a pixel's largest and smallest channel
    and moves the middle one, H keeps their mean.  At the default's extreme, 0.02, the two differ on skin tones by 4.1
    levels in the mean and 6.3 at most, on the whole RGB cube by 4.9 and 16.4 (a turn of 0.02 itself moves the cube's
    colours by 5.4 in the mean and 30 at most).
    """
    angle = 2.0 * math.pi * turn
    hue = _ALONG + math.cos(angle) * _ACROSS + math.sin(angle) * _QUARTER
    toned = saturation * np.eye(3) + (1.0 - saturation) * _TO_LUMA
    return brightness * contrast * (hue @ toned), brightness * (1.0 - contrast) * mean_luma


def _view(face: np.ndarray, box: tuple[int, int, int, int], mirrored: bool, degrees: float, size: int) -> np.ndarray:
    """uint8 [size, size, 3], or [size, size] of a grey face."""
    top, left, h, w = box
    if degrees == 0.0:
        view = cv2.resize(face[top : top + h, left : left + w], (size, size), interpolation=cv2.INTER_LINEAR)
        return cv2.flip(view, 1) if mirrored else view
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = _view_matrix(face.shape[0], face.shape[1], box, mirrored, math.radians(degrees), size)
    return cv2.warpAffine(face, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _view_matrix(
    height: int, width: int, box: tuple[int, int, int, int], mirrored: bool, angle: float, size: int
) -> np.ndarray:
    """2x3 matrix from pixels of the view to pixels of the face."""
    top, left, h, w = box
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


def _jitter(view: np.ndarray, u: list[float], strength: tuple[float, float, float, float]) -> np.ndarray:
    """Factors of the first three uniform in [max(0, 1 - v), 1 + v], the hue's turn in [-v, v] of a full circle."""
    if not any(strength):
        return view
    lows = [max(0.0, 1.0 - v) for v in strength[:3]]
    factors = [low + (1.0 + v - low) * x for low, v, x in zip(lows, strength, u, strict=False)]
    luma = view if view.ndim == 2 else cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
    mean_luma = cv2.sumElems(luma)[0] / luma.size
    matrix, offset = colour_matrix(*factors, strength[3] * (2.0 * u[3] - 1.0), mean_luma)
    if view.ndim == 2:  # grey has neither saturation nor hue
        return cv2.addWeighted(view, factors[0] * factors[1], view, 0.0, offset)
    both = np.empty((3, 4))
    both[:, :3], both[:, 3] = matrix, offset
    return cv2.transform(view, both)


def _erase(view: np.ndarray, rng: np.random.Generator) -> None:
    height, width = view.shape[:2]
    area = height * width * rng.uniform(*ERASED_AREA)
    aspect = math.exp(rng.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    view[top : top + h, left : left + w] = np.rint(cv2.mean(view)[: 1 if view.ndim == 2 else 3])


def degrade(view: np.ndarray, rng: np.random.Generator, p: AugmentParams) -> np.ndarray:
    """What a cheap camera does to a face, uint8 [S, S, 3] RGB or [S, S] grey; by default all of it is off.

    In the order in which a camera does it: no colour, movement while the shutter is open, the tone curve, sensor noise,
    JPEG.  Without any effect in ``p`` it is ``view`` itself, and no random number is drawn.
    """
    if p.grey and view.ndim == 3 and rng.random() < p.grey:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if p.motion_blur and rng.random() < p.motion_blur:
        view = motion_blur(view, STREAK * len(view) * rng.random(), math.pi * rng.random())
    if p.gamma:
        limit = math.log1p(p.gamma)
        view = gamma(view, math.exp(rng.uniform(-limit, limit)))
    if p.noise:
        view = noise(view, rng, p.noise * rng.random())
    if p.jpeg and rng.random() < p.jpeg:
        view = jpeg(view, int(rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)))
    return view


def motion_blur(view: np.ndarray, length: float, angle: float) -> np.ndarray:
    """The mean along a straight streak of ``length`` pixels at ``angle`` (radians), edges replicated."""
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * side)
    columns, rows = side // 2 + steps * math.cos(angle), side // 2 + steps * math.sin(angle)
    np.add.at(kernel, (np.rint(rows).astype(int), np.rint(columns).astype(int)), 1.0)
    return cv2.filter2D(view, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def gamma(view: np.ndarray, exponent: float) -> np.ndarray:
    """255 (x / 255) ^ exponent."""
    return cv2.LUT(view, np.rint(255.0 * (np.arange(256) / 255.0) ** exponent).astype(np.uint8))


def noise(view: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Independent normal noise of standard deviation ``sigma`` levels, cut to 0..255."""
    shaken = view + np.float32(sigma) * rng.standard_normal(view.shape, dtype=np.float32)
    return np.clip(np.rint(shaken), 0, 255).astype(np.uint8)


def jpeg(view: np.ndarray, quality: int) -> np.ndarray:
    """The view after JPEG at ``quality`` (1..100)."""
    colour = view.ndim == 3
    data = cv2.imencode(".jpg", view[..., ::-1] if colour else view, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    back = cv2.imdecode(data, cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    return cv2.cvtColor(back, cv2.COLOR_BGR2RGB) if colour else back
